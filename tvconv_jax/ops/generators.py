"""Many weight generators at a time, for accelerators: one after the other they are hundreds of small kernels."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from tvconv_jax.ops.generator import EPSILON, GeneratorPadding, hidden_maps, map_conv
from tvconv_jax.ops.precision import upcast
from tvconv_jax.ops.sharding import match_vma


class Generator(NamedTuple):
    """One call of :func:`.generate`."""

    params: Mapping[str, Any]
    affinity: jax.Array
    padding: GeneratorPadding


def generate_all(generators: Sequence[Generator]) -> list[jax.Array]:
    """Return :func:`.generate` of each, in order, up to float32 rounding.

    Generators of one grid share their hidden blocks, whatever their features: their parameters are stacked, and every
    operation is one kernel for all of them.
    """

    def blocks(params: Mapping[str, Any], affinity: jax.Array, padding: GeneratorPadding) -> jax.Array:
        return hidden_maps(params, affinity, padding, norm_relu)

    hidden = [{name: block for name, block in g.params.items() if name != "out"} for g in generators]
    maps = _vmap_equal(blocks, [(p, g.affinity, g.padding) for p, g in zip(hidden, generators, strict=True)])
    kernels = [g.params["out"]["kernel"] for g in generators]
    return _vmap_equal(map_conv, [(k, m, g.padding) for k, m, g in zip(kernels, maps, generators, strict=True)])


def _vmap_equal(function: Callable[..., jax.Array], calls: list[tuple]) -> list[jax.Array]:
    """Return ``function(*call)`` of each, those with arrays of the same shapes and dtypes stacked and mapped."""
    groups: dict[Any, list[int]] = {}
    for index, (*trees, padding) in enumerate(calls):
        leaves, structure = jax.tree.flatten(trees)
        key = (structure, padding, *((leaf.shape, leaf.dtype) for leaf in leaves))
        groups.setdefault(key, []).append(index)
    outputs = {}
    for (_, padding, *_), members in groups.items():
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(calls[index][:-1] for index in members))
        mapped = jax.vmap(functools.partial(function, padding=padding))(*stacked)
        outputs |= dict(zip(members, mapped, strict=True))
    return [outputs[index] for index in range(len(calls))]


@jax.custom_vjp
def norm_relu(maps: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Return the layer norm of ``[h, w, c]`` over all axes, with a scale and a bias per element, and ReLU.

    Mean and variance come from one pass, both sums of the gradient from another.
    """
    return _forward(maps, scale, bias)[0]


def _forward(maps: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, tuple]:
    # Sums of differences to one of the maps' own values: squares of the values would cancel.
    values = maps - maps[:1, :1, :1]
    mean, square = _means(values, jnp.square(values))
    inverse = lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0) + EPSILON)
    mean = mean + maps[0, 0, 0]
    y = jax.nn.relu((maps - mean) * inverse * upcast(scale) + upcast(bias))
    return y, (maps, mean, inverse, scale, bias)


def _backward(residuals: tuple, cotangent: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    maps, mean, inverse, scale, bias = residuals
    normalized = (maps - mean) * inverse
    grad = jnp.where(normalized * upcast(scale) + upcast(bias) > 0, cotangent, 0)
    scaled = grad * upcast(scale)
    offset, slope = _means(scaled, scaled * normalized)
    grads = inverse * (scaled - offset - normalized * slope), grad * normalized, grad
    primals = (maps, scale, bias)
    return match_vma(tuple(g.astype(p.dtype) for g, p in zip(grads, primals, strict=True)), primals)


norm_relu.defvjp(_forward, _backward)


def _means(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the means of two arrays, as one reduction."""
    zeros = (jnp.zeros((), a.dtype),) * 2
    sums = lax.reduce((a, b), zeros, _add, tuple(range(a.ndim)))
    return sums[0] / a.size, sums[1] / a.size


def _add(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    return a[0] + b[0], a[1] + b[1]
