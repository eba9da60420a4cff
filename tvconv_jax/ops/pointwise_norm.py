"""1x1 convolution, batch norm and activation as one function: a GPU writes the wide product once, already activated.

With ``z = x @ kernel``, mean and variance of ``z`` follow from mean and covariance of ``x``, which has fewer channels.
The backward pass reads its sums off one product: ``sum(g * z)`` is the diagonal of ``kernel.T @ (x.T @ g)``. It never
writes the gradient of ``z``.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from tvconv_jax.ops import batch_norm as norm
from tvconv_jax.ops import pointwise as product
from tvconv_jax.ops.batch_norm import Activation, affine, per_channel
from tvconv_jax.ops.platform import on_gpu
from tvconv_jax.ops.precision import upcast
from tvconv_jax.ops.sharding import match_vma, pcast_like


def is_narrow(channels: int, features: int) -> bool:
    """Return whether a product of ``channels`` into ``features`` is normalized by the statistics of its input.

    Few channels are summed where the product is read; of more, the product must be so much wider that their covariance
    costs less than reading it.
    """
    return (channels <= product.FEW_CHANNELS and channels <= features) or 3 * channels <= features


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def pointwise_norm(
    x: jax.Array,
    kernel: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    epsilon: float,
    activation: Activation,
    groups: int = 1,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return :func:`.batch_norm` of the 1x1 convolution ``[..., c] @ [c, d]``: ``(y [..., d], mean [d], var [d])``.

    Arguments are those of :func:`.pointwise` and :func:`.batch_norm`. Everywhere but on a GPU it is these two.
    """
    return _forward(x, kernel, scale, bias, epsilon, activation, groups)[0]


class Options(NamedTuple):
    """Arguments that are no arrays, in the order of :func:`.batch_norm`."""

    epsilon: float
    activation: Activation
    groups: int


def _forward(
    x: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array, *options: float | Activation
) -> tuple[tuple, tuple]:
    by_input, by_output = (functools.partial(f, Options(*options)) for f in (_forward_by_input, _forward_by_output))
    outputs, kept = on_gpu(by_input, by_output, x, kernel, scale, bias)
    return outputs, (x, kernel, scale, bias, kept)


def _backward(epsilon: float, activation: Activation, groups: int, residuals: tuple, cotangents: tuple) -> tuple:
    options, (*primals, kept) = Options(epsilon, activation, groups), residuals
    by_input, by_output = (functools.partial(f, options) for f in (_backward_by_input, _backward_by_output))
    return on_gpu(by_input, by_output, *primals, kept, cotangents[0])


pointwise_norm.defvjp(_forward, _backward)


def _forward_by_output(
    options: Options, x: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array
) -> tuple[tuple, tuple]:
    z = product.pointwise(x, kernel)
    outputs, (_, _, _, mean, inverse) = norm.forward(z, scale, bias, *options)
    empty = (jnp.zeros((*mean.shape[:-1], *shape), mean.dtype) for shape in (x.shape[-1:], x.shape[-1:] * 2))
    return outputs, (z, mean, inverse, *(pcast_like(zeros, mean) for zeros in empty))


def _backward_by_output(
    options: Options,
    x: jax.Array,
    kernel: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    kept: tuple,
    cotangent: jax.Array,
) -> tuple:
    z, mean, inverse, *_ = kept
    residuals = (norm.in_groups(z, options.groups)[0], scale, bias, mean, inverse)
    grad_z, *grads = norm.backward(*options, residuals, (cotangent,))
    return (*product.backward((x, kernel), grad_z), *grads)


def _forward_by_input(
    options: Options, x: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array
) -> tuple[tuple, tuple]:
    input_mean, covariance = _moments(*norm.in_groups(x, options.groups))
    weights = _per_group(kernel, input_mean)
    mean = product.sum_where_read(input_mean, weights)
    var = jnp.maximum(jnp.sum(weights * product.sum_where_read(covariance, weights), -2), 0)
    inverse = lax.rsqrt(var + options.epsilon)
    z = product.sum_where_read(x, kernel)
    parts, _ = norm.in_groups(z, options.groups)
    y = norm.activate(affine(parts, *norm.factor_and_offset(scale, bias, mean, inverse)), options.activation)
    y = y.astype(x.dtype).reshape(z.shape)
    # The backward pass needs to know where the activation is cut. Few channels are summed there again, and what is kept
    # here is dropped by XLA; the product of many is as y is: cut at the same bounds.
    kept = z.astype(x.dtype) if len(kernel) <= product.FEW_CHANNELS else y
    return (y, *norm.averages(mean, var, options.groups)), (kept, mean, inverse, input_mean, covariance)


def _per_group(kernel: jax.Array, mean: jax.Array) -> jax.Array:
    """Return ``[c, d]`` in the dtype of the mean ``[..., c]``, with its axis of groups."""
    return jnp.broadcast_to(kernel.astype(mean.dtype), (*mean.shape[:-1], *kernel.shape))


def _moments(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Return mean ``[..., c]`` and covariance ``[..., c, c]`` over ``axes``; groups are an axis before.

    Squares of values near zero lose no digits: one position is taken off all first, or, of many channels, the mean.
    """
    count = math.prod(x.shape[axis] for axis in axes)
    if x.shape[-1] <= product.FEW_CHANNELS:
        shift = upcast(x[tuple(0 if axis in axes else slice(None) for axis in range(x.ndim))])
        shifted = _with_ones(upcast(x) - per_channel(shift, x))
        moments = jnp.sum(shifted[..., :, None] * shifted[..., None, :] * (1 / count), axes)
        off, squares = moments[..., -1, :-1], moments[..., :-1, :-1]
        return shift + off, squares - off[..., :, None] * off[..., None, :]
    mean = jnp.mean(upcast(x), axes)
    centered = upcast(x) - per_channel(mean, x)
    over = ((axes, axes), (tuple(range(mean.ndim - 1)),) * 2)
    return mean, lax.dot_general(centered, centered, over, precision=lax.Precision.HIGHEST) / count


def _with_ones(x: jax.Array) -> jax.Array:
    """Append a channel of ones: a product with it is a sum."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, 1)], constant_values=1)


def _backward_by_input(
    options: Options,
    x: jax.Array,
    kernel: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    kept: tuple,
    cotangent: jax.Array,
) -> tuple:
    kept, mean, inverse, input_mean, covariance = kept
    factor, offset = norm.factor_and_offset(scale, bias, mean, inverse)
    parts, axes = norm.in_groups(x, options.groups)
    grad, _ = norm.in_groups(cotangent, options.groups)
    if len(kernel) <= product.FEW_CHANNELS:
        again = lax.optimization_barrier(kernel)  # or XLA would keep the product of the forward pass for this
        z, _ = norm.in_groups(product.sum_where_read(x, again), options.groups)
        grad = norm.passed(grad, affine(z, factor, offset), options.activation)
    else:
        grad = norm.passed(grad, norm.in_groups(kept, options.groups)[0], options.activation)
    weights, count = _per_group(kernel, input_mean), x.size // input_mean.size
    # Sums over positions of the gradient, and of input times gradient, both centered, [..., c, d]. A GPU would write an
    # input that is centered before the product; what the mean contributes is as small as that of a normalized layer.
    grad_bias = jnp.sum(upcast(grad), axes)
    over = ((axes, axes), (tuple(range(mean.ndim - 1)),) * 2)
    moments = lax.dot_general(parts, grad, over, preferred_element_type=mean.dtype)
    moments = moments - input_mean[..., :, None] * grad_bias[..., None, :]
    grad_scale = jnp.sum(weights * moments, -2) * inverse
    # As in batch_norm, grad_z = factor * (grad - mean(grad)) + slope * (z - mean), of which no element is written.
    slope = -factor * inverse * grad_scale / count
    along = slope[..., None, :] * weights
    grad_kernel = factor[..., None, :] * moments + product.sum_where_read(covariance, along) * count
    # What z and the constant give to grad_x, as one small product: [..., c + 1, c].
    constant = -slope * mean - factor * grad_bias / count
    rest = jnp.concatenate([along, constant[..., None, :]], -2)
    rest = jnp.sum(rest[..., :, None, :] * weights[..., None, :, :], -1)
    back = jnp.swapaxes(weights * factor[..., None, :], -1, -2)
    grad_x = product.sum_where_read(grad, back) + product.sum_where_read(parts, rest[..., :-1, :])
    grad_x = grad_x + per_channel(rest[..., -1, :], parts)
    grads = (norm.over_groups(*pair) for pair in ((grad_kernel, kernel), (grad_scale, scale), (grad_bias, bias)))
    return match_vma((grad_x.astype(x.dtype).reshape(x.shape), *grads), (x, kernel, scale, bias))
