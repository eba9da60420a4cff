"""Parts of several operators: mixtures of experts, attention over them, pooling, costs."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax.nn.boxes import reboxed, unboxed
from tvconv_jax.nn.checks import Checked
from tvconv_jax.nn.layers import Shape, SpatialOperator, no_cost
from tvconv_jax.ops.dynamic_conv import dynamic_conv
from tvconv_jax.ops.pointwise import pointwise
from tvconv_jax.ops.precision import upcast

Initializer = nn.initializers.Initializer

# The reference's start of every linear layer.
dense_init = nn.initializers.normal(0.01)

# Parameters of MixedDepthwise named "experts" that scale its output, see ``scalable`` of Checked.
EXPERTS = ("experts/kernel", "experts/bias")

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


def stacked(init: Initializer) -> Initializer:
    """Return an initializer that draws every entry of the first axis as a separate parameter."""

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Any:
        drawn = [init(key, shape[1:], dtype) for key in jax.random.split(key, shape[0])]
        return reboxed(drawn[0], jnp.stack(unboxed(drawn)), (None, *range(len(shape) - 1)))

    return draw


def mixed(routes: jax.Array, experts: jax.Array) -> jax.Array:
    """Mix experts per image, ``[n, e]``, ``[e, ...]`` -> ``[n, ...]``, in the dtype of ``routes``."""
    return jnp.tensordot(routes, experts.astype(routes.dtype), axes=1)


@nn.nowrap
def mixed_cost(operator: Any, x: Shape, y: Shape) -> int:
    """Count the mixing of every expert's kernel and bias into each image's own, then the depthwise convolution."""
    taps = operator.kernel_size**2 + operator.use_bias
    return x[0] * operator.experts * taps * x[-1] + math.prod(y) * taps


def pool_cost(operator: SpatialOperator, x: Shape) -> int:
    """Count the average that replaces strides."""
    return math.prod(x) if operator.strides > 1 else 0


class KernelAttention(Checked):
    """Each image's shares of the experts, ``[n, h, w, c]`` -> ``[n, experts]``, positive and of sum one."""

    experts: int  #: Kernels to share among.
    reduction: int  #: Channels of the input to one of the hidden layer.
    temperature: float  #: Divides the logits; the higher, the more equal the shares.

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        context = pooled(x)
        squeeze = nn.Dense(
            max(1, x.shape[3] // self.reduction), kernel_init=dense_init, dtype=context.dtype, name="squeeze"
        )
        logits = nn.Dense(self.experts, kernel_init=dense_init, dtype=context.dtype, name="logits")
        return nn.softmax(logits(nn.relu(squeeze(context))) / self.temperature)

    def cost(self, x: Shape, y: Shape) -> int:
        """Count average, ReLU and softmax."""
        return math.prod(x) + x[0] * max(1, x[-1] // self.reduction) + 2 * math.prod(y)


class MixedDepthwise(Checked):
    """Depthwise convolution with each image's mix of kernels, and of biases, mixed before a single convolution."""

    kernel_size: int
    strides: int
    use_bias: bool
    kernel_init: Initializer

    cost = no_cost

    @nn.compact
    def __call__(self, x: jax.Array, routes: jax.Array) -> jax.Array:
        """Convolve ``[n, h, w, c]`` with kernels mixed by the shares ``[n, e]`` -> ``[n, ho, wo, c]``."""
        experts, channels = routes.shape[1], x.shape[3]
        shape = (experts, self.kernel_size, self.kernel_size, 1, channels)
        kernels = self.param("kernel", stacked(self.kernel_init), shape, jnp.float32)
        weights = mixed(routes, kernels.reshape(experts, 1, 1, -1, channels))
        y = dynamic_conv(x, weights, strides=self.strides)
        if self.use_bias:
            bias = mixed(routes, self.param("bias", nn.initializers.zeros, (experts, channels), jnp.float32))
            y = y + bias.astype(x.dtype)[:, None, None]
        return y


def largest_divisor(number: int, at_most: int) -> int:
    """Return the largest divisor of ``number`` that is at most ``at_most``; 1 if there is none."""
    return max((d for d in range(1, min(number, at_most) + 1) if number % d == 0), default=1)


def head_count(channels: int, at_most: int) -> int:
    """Return a number of heads that split the channels evenly, at least two channels each."""
    return largest_divisor(channels, min(at_most, max(1, channels // 2)))
