"""The weight generator as pure functions of its parameters: ``W = B(A)``.

Source: Chen et al., CVPR 2022, section 3.2, and github.com/JierunChen/TVConv (609d4bf).

Axes: ``h w`` grid of the kernels, ``a`` affinity maps, ``c`` channels.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from tvconv_jax.ops.platform import keep_order, on_gpu
from tvconv_jax.ops.precision import upcast
from tvconv_jax.ops.sharding import match_vma
from tvconv_jax.ops.unfold import unfold

GeneratorPadding = Literal["zeros", "edge"]
Norm = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # (maps, scale, bias) -> maps

# A generator's padding is part of its name in the parameters, so weights of one never pass for the other's.
GENERATOR_NAMES = {"zeros": "generator", "edge": "edge_generator"}
PADDINGS: dict[str, GeneratorPadding] = {"generator": "zeros", "edge_generator": "edge"}

EPSILON = 1e-5  # added to the variance of every norm
LARGE = 24 * 24  # positions of a map that a GPU convolves without its patches


def generate_values(params: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Return the values ``[h, w, *features]`` of all generators of a layer by name, as ``weights`` and ``bias``.

    Args:
        params: ``"affinity"``, and the parameters of generators, named ``weights_generator``, ``bias_generator`` (zero
            padding), ``weights_edge_generator`` and so on.
    """
    names = [name.partition("_") for name in params if name.partition("_")[2] in PADDINGS]
    return {name: generate(params[f"{name}_{end}"], params["affinity"], PADDINGS[end]) for name, _, end in names}


@jax.named_scope("generator")  # so that a plan of a compiled step can tell it from the operator
def generate(params: Mapping[str, Any], affinity: jax.Array, padding: GeneratorPadding) -> jax.Array:
    """Transform affinity maps ``[h, w, a]`` -> ``[h, w, *features]``, float32 or float64.

    Args:
        params: ``{"block_0": {"conv": {"kernel"}, "scale", "bias"}, ..., "out": {"kernel"}}``. Kernels are
            ``[3, 3, inputs, *features]``; scales and biases are ``[h, w, hidden_channels]``.
        affinity: Affinity maps.
        padding: Values outside the maps for every 3x3 convolution.
    """
    return map_conv(params["out"]["kernel"], hidden_maps(params, affinity, padding), padding)


def hidden_maps(
    params: Mapping[str, Any],
    affinity: jax.Array,
    padding: GeneratorPadding,
    norm: Norm | None = None,
    conv: Callable[..., jax.Array] | None = None,
) -> jax.Array:
    """Return the maps ``[h, w, hidden_channels]`` after all blocks.

    ``norm`` replaces :func:`_norm_relu`, and ``conv`` :func:`.map_conv`.
    """
    maps = upcast(affinity)
    for i in range(len(params.keys() - {"out"})):
        block = params[f"block_{i}"]
        maps = (conv or map_conv)(block["conv"]["kernel"], maps, padding)
        maps = (norm or _norm_relu)(maps, block["scale"], block["bias"])
    return maps


def _norm_relu(maps: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Layer norm over the whole map with a scale and a bias per element, ReLU."""
    # One mean and one variance for the whole (h, w, c) block, as torch.nn.LayerNorm([c, h, w]) takes them.
    maps = maps - jnp.mean(maps)
    maps = maps * jax.lax.rsqrt(jnp.mean(jnp.square(maps)) + EPSILON)
    return jax.nn.relu(maps * upcast(scale) + upcast(bias))


def map_conv(kernel: jax.Array, maps: jax.Array, padding: GeneratorPadding) -> jax.Array:
    """3x3 convolution over one map, as one matrix product over :func:`tvconv_jax.ops.unfold.unfold`.

    A CPU runs it, and above all its gradient, faster than ``lax.conv``: with a batch of one, the nine copies of the
    map are small, and everything else is two matrix products.
    """
    height, width, channels = maps.shape
    features = kernel.shape[3:]
    padded = jnp.pad(maps, ((1, 1), (1, 1), (0, 0)), mode="constant" if padding == "zeros" else "edge")
    patches = unfold(padded, (height, width))
    product = patches @ upcast(kernel).reshape(9 * channels, math.prod(features))
    return product.reshape(height, width, *features)


def _conv_together(kernel: jax.Array, maps: jax.Array, padding: GeneratorPadding) -> jax.Array:
    """Return :func:`.map_conv`; a GPU convolves large maps without their patches, nine times the size of a map."""
    by_patches, by_library = (functools.partial(function, padding=padding) for function in (map_conv, _library_conv))
    if maps.shape[0] * maps.shape[1] < LARGE:
        return by_patches(kernel, maps)
    return on_gpu(by_library, by_patches, kernel, maps)


def _library_conv(kernel: jax.Array, maps: jax.Array, padding: GeneratorPadding) -> jax.Array:
    sides = ((1, 1), (1, 1))
    if padding == "edge":
        maps, sides = jnp.pad(maps, (*sides, (0, 0)), mode="edge"), "VALID"
    flat = upcast(kernel).reshape(*kernel.shape[:3], -1)
    y = lax.conv_general_dilated(maps[None], flat, (1, 1), sides, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y.reshape(*y.shape[1:3], *kernel.shape[3:])


class Generator(NamedTuple):
    """One call of :func:`.generate`."""

    params: Mapping[str, Any]
    affinity: jax.Array
    padding: GeneratorPadding


def generate_all(generators: Sequence[Generator]) -> list[jax.Array]:
    """Return :func:`.generate` of each, in order, up to float32 rounding.

    One after the other they are hundreds of small kernels on an accelerator. Generators of one grid share their hidden
    blocks, whatever their features: their parameters are stacked, and every operation is one kernel for all of them.
    """

    def blocks(params: Mapping[str, Any], affinity: jax.Array, padding: GeneratorPadding) -> jax.Array:
        return hidden_maps(params, affinity, padding, norm_relu, _conv_together)

    hidden = [{name: block for name, block in g.params.items() if name != "out"} for g in generators]
    maps = _vmap_equal(blocks, [(p, g.affinity, g.padding) for p, g in zip(hidden, generators, strict=True)])
    kernels = [g.params["out"]["kernel"] for g in generators]
    return _vmap_equal(_conv_together, [(k, m, g.padding) for k, m, g in zip(kernels, maps, generators, strict=True)])


def _vmap_equal(function: Callable[..., jax.Array], calls: list[tuple]) -> list[jax.Array]:
    """Return ``function(*call)`` of each, those with arrays of the same shapes and dtypes stacked and mapped."""
    groups: dict[Any, list[int]] = {}
    for index, (*trees, padding) in enumerate(calls):
        leaves, structure = jax.tree.flatten(trees)
        key = (structure, padding, *((leaf.shape, leaf.dtype) for leaf in leaves))
        groups.setdefault(key, []).append(index)
    outputs = {}
    for (_, padding, *_), members in groups.items():
        stacked = jax.tree.map(lambda *leaves: _row_major(jnp.stack(leaves)), *(calls[index][:-1] for index in members))
        mapped = jax.vmap(functools.partial(function, padding=padding))(*stacked)
        # Or the nine taps of a layer would be cut out of the stack in a kernel each.
        outputs |= {i: lax.optimization_barrier(_row_major(y)) for i, y in zip(members, mapped, strict=True)}
    return [outputs[index] for index in range(len(calls))]


def _row_major(x: jax.Array) -> jax.Array:
    return on_gpu(keep_order, lambda x: x, x)


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
    # An optimizer that computed them where it reads them would have to copy the parameters that it overwrites.
    grad_params = lax.optimization_barrier((grad * normalized, grad))
    grads = inverse * (scaled - offset - normalized * slope), *grad_params
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
