"""Parts of several operators: pooling, initializers, numbers of heads."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax.nn.boxes import reboxed, unboxed
from tvconv_jax.nn.layers import Shape, SpatialOperator
from tvconv_jax.ops.pointwise import pointwise
from tvconv_jax.ops.precision import upcast

# The reference's start of every linear layer.
dense_init = nn.initializers.normal(0.01)

# A linear layer per pixel: nn.Dense with a gradient that needs less memory traffic.
PixelDense = functools.partial(nn.Dense, dot_general=lambda x, kernel, *_, **__: pointwise(x, kernel))


def pooled(x: jax.Array) -> jax.Array:
    """Average over the grid, ``[n, h, w, c]`` -> ``[n, c]``, in float32 or better."""
    return jnp.mean(upcast(x), axis=(1, 2))


def average_pool(x: jax.Array, strides: int) -> jax.Array:
    """Average ``strides x strides`` pixels, fewer at an odd grid's end: ``[n, h, w, c]`` -> ``[n, ho, wo, c]``."""
    if strides == 1:
        return x
    ends = [(0, -size % strides) for size in x.shape[1:3]]
    window = (strides, strides)
    return nn.avg_pool(upcast(x), window, strides=window, padding=ends, count_include_pad=False).astype(x.dtype)


def stacked(init: nn.initializers.Initializer) -> nn.initializers.Initializer:
    """Return an initializer that draws every entry of the first axis as a separate parameter."""

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Any:
        drawn = [init(key, shape[1:], dtype) for key in jax.random.split(key, shape[0])]
        return reboxed(drawn[0], jnp.stack(unboxed(drawn)), (None, *range(len(shape) - 1)))

    return draw


def pool_cost(operator: SpatialOperator, x: Shape) -> int:
    """Count the average that replaces strides."""
    return math.prod(x) if operator.strides > 1 else 0


def largest_divisor(number: int, at_most: int) -> int:
    """Return the largest divisor of ``number`` that is at most ``at_most``; 1 if there is none."""
    return max((d for d in range(1, min(number, at_most) + 1) if number % d == 0), default=1)


def head_count(channels: int, at_most: int) -> int:
    """Return a number of heads that split the channels evenly, at least two channels each."""
    return largest_divisor(channels, min(at_most, max(1, channels // 2)))
