"""Batch norm with its activation; its gradient reads the input once more instead of keeping three large tensors.

On a CPU a training step of these models is bound by memory, not by arithmetic.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from tvconv_jax.ops.precision import upcast
from tvconv_jax.ops.sharding import match_vma

Activation = Literal["identity", "relu", "relu6"]

# Open interval in which an activation lets the gradient pass; outside, it is clipped to the bounds.
RANGES = {"identity": None, "relu": (0.0, None), "relu6": (0.0, 6.0)}


def activate(x: jax.Array, activation: Activation) -> jax.Array:
    """Return ``x``, ``max(x, 0)`` or ``min(max(x, 0), 6)``."""
    bounds = RANGES[activation]
    return x if bounds is None else jnp.clip(x, *bounds)


def per_channel(values: jax.Array, x: jax.Array) -> jax.Array:
    """Reshape ``[c]``, or ``[g, c]`` for ``x`` of ``[g, ..., c]``, so that it broadcasts against ``x``."""
    return values.reshape(values.shape[:-1] + (1,) * (x.ndim - values.ndim) + values.shape[-1:])


def affine(x: jax.Array, factor: jax.Array, offset: jax.Array) -> jax.Array:
    """Return ``x * factor + offset`` per channel, in float32 or better; shapes as in :func:`per_channel`."""
    return upcast(x) * per_channel(factor, x) + per_channel(offset, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, activation: Activation, groups: int = 1
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalize over all axes but the last with the batch's own statistics, then apply the activation.

    Args:
        x: ``[..., c]``.
        scale, bias: ``[c]``.
        epsilon: Added to the variance.
        activation: ``"identity"``, ``"relu"`` or ``"relu6"``.
        groups: Number of equal parts of the first axis, each with statistics of its own.

    Returns:
        ``(y, mean, var)``: ``y`` like ``x``; mean and biased variance ``[c]``, averaged over groups, for running
        averages only: no gradient flows through them.

    Source: Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167.
    """
    return _forward(x, scale, bias, epsilon, activation, groups)[0]


def _in_groups(x: jax.Array, groups: int) -> tuple[jax.Array, tuple[int, ...]]:
    """Return ``x`` with an axis for the groups, if there are several, and the axes that a statistic runs over."""
    if groups == 1:
        return x, tuple(range(x.ndim - 1))
    return x.reshape(groups, -1, *x.shape[1:]), tuple(range(1, x.ndim))


def _over_groups(values: jax.Array) -> jax.Array:
    """Sum ``[g, c]`` over the groups; return ``[c]`` unchanged."""
    return values if values.ndim == 1 else jnp.sum(values, axis=0)


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, activation: Activation, groups: int
) -> tuple[tuple, tuple]:
    shape = x.shape
    x, axes = _in_groups(x, groups)
    mean = jnp.mean(upcast(x), axes)
    # x - mean would be written out and read again. One reduction of both sums reads x once, but XLA makes no vector
    # instructions of it on a CPU: three times as slow there as two.
    var = jnp.maximum(jnp.mean(jnp.square(upcast(x)), axes) - jnp.square(mean), 0)
    inverse = lax.rsqrt(var + epsilon)
    residuals = (x, scale, bias, mean, inverse)
    scale, bias = (jnp.broadcast_to(values.astype(mean.dtype), mean.shape) for values in (scale, bias))
    y = activate(affine(x, scale * inverse, bias - mean * scale * inverse), activation).astype(x.dtype)
    averages = (_over_groups(mean) / groups, _over_groups(var) / groups) if groups > 1 else (mean, var)
    return (y.reshape(shape), *averages), residuals


def _backward(
    epsilon: float, activation: Activation, groups: int, residuals: tuple, cotangents: tuple
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, *params, mean, inverse = residuals
    scale, bias = (jnp.broadcast_to(values.astype(mean.dtype), mean.shape) for values in params)
    shape = cotangents[0].shape
    grad, axes = _in_groups(upcast(cotangents[0]), groups)
    if RANGES[activation] is not None:
        low, high = RANGES[activation]
        z = affine(x, scale * inverse, bias - mean * scale * inverse)
        passes = z > low if high is None else (z > low) & (z < high)
        grad = jnp.where(passes, grad, 0)
    grad_bias = jnp.sum(grad, axes)
    grad_scale = (jnp.sum(grad * upcast(x), axes) - mean * grad_bias) * inverse
    # grad_x = scale * inverse * (grad - mean(grad) - normalized * mean(grad * normalized)), as one affine map of
    # grad and x, so that the normalized input is never stored.
    count = x.size // mean.size
    slope = -scale * jnp.square(inverse) * grad_scale / count
    offset = -scale * inverse * grad_bias / count - slope * mean
    grad_x = grad * per_channel(scale * inverse, x) + affine(x, slope, offset)
    grad_params = (_over_groups(g).astype(p.dtype) for g, p in zip((grad_scale, grad_bias), params, strict=True))
    return match_vma((grad_x.astype(x.dtype).reshape(shape), *grad_params), (x, *params))


batch_norm.defvjp(_forward, _backward)
