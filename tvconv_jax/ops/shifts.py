"""Parts of a convolution in shifted form: views of the padded input, one per tap, and weights for all images.

Axes: ``n`` images, ``h w`` input grid, ``ho wo`` output grid.
"""

import jax
import jax.numpy as jnp
from jax import lax


def pad(x: jax.Array, padding: int) -> jax.Array:
    """Pad ``[n, h, w, ...]`` with zeros along h and w."""
    return jnp.pad(x, [(0, 0), (padding, padding), (padding, padding), *[(0, 0)] * (x.ndim - 3)])


def shifts(padded: jax.Array, kernel_size: int, strides: int, grid: tuple[int, int]) -> list[jax.Array]:
    """Return the input of each tap: ``k * k`` views ``[n, ho, wo, ...]`` of the padded input ``[n, h, w, ...]``."""
    n, _, _, *rest = padded.shape
    rows, columns = (strides * (size - 1) + 1 for size in grid)
    begin, steps = [0] * len(rest), (1, strides, strides, *[1] * len(rest))
    return [
        lax.slice(padded, (0, i, j, *begin), (n, i + rows, j + columns, *rest), steps)
        for i in range(kernel_size)
        for j in range(kernel_size)
    ]


def over_images(values: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Broadcast weights ``[ho, wo, c]``, or ``[1, 1, c]`` shared by all positions, to ``[n, ho, wo, c]``.

    Of an axis of size 1 for the images XLA may make the fastest, for lack of a reason; then it transposes the images.
    """
    if values.shape[:2] == (1, 1):
        return lax.broadcast_in_dim(values.reshape(-1), shape, (3,))
    return lax.broadcast_in_dim(values, shape, (1, 2, 3))
