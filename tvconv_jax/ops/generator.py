"""The weight generator as pure functions of its parameters: ``W = B(A)``.

Source: Chen et al., CVPR 2022, section 3.2, and github.com/JierunChen/TVConv (609d4bf).

Axes: ``h w`` grid of the kernels, ``a`` affinity maps, ``c`` channels.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tvconv_jax.ops.precision import upcast
from tvconv_jax.ops.unfold import unfold

GeneratorPadding = Literal["zeros", "edge"]

# A generator's padding is part of its name in the parameters, so weights of one never pass for the other's.
GENERATOR_NAMES = {"zeros": "generator", "edge": "edge_generator"}
PADDINGS: dict[str, GeneratorPadding] = {"generator": "zeros", "edge_generator": "edge"}

EPSILON = 1e-5  # added to the variance of every norm


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
    maps = upcast(affinity)
    for i in range(len(params) - 1):
        maps = _block(params[f"block_{i}"], maps, padding)
    return _map_conv(params["out"]["kernel"], maps, padding)


def _block(params: Mapping[str, Any], maps: jax.Array, padding: GeneratorPadding) -> jax.Array:
    """3x3 convolution, layer norm over the whole map with a scale and a bias per element, ReLU."""
    maps = _map_conv(params["conv"]["kernel"], maps, padding)
    # One mean and one variance for the whole (h, w, c) block, as torch.nn.LayerNorm([c, h, w]) takes them.
    maps = maps - jnp.mean(maps)
    maps = maps * jax.lax.rsqrt(jnp.mean(jnp.square(maps)) + EPSILON)
    return jax.nn.relu(maps * upcast(params["scale"]) + upcast(params["bias"]))


def _map_conv(kernel: jax.Array, maps: jax.Array, padding: GeneratorPadding) -> jax.Array:
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
