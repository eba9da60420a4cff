"""Batch norm with its activation; its gradient reads the input once more instead of keeping three large tensors.

On a CPU a training step of these models is bound by memory, not by arithmetic.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from tvconv_jax.ops.platform import on_gpu
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
    return forward(x, scale, bias, epsilon, activation, groups)[0]


def in_groups(x: jax.Array, groups: int) -> tuple[jax.Array, tuple[int, ...]]:
    """Return ``x`` with an axis for the groups, if there are several, and the axes that a statistic runs over."""
    if groups == 1:
        return x, tuple(range(x.ndim - 1))
    return x.reshape(groups, -1, *x.shape[1:]), tuple(range(1, x.ndim))


def over_groups(values: jax.Array, param: jax.Array) -> jax.Array:
    """Sum the values of each group over the groups, if there are several, into the gradient of a parameter."""
    return (values if values.ndim == param.ndim else jnp.sum(values, axis=0)).astype(param.dtype)


def averages(mean: jax.Array, var: jax.Array, groups: int) -> tuple[jax.Array, jax.Array]:
    """Return statistics ``[c]`` for running averages: those of the groups, averaged."""
    return (jnp.sum(mean, axis=0) / groups, jnp.sum(var, axis=0) / groups) if groups > 1 else (mean, var)


def factor_and_offset(
    scale: jax.Array, bias: jax.Array, mean: jax.Array, inverse: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the norm as ``x * factor + offset``, in the shape and dtype of ``mean``."""
    scale, bias = (jnp.broadcast_to(values.astype(mean.dtype), mean.shape) for values in (scale, bias))
    return scale * inverse, bias - mean * scale * inverse


def passed(grad: jax.Array, z: jax.Array, activation: Activation) -> jax.Array:
    """Return the gradient where the activation of ``z`` lets it pass, else 0."""
    if RANGES[activation] is None:
        return grad
    low, high = RANGES[activation]
    return jnp.where(z > low if high is None else (z > low) & (z < high), grad, 0)


def _two_sums(a: jax.Array, b: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Return the sums of two real arrays over the axes.

    Of two sums XLA for GPUs writes out what they share; a sum of complex numbers computes it as it reads. For a CPU
    XLA makes no vector instructions of one reduction with two results: three times as slow there as two.
    """
    return on_gpu(functools.partial(_sum_at_once, axes=axes), functools.partial(_sum_apart, axes=axes), a, b)


def _sum_at_once(a: jax.Array, b: jax.Array, *, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    both = jnp.sum(lax.complex(a, b), axes)
    return both.real, both.imag


def _sum_apart(a: jax.Array, b: jax.Array, *, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    return jnp.sum(a, axes), jnp.sum(b, axes)


def forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, activation: Activation, groups: int
) -> tuple[tuple, tuple]:
    """Return the outputs of :func:`batch_norm`, and what :func:`backward` needs."""
    shape = x.shape
    x, axes = in_groups(x, groups)
    # x - mean would be written out and read again.
    total, squares = _two_sums(upcast(x), jnp.square(upcast(x)), axes)
    mean = total / (count := x.size // total.size)
    var = jnp.maximum(squares / count - jnp.square(mean), 0)
    inverse = lax.rsqrt(var + epsilon)
    y = activate(affine(x, *factor_and_offset(scale, bias, mean, inverse)), activation).astype(x.dtype)
    return (y.reshape(shape), *averages(mean, var, groups)), (x, scale, bias, mean, inverse)


def backward(
    epsilon: float,
    activation: Activation,
    groups: int,
    residuals: tuple,
    cotangents: tuple,
    again: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the gradients of input, scale and bias; ``again`` is the output's, for a second pass, computed anew."""
    x, *params, mean, inverse = residuals
    shape = cotangents[0].shape
    grad, axes = in_groups(upcast(cotangents[0]), groups)
    factor, offset = factor_and_offset(*params, mean, inverse)
    grad = passed(grad, affine(x, factor, offset), activation)
    grad_bias, grad_scale = _two_sums(grad, grad * upcast(x), axes)
    if again is not None:
        grad = passed(in_groups(upcast(again), groups)[0], affine(x, factor, offset), activation)
    grad_scale = (grad_scale - mean * grad_bias) * inverse
    # grad_x = factor * (grad - mean(grad) - normalized * mean(grad * normalized)), as one affine map of grad and x, so
    # that the normalized input is never stored.
    count = x.size // mean.size
    scale = jnp.broadcast_to(params[0].astype(mean.dtype), mean.shape)
    slope = -scale * jnp.square(inverse) * grad_scale / count
    grad_x = grad * per_channel(factor, x) + affine(x, slope, -factor * grad_bias / count - slope * mean)
    grad_params = (over_groups(g, p) for g, p in zip((grad_scale, grad_bias), params, strict=True))
    return match_vma((grad_x.astype(x.dtype).reshape(shape), *grad_params), (x, *params))


batch_norm.defvjp(forward, backward)
