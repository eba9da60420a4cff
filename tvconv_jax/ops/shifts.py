"""Parts of a convolution in shifted form: views of the padded input, one per tap, and the way back to the input.

Axes: ``n`` images, ``h w`` input grid, ``ho wo`` output grid.
"""

import functools
import math
from collections.abc import Sequence

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


def split_taps(weights: jax.Array) -> list[jax.Array]:
    """Return the weights ``[ho, wo, c]`` of each tap of ``[ho, wo, k*k, c]``."""
    flat = weights.reshape(*weights.shape[:2], -1)  # so that XLA, if it writes the taps' weights, does so at once
    return jnp.split(flat, weights.shape[2], axis=2)


def over_images(values: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Broadcast weights ``[ho, wo, c]``, or ``[1, 1, c]`` shared by all positions, to ``[n, ho, wo, c]``.

    Of an axis of size 1 for the images XLA may make the fastest, for lack of a reason; then it transposes the images.
    """
    if values.shape[:2] == (1, 1):
        return lax.broadcast_in_dim(values.reshape(-1), shape, (3,))
    return lax.broadcast_in_dim(values, shape, (1, 2, 3))


def input_gradient(
    cotangent: jax.Array, factors: Sequence[jax.Array], strides: int, padding: int, grid: tuple[int, int]
) -> jax.Array:
    """Return the gradient ``[n, h, w, c]`` of the input: every position gathers from the outputs that read it.

    Positions with equal ``row % strides`` and ``column % strides`` form a phase: the same taps read them, so there is
    one sum for each phase. The cotangent is padded once; autodiff tests every element and tap for the padding.

    Args:
        cotangent: ``[n, ho, wo, c]``, in the dtype of the sums; ``c`` may be several axes.
        factors: Arrays ``[n, ho, wo, k*k, c]`` whose product is the weights; an axis that they share is 1.
        strides: Step between output positions.
        padding: Zeros on each side of the input.
        grid: ``(h, w)``.
    """
    kernel_size = math.isqrt(factors[0].shape[3])
    n, *outputs = cotangent.shape[:3]
    rows, columns = (-(-size // strides) for size in grid)
    # Zeros stand for the outputs outside the grid that the first and the last tap would read.
    before, after = -((padding - kernel_size + 1) // strides), (strides - 1 + padding) // strides
    around = [(before, phase + after - size) for phase, size in zip((rows, columns), outputs, strict=True)]

    def pad_outputs(tensor: jax.Array) -> jax.Array:
        if list(tensor.shape[1:3]) != outputs:
            return tensor
        return jnp.pad(tensor, ((0, 0), *around, *[(0, 0)] * (tensor.ndim - 3)))

    gradient = pad_outputs(cotangent)
    factors = [jnp.moveaxis(pad_outputs(factor), 3, 0) for factor in factors]

    def readers(tensor: jax.Array, tap: tuple[int, int], phase: tuple[int, int]) -> jax.Array:
        """Return the outputs ``[n, ho, wo, ...]`` whose ``tap`` reads the phase; shared factors unchanged."""
        if tensor.shape[1:3] != gradient.shape[1:3]:
            return tensor
        i, j = (before + (at + padding - t) // strides for at, t in zip(phase, tap, strict=True))
        return tensor[:, i : i + rows, j : j + columns]

    def phase_sum(phase: tuple[int, int]) -> jax.Array:
        total = jnp.zeros((n, rows, columns, *cotangent.shape[3:]), gradient.dtype)
        for tap in (divmod(t, kernel_size) for t in range(kernel_size**2)):
            if any((at + padding - t) % strides for at, t in zip(phase, tap, strict=True)):
                continue
            weights = (readers(factor[tap[0] * kernel_size + tap[1]], tap, phase) for factor in factors)
            weights = (over_images(w[0], total.shape) if w.shape[0] == 1 and w.ndim == 4 else w for w in weights)
            total += functools.reduce(jnp.multiply, weights, readers(gradient, tap, phase))
        return total

    if strides == 1:
        return phase_sum((0, 0))
    phases = [jnp.stack([phase_sum((i, j)) for j in range(strides)], axis=3) for i in range(strides)]
    full = jnp.stack(phases, axis=2).reshape(n, rows * strides, columns * strides, *cotangent.shape[3:])
    return full[:, : grid[0], : grid[1]]


def spread_taps(
    cotangent: jax.Array, weights: jax.Array, strides: int, padding: int, grid: tuple[int, int]
) -> jax.Array:
    """Return the gradient ``[n, h, w, c]`` of the input: the outputs' parts through each tap, spread and summed.

    Between outputs and around them are zeros, which a GPU does not read. XLA fuses this with sums of the gradient; not
    phases that are put together, or taps that are transposed, as in :func:`.input_gradient`.

    Args:
        cotangent: ``[n, ho, wo, c]``, in the dtype of the sums.
        weights: ``[ho, wo, k*k, c]``, or ``[1, 1, k*k, c]`` shared by all positions.
        strides: Step between output positions.
        padding: Zeros on each side of the input.
        grid: ``(h, w)``.
    """
    kernel_size = math.isqrt(weights.shape[2])

    def along(tap: int, size: int, outputs: int) -> tuple[int, int, int]:
        before = tap - padding
        return before, size - before - strides * (outputs - 1) - 1, strides - 1

    zero = jnp.zeros((), cotangent.dtype)
    total = zero
    for t, tap in enumerate(split_taps(weights)):
        part = cotangent * over_images(tap, cotangent.shape)
        places = map(along, divmod(t, kernel_size), grid, cotangent.shape[1:3])
        total += lax.pad(part, zero, [(0, 0, 0), *places, (0, 0, 0)])
    return total
