"""1x1 convolution whose gradient transposes the smaller of its tensors, where autodiff's transposes the largest."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from tvconv_jax.ops.precision import upcast
from tvconv_jax.ops.sharding import match_vma


@jax.custom_vjp
def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return the 1x1 convolution ``[..., c] @ [c, d]`` -> ``[..., d]`` in the dtype of ``x``."""
    return x @ kernel.astype(x.dtype)


def _backward(residuals: tuple, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    # XLA transposes the first operand of this product in memory: the one with fewer channels goes first.
    narrow, broad = (x, cotangent) if x.shape[-1] <= cotangent.shape[-1] else (cotangent, x)
    batch = tuple(range(x.ndim - 1))
    grad_kernel = _upcast_product(narrow, broad, ((batch, batch), ((), ())))
    grad_kernel = grad_kernel if narrow is x else grad_kernel.T
    return match_vma((cotangent @ kernel.astype(x.dtype).T, grad_kernel.astype(kernel.dtype)), residuals)


pointwise.defvjp(lambda x, kernel: (pointwise(x, kernel), (x, kernel)), _backward)


def _upcast_product(a: jax.Array, b: jax.Array, dimensions: tuple) -> jax.Array:
    product = functools.partial(lax.dot_general, dimension_numbers=dimensions, preferred_element_type=upcast(a).dtype)
    if a.dtype != jnp.bfloat16:
        return product(a, b)
    # XLA has no product of bfloat16 into float32 for a CPU.
    return lax.platform_dependent(a, b, cpu=lambda a, b: product(upcast(a), upcast(b)), default=product)
