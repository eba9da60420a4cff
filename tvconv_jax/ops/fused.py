"""Products and norms whose own gradients save passes over memory; the values are the textbook's.

On a CPU a training step of these models is bound by memory, not arithmetic. What autodiff makes of a pointwise
product transposes the largest tensors of the model, and what it makes of a norm followed by a clipped ReLU
keeps three of them; the gradients here read the input once more instead.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from tvconv_jax.ops.sharding import match_vma

Activation = Literal["identity", "relu", "relu6"]

# Open interval in which an activation lets the gradient pass; outside, it is clipped to the bounds.
RANGES = {"identity": None, "relu": (0.0, None), "relu6": (0.0, 6.0)}


def activate(x: jax.Array, activation: Activation) -> jax.Array:
    """``x``, ``max(x, 0)`` or ``min(max(x, 0), 6)``."""
    bounds = RANGES[activation]
    return x if bounds is None else jnp.clip(x, *bounds)


def upcast(x: jax.Array) -> jax.Array:
    """In the dtype that sums are kept in: float32, or float64 for float64."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def per_channel(values: jax.Array, x: jax.Array) -> jax.Array:
    """``[c]``, or ``[g, c]`` for ``x`` of ``[g, ..., c]``, with the axes of ``x``, so that broadcasting is explicit."""
    return values.reshape(values.shape[:-1] + (1,) * (x.ndim - values.ndim) + values.shape[-1:])


def affine(x: jax.Array, factor: jax.Array, offset: jax.Array) -> jax.Array:
    """``x * factor + offset`` per channel, in float32 or better; ``[..., c]``, ``[c]``, ``[c]`` (see above)."""
    return upcast(x) * per_channel(factor, x) + per_channel(offset, x)


@jax.custom_vjp
def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """1x1 convolution, ``[..., c] @ [c, d]`` -> ``[..., d]`` in the dtype of ``x``."""
    return x @ kernel.astype(x.dtype)


def _pointwise_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple]:
    return pointwise(x, kernel), (x, kernel)


def _wide_product(a: jax.Array, b: jax.Array, dimensions: tuple) -> jax.Array:
    """``lax.dot_general`` whose sums, and result, are float32 or better."""
    product = functools.partial(lax.dot_general, dimension_numbers=dimensions, preferred_element_type=upcast(a).dtype)
    if a.dtype != jnp.bfloat16:
        return product(a, b)
    # XLA has no product of bfloat16 into float32 for a CPU.
    return lax.platform_dependent(a, b, cpu=lambda a, b: product(upcast(a), upcast(b)), default=product)


def _pointwise_backward(residuals: tuple, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    # XLA transposes the first operand of this product in memory: the one with fewer channels goes first.
    narrow, broad = (x, cotangent) if x.shape[-1] <= cotangent.shape[-1] else (cotangent, x)
    batch = tuple(range(x.ndim - 1))
    grad_kernel = _wide_product(narrow, broad, ((batch, batch), ((), ())))
    grad_kernel = grad_kernel if narrow is x else grad_kernel.T
    return match_vma((cotangent @ kernel.astype(x.dtype).T, grad_kernel.astype(kernel.dtype)), residuals)


pointwise.defvjp(_pointwise_forward, _pointwise_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, activation: Activation, groups: int = 1
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalizes over all axes but the last with the batch's own statistics, then applies the activation.

    Args:
        x: ``[..., c]``.
        scale: ``[c]``.
        bias: ``[c]``.
        epsilon: Added to the variance.
        activation: ``"identity"``, ``"relu"`` or ``"relu6"``.
        groups: Into how many equal runs the first axis is cut, each with statistics of its own.

    Returns:
        ``(y, mean, var)``: ``y`` like ``x``; mean and biased variance ``[c]``, averaged over groups, for running
        averages only: no gradient flows through them.

    Source: Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167.
    """
    return _batch_norm_forward(x, scale, bias, epsilon, activation, groups)[0]


def _in_groups(x: jax.Array, groups: int) -> tuple[jax.Array, tuple[int, ...]]:
    """``x`` with an axis for the groups, if there are several, and the axes that a statistic runs over."""
    if groups == 1:
        return x, tuple(range(x.ndim - 1))
    return x.reshape(groups, -1, *x.shape[1:]), tuple(range(1, x.ndim))


def _over_groups(values: jax.Array) -> jax.Array:
    """Sum of ``[g, c]`` over the groups; ``[c]`` as it is."""
    return values if values.ndim == 1 else jnp.sum(values, axis=0)


def _batch_norm_forward(
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


def _batch_norm_backward(
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
    of_params = (_over_groups(g).astype(p.dtype) for g, p in zip((grad_scale, grad_bias), params, strict=True))
    return match_vma((grad_x.astype(x.dtype).reshape(shape), *of_params), (x, *params))


batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)
