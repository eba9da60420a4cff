"""Batch norm, activation and 1x1 convolution as one function: a GPU does not write the gradient between them.

Both passes over the norm's input, for the sums and for the gradient, compute it from the gradient of the convolution's
output, which has few channels.
"""

import functools

import jax
from jax import lax

from tvconv_jax.ops import batch_norm as norm
from tvconv_jax.ops import pointwise as product
from tvconv_jax.ops.batch_norm import Activation
from tvconv_jax.ops.platform import on_gpu


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def norm_pointwise(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    kernel: jax.Array,
    epsilon: float,
    activation: Activation,
    groups: int = 1,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the 1x1 convolution ``[..., c] @ [c, d]`` of :func:`.batch_norm`: ``(y [..., d], mean [c], var [c])``.

    Arguments are those of :func:`.batch_norm` and :func:`.pointwise`; ``d`` is at most :data:`.FEW_CHANNELS`.
    """
    return _forward(x, scale, bias, kernel, epsilon, activation, groups)[0]


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, kernel: jax.Array, *options: float | Activation
) -> tuple[tuple, tuple]:
    (normalized, *statistics), kept = norm.forward(x, scale, bias, *options)
    return (product.pointwise(normalized, kernel), *statistics), (kept, normalized, kernel)


def _backward(epsilon: float, activation: Activation, groups: int, residuals: tuple, cotangents: tuple) -> tuple:
    kept, *operands = residuals
    grad, grad_kernel = product.backward(tuple(operands), cotangents[0])
    again = on_gpu(_product_again, lambda grad, *_: grad, grad, cotangents[0], operands[1])
    grads = norm.backward(epsilon, activation, groups, kept, (grad,), again=again)
    return (*grads, grad_kernel)


norm_pointwise.defvjp(_forward, _backward)


def _product_again(grad: jax.Array, cotangent: jax.Array, kernel: jax.Array) -> jax.Array:
    cotangent = lax.optimization_barrier(cotangent)  # hides from XLA that this is the product it has
    return product.sum_where_read(cotangent, kernel.astype(cotangent.dtype).T).astype(grad.dtype)
