"""Depthwise convolution whose kernels may differ by image, position and channel."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from tvconv_jax.ops.precision import upcast
from tvconv_jax.ops.sharding import match_vma
from tvconv_jax.ops.shifts import input_gradient, pad, shifts
from tvconv_jax.ops.tv_conv import output_grid


def taps(x: jax.Array, kernel_size: int, *, strides: int = 1) -> list[jax.Array]:
    """Return the input of each tap: ``k * k`` views ``[n, ho, wo, ...]`` of ``[n, h, w, ...]``, zeros outside."""
    return shifts(pad(x, (kernel_size - 1) // 2), kernel_size, strides, output_grid(*x.shape[1:3], strides))


def dynamic_conv(x: jax.Array, *factors: jax.Array, strides: int = 1) -> jax.Array:
    """Return the depthwise convolution with a product of factors, in one pass over the input.

    ``y[n, i, j, c] = sum_t x_padded[n, i * strides + t // k, j * strides + t % k, c] * weights[n, i, j, t, c]``

    Args:
        x: ``[n, h, w, c]``; ``c`` may be several axes.
        *factors: Arrays ``[n, ho, wo, k*k, c]`` whose product is the weights. Axes of the grid or of channels that a
            factor does not depend on are 1, so that the product never lies in memory.
        strides: Step between output positions. Padding is zeros, ``(k - 1) // 2`` on each side.

    Returns:
        ``[n, ho, wo, c]`` in the dtype of ``x``; sums are kept in float32 or better.
    """
    return _dynamic_conv(x, factors, strides)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _dynamic_conv(x: jax.Array, factors: tuple[jax.Array, ...], strides: int) -> jax.Array:
    views = taps(x, math.isqrt(factors[0].shape[3]), strides=strides)
    return functools.reduce(jnp.add, (_product(a, factors, t) for t, a in enumerate(views))).astype(x.dtype)


def _product(view: jax.Array, factors: Sequence[jax.Array], t: int) -> jax.Array:
    """Multiply the input of tap ``t`` by the factors' entries for it, in float32 or better."""
    return functools.reduce(jnp.multiply, (upcast(factor[:, :, :, t]) for factor in factors), upcast(view))


def _backward(strides: int, residuals: tuple, cotangent: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    x, factors = residuals
    padding = (math.isqrt(factors[0].shape[3]) - 1) // 2
    arguments = upcast(cotangent), [upcast(factor) for factor in factors]
    grad_x = input_gradient(*arguments, strides, padding, x.shape[1:3]).astype(x.dtype)
    gradients = functools.partial(_factor_gradients, strides=strides)
    # A CPU takes one image at a time, which stays in its cache: up to four times as fast as the whole batch.
    by_image = functools.partial(_map_images, functools.partial(gradients, total=_total_on_cpu))
    default = functools.partial(gradients, total=_total)
    grad_factors = lax.platform_dependent(x, factors, cotangent, cpu=by_image, default=default)
    return match_vma((grad_x, grad_factors), residuals)


_dynamic_conv.defvjp(lambda x, factors, strides: (_dynamic_conv(x, factors, strides), (x, factors)), _backward)


def _map_images(function: Callable, *arrays: Any) -> Any:
    expand = functools.partial(jax.tree.map, lambda a: a[None])
    return lax.map(lambda image: jax.tree.map(lambda a: a[0], function(*expand(image))), arrays)


def _factor_gradients(
    x: jax.Array, factors: tuple[jax.Array, ...], cotangent: jax.Array, *, strides: int, total: Callable
) -> tuple[jax.Array, ...]:
    views = taps(x, math.isqrt(factors[0].shape[3]), strides=strides)
    gradients = []
    for i, factor in enumerate(factors):
        others = factors[:i] + factors[i + 1 :]
        shape = factor.shape[:3] + factor.shape[4:]
        shared = tuple(axis for axis, size in enumerate(shape) if size != cotangent.shape[axis])
        terms = [total(_product(a, others, t) * upcast(cotangent), shared) for t, a in enumerate(views)]
        gradients.append(jnp.stack(terms, axis=3).astype(factor.dtype))
    return tuple(gradients)


def _total(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return jnp.sum(x, axes, keepdims=True)


def _total_on_cpu(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Sum over axes; over the last alone as a product with ones, which a CPU vectorizes."""
    if axes == (x.ndim - 1,):
        return (x @ jnp.ones(x.shape[-1], x.dtype))[..., None]
    return _total(x, axes)
