"""The patches of a map, one row a position: the matrix that makes a convolution one product."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Grid = tuple[int, int]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def unfold(padded: jax.Array, grid: Grid) -> jax.Array:
    """Return all 3x3 patches, ``[h + 2, w + 2, c]`` -> ``[h * w, 9 * c]``, taps row-major and channels within.

    A CPU runs one gather, as fast as nine slices and with a tenth of the programs to compile.

    Args:
        padded: A map with a padding of one.
        grid: ``(h, w)``.
    """
    gather, slices = (functools.partial(function, grid=grid) for function in (_gather, _slices))
    return lax.platform_dependent(padded, cpu=gather, default=slices)


def _backward(grid: Grid, _: None, cotangent: jax.Array) -> tuple[jax.Array]:
    """Sum shifted copies; autodiff would make a scatter of the gather, element by element."""
    windows = cotangent.reshape(*grid, 3, 3, -1)
    taps = [(i, j) for i in (2, 1, 0) for j in (2, 1, 0)]
    parts = [jnp.pad(windows[:, :, i, j], ((i, 2 - i), (j, 2 - j), (0, 0))) for i, j in taps]
    return (functools.reduce(jnp.add, parts),)


unfold.defvjp(lambda padded, grid: (unfold(padded, grid), None), _backward)


def _gather(padded: jax.Array, *, grid: Grid) -> jax.Array:
    height, width = grid
    channels = padded.shape[2]
    corners = np.stack(np.broadcast_arrays(np.arange(height)[:, None], channels * np.arange(width)), axis=-1)
    windows = lax.gather(
        padded.reshape(height + 2, -1),
        jnp.asarray(corners.reshape(-1, 2), jnp.int32),
        lax.GatherDimensionNumbers(offset_dims=(1, 2), collapsed_slice_dims=(), start_index_map=(0, 1)),
        (3, 3 * channels),  # three pixels of a row lie side by side
        mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS,
        indices_are_sorted=True,
    )
    return windows.reshape(height * width, -1)


def _slices(padded: jax.Array, *, grid: Grid) -> jax.Array:
    height, width = grid
    taps = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(taps, axis=-1).reshape(height * width, -1)
