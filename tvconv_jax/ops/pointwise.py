"""1x1 convolution whose gradient transposes the smaller of its tensors, where autodiff's transposes the largest."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from tvconv_jax.ops.platform import on_gpu
from tvconv_jax.ops.precision import upcast
from tvconv_jax.ops.sharding import match_vma

# A GPU sums so few products wherever the result is read, rather than write it out.
FEW_CHANNELS = 16


@jax.custom_vjp
def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return the 1x1 convolution ``[..., c] @ [c, d]`` -> ``[..., d]`` in the dtype of ``x``."""
    return x @ kernel.astype(x.dtype)


def backward(residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the gradients of input and kernel, ``residuals``."""
    x, kernel = residuals
    # XLA transposes the first operand of this product in memory: the one with fewer channels goes first.
    narrow, broad = (x, cotangent) if x.shape[-1] <= cotangent.shape[-1] else (cotangent, x)
    batch = tuple(range(x.ndim - 1))
    grad_kernel = _upcast_product(narrow, broad, ((batch, batch), ((), ())))
    grad_kernel = grad_kernel if narrow is x else grad_kernel.T
    operands = (cotangent, kernel.astype(x.dtype).T)
    few = kernel.shape[1] <= FEW_CHANNELS
    grad_x = on_gpu(_summed_product, jnp.matmul, *operands) if few else jnp.matmul(*operands)
    return match_vma((grad_x, grad_kernel.astype(kernel.dtype)), residuals)


pointwise.defvjp(lambda x, kernel: (pointwise(x, kernel), (x, kernel)), backward)


def sum_where_read(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return ``[..., c] @ [c, d]`` in float32 or better, so that XLA sums few channels inside what reads the result.

    ``[g, ..., c] @ [g, c, d]`` has a kernel for each group. More than ``FEW_CHANNELS`` are a matrix product.
    """
    groups = kernel.ndim - 2
    if kernel.shape[-2] <= FEW_CHANNELS:
        kernel = kernel.reshape(*kernel.shape[:groups], *[1] * (x.ndim - 1 - groups), *kernel.shape[groups:])
        return jnp.sum(upcast(x)[..., :, None] * upcast(kernel), axis=-2)
    contracted, shared = ((x.ndim - 1,), (groups,)), (tuple(range(groups)),) * 2
    return lax.dot_general(x, kernel.astype(x.dtype), (contracted, shared), preferred_element_type=upcast(x).dtype)


def _summed_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return sum_where_read(x, kernel).astype(x.dtype)


def _upcast_product(a: jax.Array, b: jax.Array, dimensions: tuple) -> jax.Array:
    product = functools.partial(lax.dot_general, dimension_numbers=dimensions, preferred_element_type=upcast(a).dtype)
    if a.dtype != jnp.bfloat16:
        return product(a, b)
    # XLA has no product of bfloat16 into float32 for a CPU.
    return lax.platform_dependent(a, b, cpu=lambda a, b: product(upcast(a), upcast(b)), default=product)
