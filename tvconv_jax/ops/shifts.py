"""Views of a padded input, one per tap: what every convolution in shifted form sums.

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
