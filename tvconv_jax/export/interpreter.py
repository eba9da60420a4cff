"""Graphs in JAX: the reference for artifacts, and what accuracy is measured with and fine-tuning trains."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from tvconv_jax.export.graph import Graph, Node
from tvconv_jax.ops.batch_norm import activate
from tvconv_jax.ops.conv import conv
from tvconv_jax.ops.pointwise import pointwise
from tvconv_jax.ops.tv_conv import depthwise_conv, tv_conv

Arrays = list[dict[str, jax.Array]]

# A decorator of functions that freeze, fold and compare. By default GPUs and TPUs multiply in TF32 or bfloat16, and
# outputs differ by more than an artifact's may.
in_full_float32 = jax.default_matmul_precision("highest")


def arrays_of(graph: Graph) -> Arrays:
    """Return the arrays of every node, as a tree that can be trained."""
    return [{name: jnp.asarray(array) for name, array in node.arrays.items()} for node in graph.nodes]


def with_arrays(graph: Graph, arrays: Arrays) -> Graph:
    """Return the graph with other arrays."""
    remaining = iter(arrays)
    return graph.map(lambda node: node._replace(arrays={k: np.asarray(v) for k, v in next(remaining).items()}))


def make_run(graph: Graph) -> Callable[[Arrays, jax.Array], jax.Array]:
    """Return ``(arrays, images [n, h, w, 3] in [-1, 1]) -> [n, d]`` or, for maps, ``[n, h, w, classes]``."""
    return lambda arrays, images: run_all(graph, arrays, images)[-1]


def run_all(graph: Graph, arrays: Arrays, images: jax.Array) -> list[jax.Array]:
    """Return the images and the outputs of every node."""
    values = [images]
    for node, node_arrays in zip(graph.nodes, arrays, strict=True):
        values.append(_OPERATIONS[node.kind](node, node_arrays, *(values[i] for i in node.inputs)))
    return values


def unit(outputs: jax.Array) -> jax.Array:
    """Return outputs as rows of unit length, one for each image."""
    rows = outputs.reshape(len(outputs), -1)
    return rows / jnp.linalg.norm(rows, axis=1, keepdims=True)


def _conv(node: Node, arrays: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    kernel, fields = arrays["kernel"], node.fields
    steps = {"strides": fields["strides"], "dilation": fields["dilation"], "padding": fields["padding"]}
    if fields["groups"] > 1:
        y = depthwise_conv(x, kernel.reshape(-1, kernel.shape[3]), **steps)
    elif len(kernel) == 1:
        padding = [(fields["padding"],) * 2] * 2
        y = pointwise(jnp.pad(x, ((0, 0), *padding, (0, 0))), kernel[0, 0])
    else:
        keeps_grid = fields["strides"] == 1 and 2 * fields["padding"] == fields["dilation"] * (len(kernel) - 1)
        y = conv(x, kernel, **{**steps, "padding": None if keeps_grid else fields["padding"]})
    return _with_bias(node, arrays, y)


def _with_bias(node: Node, arrays: dict[str, jax.Array], y: jax.Array) -> jax.Array:
    bias = arrays["bias"]
    return activate(y + bias.reshape((1,) * (y.ndim - bias.ndim) + bias.shape), node.fields["activation"])


def _low_rank(node: Node, arrays: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    kernels, gains, strides = arrays["kernels"], arrays["gains"], node.fields["strides"]
    terms = [depthwise_conv(x, kernel.reshape(-1, x.shape[3]), strides=strides) for kernel in kernels]
    ungained = len(kernels) - len(gains)
    terms[ungained:] = [term * gain[None] for term, gain in zip(terms[ungained:], gains, strict=True)]
    return _with_bias(node, arrays, functools.reduce(jnp.add, terms))


def _max_pool(_: Node, arrays: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)


def _resize(node: Node, arrays: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jax.image.resize(x, (len(x), *node.fields["grid"], x.shape[3]), "bilinear", antialias=False)


def _shuffle(_: Node, arrays: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:3], 2, x.shape[3] // 2).swapaxes(-1, -2).reshape(x.shape)


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "conv": _conv,
    "per_pixel": lambda node, arrays, x: _with_bias(
        node, arrays, tv_conv(x, arrays["weights"], strides=node.fields["strides"])
    ),
    "low_rank": _low_rank,
    "linear": lambda _, arrays, x: x @ arrays["kernel"] + arrays["bias"][None],
    "affine": lambda node, arrays, x: _with_bias(node, arrays, x * arrays["factor"][None, None, None]),
    "module": lambda node, arrays, x: node.fields["module"].apply(unflatten_dict(arrays, sep="/"), x),
    "add": lambda _, arrays, x, y: x + y,
    "concat": lambda _, arrays, *xs: jnp.concatenate(xs, axis=-1),
    "channels": lambda node, arrays, x: x[..., node.fields["begin"] : node.fields["end"]],
    "shuffle": _shuffle,
    "max_pool": _max_pool,
    "mean": lambda node, arrays, x: jnp.mean(x, axis=(1, 2), keepdims=node.fields["keep_grid"]),
    "global_depthwise": lambda _, arrays, x: jnp.sum(x * arrays["weights"][None, :, :, 0], axis=(1, 2)),
    "flatten": lambda _, arrays, x: x.reshape(len(x), -1),
    "resize": _resize,
}
