"""A graph run by JAX: what artifacts are checked against, what accuracy is measured with, what fine-tuning trains."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from tvconv_jax.export.graph import Graph, Node
from tvconv_jax.models.shufflenetv2 import shuffle
from tvconv_jax.ops.batch_norm import activate
from tvconv_jax.ops.conv import conv
from tvconv_jax.ops.pointwise import pointwise
from tvconv_jax.ops.tv_conv import depthwise_conv, tv_conv

Arrays = list[dict[str, jax.Array]]

# Of functions that freeze, fold and compare: by default GPUs and TPUs multiply in TF32 or bfloat16, and answers differ
# by more than an artifact's may.
in_full_float32 = jax.default_matmul_precision("highest")


def arrays_of(graph: Graph) -> Arrays:
    """The arrays of every node, as a tree that can be trained."""
    return [{name: jnp.asarray(array) for name, array in node.arrays.items()} for node in graph.nodes]


def with_arrays(graph: Graph, arrays: Arrays) -> Graph:
    """The graph with other arrays."""
    every = iter(arrays)
    return graph.map(lambda node: node._replace(arrays={k: np.asarray(v) for k, v in next(every).items()}))


def make_run(graph: Graph) -> Callable[[Arrays, jax.Array], jax.Array]:
    """``(arrays, images [n, s, s, 3] in [-1, 1]) -> [n, d]`` or, for maps, ``[n, h, w, classes]``."""

    return lambda arrays, images: run_all(graph, arrays, images)[-1]


def run_all(graph: Graph, arrays: Arrays, images: jax.Array) -> list[jax.Array]:
    """What every node answers; the first is the picture."""
    values = [images]
    for node, own in zip(graph.nodes, arrays, strict=True):
        values.append(_OPERATIONS[node.kind](node, own, *(values[i] for i in node.inputs)))
    return values


def _conv(node: Node, arrays: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    kernel, fields = arrays["kernel"], node.fields
    steps = {"strides": fields["strides"], "dilation": fields["dilation"], "padding": fields["padding"]}
    if fields["groups"] > 1:
        y = depthwise_conv(x, kernel.reshape(-1, kernel.shape[3]), **steps)
    elif len(kernel) == 1:
        margin = [(fields["padding"],) * 2] * 2
        y = pointwise(jnp.pad(x, ((0, 0), *margin, (0, 0))), kernel[0, 0])
    else:
        keeps_grid = fields["strides"] == 1 and 2 * fields["padding"] == fields["dilation"] * (len(kernel) - 1)
        y = conv(x, kernel, **{**steps, "padding": None if keeps_grid else fields["padding"]})
    return _finished(node, arrays, y)


def _finished(node: Node, arrays: dict[str, jax.Array], y: jax.Array) -> jax.Array:
    bias = arrays["bias"]
    return activate(y + bias.reshape((1,) * (y.ndim - bias.ndim) + bias.shape), node.fields["activation"])


def _per_pixel(node: Node, arrays: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return _finished(node, arrays, tv_conv(x, arrays["weights"], strides=node.fields["strides"]))


def _low_rank(node: Node, arrays: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    kernels, gains, strides = arrays["kernels"], arrays["gains"], node.fields["strides"]
    terms = [depthwise_conv(x, kernel.reshape(-1, x.shape[3]), strides=strides) for kernel in kernels]
    plain = len(kernels) - len(gains)
    terms[plain:] = [term * gain[None] for term, gain in zip(terms[plain:], gains, strict=True)]
    return _finished(node, arrays, functools.reduce(jnp.add, terms))


def _affine(node: Node, arrays: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return _finished(node, arrays, x * arrays["factor"][None, None, None])


def _module(node: Node, arrays: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return node.fields["module"].apply(unflatten_dict(arrays, sep="/"), x)


def _max_pool(_: Node, arrays: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    margin = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), margin)


def _mean(node: Node, arrays: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jnp.mean(x, axis=(1, 2), keepdims=node.fields["keep_grid"])


def _resize(node: Node, arrays: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jax.image.resize(x, (len(x), *node.fields["grid"], x.shape[3]), "bilinear", antialias=False)


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "conv": _conv,
    "per_pixel": _per_pixel,
    "low_rank": _low_rank,
    "linear": lambda _, arrays, x: x @ arrays["kernel"] + arrays["bias"][None],
    "affine": _affine,
    "module": _module,
    "add": lambda _, arrays, x, y: x + y,
    "concat": lambda _, arrays, *xs: jnp.concatenate(xs, axis=-1),
    "channels": lambda node, arrays, x: x[..., node.fields["begin"] : node.fields["end"]],
    "shuffle": lambda _, arrays, x: shuffle(x),
    "max_pool": _max_pool,
    "mean": _mean,
    "resize": _resize,
}
