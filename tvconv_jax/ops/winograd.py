"""A 3x3 convolution over all channels in 4/9 of the products: Winograd's F(2x2, 3x3).

A tile is 2x2 outputs. Its 4x4 inputs and the kernel are transformed to 16 sums each, multiplied over the channels place
by place, and transformed back. In float32 outputs keep six digits.

Source: Lavin and Gray, CVPR 2016, https://arxiv.org/abs/1509.09308, section 4.1, for the three transforms.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tvconv_jax.ops.precision import upcast
from tvconv_jax.ops.sharding import pcast_like

# With fewer channels the sums cost more than the products they save.
MIN_CHANNELS = 64

# Sums of a kernel's three rows, and then of its columns.
KERNEL_SUMS = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


def fits(grid: tuple[int, ...], kernel: tuple[int, ...]) -> bool:
    """Return whether tiles cover the grid ``(h, w)`` and the kernel ``[k, k, c, d]`` is large enough to gain by it."""
    return kernel[:2] == (3, 3) and min(kernel[2:]) >= MIN_CHANNELS and not any(size % 2 for size in grid)


def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve ``[n, h, w, c]`` with ``[3, 3, c, d]``, zeros outside, image by image: each fits the cache."""
    sums = jnp.asarray(KERNEL_SUMS, upcast(kernel).dtype)
    factors = jnp.einsum("ai,bj,ijcd->abcd", sums, sums, upcast(kernel)).reshape(16, *kernel.shape[2:])

    def convolve(image: jax.Array) -> jax.Array:
        products = lax.dot_general(_inputs(image), factors, (((2,), (1,)), ((0,), (0,))))
        return _outputs(products, image.shape[:2])

    return lax.map(convolve, x).astype(x.dtype)


def kernel_gradient(x: jax.Array, cotangent: jax.Array) -> jax.Array:
    """Return the gradient ``[3, 3, c, d]`` of the kernel of :func:`conv`, in float32 or better."""

    def add(total: jax.Array, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        image, cotangent = pair
        products = lax.dot_general(_inputs(image), _cotangents(cotangent), (((1,), (1,)), ((0,), (0,))))
        return total + products, None

    zeros = pcast_like(jnp.zeros((16, x.shape[3], cotangent.shape[3]), upcast(x).dtype), x)
    total, _ = lax.scan(add, zeros, (x, cotangent))
    sums = jnp.asarray(KERNEL_SUMS, total.dtype)
    return jnp.einsum("ai,bj,abcd->ijcd", sums, sums, total.reshape(4, 4, *total.shape[1:]))


def _inputs(image: jax.Array) -> jax.Array:
    """Transform inputs, ``[h, w, c]`` -> ``[16, h/2 * w/2, c]``."""
    height, width, channels = image.shape
    padded = jnp.pad(upcast(image), ((1, 1), (1, 1), (0, 0)))

    def sums(array: jax.Array, axis: int, size: int) -> list[jax.Array]:
        a, b, c, d = (lax.slice_in_dim(array, i, i + size - 1, stride=2, axis=axis) for i in range(4))
        return [a - c, b + c, c - b, b - d]

    places = [place for row in sums(padded, 0, height) for place in sums(row, 1, width)]
    return jnp.stack([place.reshape(-1, channels) for place in places])


def _outputs(products: jax.Array, grid: tuple[int, ...]) -> jax.Array:
    """Transform products back, ``[16, h/2 * w/2, d]`` -> ``[h, w, d]``."""
    height, width = grid
    a, b, c, d = products.reshape(4, 4, height // 2, width // 2, -1)
    rows = [(p + q + r, q - r - s) for p, q, r, s in (a + b + c, b - c - d)]
    return jnp.stack([jnp.stack(row, axis=2) for row in rows], axis=1).reshape(height, width, -1)


def _cotangents(cotangent: jax.Array) -> jax.Array:
    """Return the transpose of :func:`_outputs`, ``[h, w, d]`` -> ``[16, h/2 * w/2, d]``."""
    height, width, features = cotangent.shape
    tiles = upcast(cotangent).reshape(height // 2, 2, width // 2, 2, features)

    def sums(p: jax.Array, q: jax.Array) -> list[jax.Array]:
        return [p, p + q, p - q, -q]

    rows = sums(tiles[:, 0], tiles[:, 1])
    return jnp.stack([place.reshape(-1, features) for row in rows for place in sums(row[:, :, 0], row[:, :, 1])])
