"""Many weight generators at a time, for accelerators: one after the other they are hundreds of small kernels."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from tvconv_jax.ops.generator import EPSILON, GeneratorPadding, generate, hidden_maps, map_conv
from tvconv_jax.ops.precision import upcast
from tvconv_jax.ops.sharding import match_vma


class Generator(NamedTuple):
    """One call of :func:`.generate`."""

    params: Mapping[str, Any]
    affinity: jax.Array
    padding: GeneratorPadding


def generate_all(generators: Sequence[Generator]) -> list[jax.Array]:
    """Return :func:`.generate` of each, in order; the values are equal up to float32 rounding on every platform.

    A CPU runs one after the other. Elsewhere those of one grid share their hidden blocks, whatever their features:
    their parameters are stacked, and every operation is one kernel for all of them.
    """
    paddings = [generator.padding for generator in generators]
    arrays = [(dict(generator.params), generator.affinity) for generator in generators]
    together = functools.partial(_together, paddings=paddings)
    return lax.platform_dependent(arrays, cpu=functools.partial(_one_by_one, paddings=paddings), default=together)


def _one_by_one(arrays: list[tuple], paddings: list[GeneratorPadding]) -> list[jax.Array]:
    return [generate(*layer, padding) for layer, padding in zip(arrays, paddings, strict=True)]


def _together(arrays: list[tuple], paddings: list[GeneratorPadding]) -> list[jax.Array]:
    params, affinities = zip(*arrays, strict=True)
    blocks = [{name: block for name, block in layer.items() if name != "out"} for layer in params]
    inputs = list(zip(blocks, affinities, paddings, strict=True))
    maps = _vmap_equal(lambda blocks, maps, padding: hidden_maps(blocks, maps, padding, norm_relu), inputs)
    kernels = [layer["out"]["kernel"] for layer in params]
    return _vmap_equal(map_conv, list(zip(kernels, maps, paddings, strict=True)))


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
    sums = lax.reduce((a, b), zeros, lambda x, y: (x[0] + y[0], x[1] + y[1]), tuple(range(a.ndim)))
    return sums[0] / a.size, sums[1] / a.size
