"""What the operators share: kernels that differ from image to image, mixing of experts, pooling, checks."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from tvconv_jax.nn.boxes import reboxed, unboxed
from tvconv_jax.nn.checks import Checked
from tvconv_jax.ops.fused import pointwise, upcast
from tvconv_jax.ops.sharding import match_vma
from tvconv_jax.ops.tv_conv import input_gradient, output_grid

Initializer = nn.initializers.Initializer

# What every linear layer of the reference starts from.
dense_init = nn.initializers.normal(0.01)


def taps(x: jax.Array, kernel_size: int, *, strides: int = 1) -> list[jax.Array]:
    """What each tap of a window sees: ``k * k`` views ``[n, ho, wo, ...]`` of ``[n, h, w, ...]``, zeros outside."""
    n, height, width, *rest = x.shape
    margin, whole = (kernel_size - 1) // 2, [(0, 0)] * len(rest)
    padded = jnp.pad(x, [(0, 0), (margin, margin), (margin, margin), *whole])
    rows, columns = (strides * (side - 1) + 1 for side in output_grid(height, width, strides))
    return [
        lax.slice(
            padded,
            (0, i, j, *[0] * len(rest)),
            (n, i + rows, j + columns, *rest),
            (1, strides, strides, *[1] * len(rest)),
        )
        for i in range(kernel_size)
        for j in range(kernel_size)
    ]


def dynamic_conv(x: jax.Array, *factors: jax.Array, strides: int = 1) -> jax.Array:
    """Depthwise convolution whose kernels may differ by image, position and channel, in one pass over the input.

    ``y[n, i, j, c] = sum_t x_padded[n, i * strides + t // k, j * strides + t % k, c] * weights[n, i, j, t, c]``

    Args:
        x: ``[n, h, w, c]``; in place of ``c`` there may be several axes.
        *factors: Arrays ``[n, ho, wo, k*k, c]`` whose product is the weights; an axis of a grid or of channels that
            they do not depend on is 1, so that the product of several never lies in memory.
        strides: Step between output positions. Padding is zeros, ``(k - 1) // 2`` on each side.

    Returns:
        ``[n, ho, wo, c]`` in the dtype of ``x``; sums are kept in float32 or better.
    """
    return _dynamic_conv(x, factors, strides)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _dynamic_conv(x: jax.Array, factors: tuple[jax.Array, ...], strides: int) -> jax.Array:
    seen = taps(x, math.isqrt(factors[0].shape[3]), strides=strides)
    return functools.reduce(jnp.add, (_product(a, factors, t) for t, a in enumerate(seen))).astype(x.dtype)


def _product(seen: jax.Array, factors: Sequence[jax.Array], t: int) -> jax.Array:
    """What tap ``t`` sees, times the factors' entries for it, in float32 or better."""
    return functools.reduce(jnp.multiply, (upcast(factor[:, :, :, t]) for factor in factors), upcast(seen))


def _forward(x: jax.Array, factors: tuple[jax.Array, ...], strides: int) -> tuple[jax.Array, tuple]:
    return _dynamic_conv(x, factors, strides), (x, factors)


def _backward(strides: int, residuals: tuple, cotangent: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    x, factors = residuals
    margin = (math.isqrt(factors[0].shape[3]) - 1) // 2
    grad_x = input_gradient(cotangent, factors, strides, margin, x.shape[1:3]).astype(x.dtype)
    gradients = functools.partial(_factor_gradients, strides=strides)
    # A CPU takes one image at a time, which stays in its cache: up to four times as fast as the whole batch.
    by_image = functools.partial(_image_by_image, functools.partial(gradients, total=_total_on_cpu))
    default = functools.partial(gradients, total=_total)
    grad_factors = lax.platform_dependent(x, factors, cotangent, cpu=by_image, default=default)
    return match_vma((grad_x, grad_factors), residuals)


_dynamic_conv.defvjp(_forward, _backward)


def _image_by_image(function: Callable, *arrays: Any) -> Any:
    """``function`` of batches, called on each image's batch of one."""
    one = functools.partial(jax.tree.map, lambda a: a[None])
    return lax.map(lambda image: jax.tree.map(lambda a: a[0], function(*one(image))), arrays)


def _factor_gradients(
    x: jax.Array, factors: tuple[jax.Array, ...], cotangent: jax.Array, *, strides: int, total: Callable
) -> tuple[jax.Array, ...]:
    """For each factor, an array like it."""
    seen = taps(x, math.isqrt(factors[0].shape[3]), strides=strides)
    gradients = []
    for i, factor in enumerate(factors):
        others = factors[:i] + factors[i + 1 :]
        shape = factor.shape[:3] + factor.shape[4:]
        shared = tuple(axis for axis, size in enumerate(shape) if size != cotangent.shape[axis])
        terms = [total(_product(a, others, t) * upcast(cotangent), shared) for t, a in enumerate(seen)]
        gradients.append(jnp.stack(terms, axis=3).astype(factor.dtype))
    return tuple(gradients)


def _total(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return jnp.sum(x, axes, keepdims=True)


def _total_on_cpu(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The same, along the last axis as a product with ones, which takes several numbers at once."""
    if axes == (x.ndim - 1,):
        return (x @ jnp.ones(x.shape[-1], x.dtype))[..., None]
    return _total(x, axes)


# A linear layer of every pixel on its own; nn.Dense, but for a gradient that is kinder to memory.
PixelDense = functools.partial(nn.Dense, dot_general=lambda x, kernel, *_, **__: pointwise(x, kernel))


def pooled(x: jax.Array) -> jax.Array:
    """Average over the grid, ``[n, h, w, c]`` -> ``[n, c]`` in float32 or better."""
    return jnp.mean(upcast(x), axis=(1, 2))


def average_pool(x: jax.Array, strides: int) -> jax.Array:
    """Averages ``strides x strides`` pixels, fewer at an odd grid's end: ``[n, h, w, c]`` -> ``[n, ho, wo, c]``."""
    if strides == 1:
        return x
    ends = [(0, -side % strides) for side in x.shape[1:3]]
    window = (strides, strides)
    return nn.avg_pool(upcast(x), window, strides=window, padding=ends, count_include_pad=False).astype(x.dtype)


def stacked(init: Initializer) -> Initializer:
    """Draws every entry of the first axis on its own, as if it were a parameter of its own."""

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Any:
        drawn = [init(key, shape[1:], dtype) for key in jax.random.split(key, shape[0])]
        return reboxed(drawn[0], jnp.stack(unboxed(drawn)), (None, *range(len(shape) - 1)))

    return draw


def mixed(routes: jax.Array, experts: jax.Array) -> jax.Array:
    """Each image's own mix of experts, ``[n, e]``, ``[e, ...]`` -> ``[n, ...]`` in the dtype of ``routes``."""
    return jnp.tensordot(routes, experts.astype(routes.dtype), axes=1)


class MixedDepthwise(Checked):
    """Depthwise convolution with each image's mix of kernels: the kernels are mixed, then convolved with once.

    Attributes:
        kernel_size: Odd side of the kernels.
        strides: Step between output positions.
        use_bias: Whether a bias per channel, mixed likewise, is added.
        kernel_init: What every kernel starts from.
    """

    kernel_size: int
    strides: int
    use_bias: bool
    kernel_init: Initializer

    @nn.compact
    def __call__(self, x: jax.Array, routes: jax.Array) -> jax.Array:
        """``[n, h, w, c]`` and the experts' shares ``[n, e]`` -> ``[n, ho, wo, c]``."""
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
    """The largest divisor of ``number`` that is at most ``at_most``; 1 if there is none."""
    return max((d for d in range(1, min(number, at_most) + 1) if number % d == 0), default=1)


def head_count(channels: int, at_most: int) -> int:
    """Heads that split the channels evenly, two channels or more each."""
    return largest_divisor(channels, min(at_most, max(1, channels // 2)))
