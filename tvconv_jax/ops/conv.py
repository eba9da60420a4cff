"""Convolution over all channels, with a gradient of its own where a CPU gains by it."""

import functools
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax

from tvconv_jax.ops import winograd
from tvconv_jax.ops.precision import upcast
from tvconv_jax.ops.sharding import map_over_devices, match_vma, pcast_like, sum_over_devices

# Bytes of patches in one product of the kernel gradient; they stay in a CPU's last cache.
CHUNK = 8 * 2**20
# Contracts the axes n, h and w of both operands.
_OVER_PIXELS = (((0, 1, 2), (0, 1, 2)), ((), ()))


def conv(
    x: jax.Array, kernel: jax.Array, *, strides: int = 1, dilation: int = 1, padding: int | None = None
) -> jax.Array:
    """Return the convolution over all channels, ``[n, h, w, c]``, ``[k, k, c, d]`` -> ``[n, ho, wo, d]``.

    If the grid is kept, a CPU computes fewer products. Dilated kernels skip the taps that read padding only (all but
    one at dilation 18 on 16x16). 3x3 kernels over many channels go through :mod:`.winograd`. Gradients of other kernels
    are products over a few rows at a time, twice as fast as autodiff's. Everything else is ``lax``'s.

    Args:
        x: Features.
        kernel: Odd ``k``; in the dtype of ``x``.
        strides: Step between output positions.
        dilation: Step between the taps.
        padding: Zeros on each side; ``None`` keeps the grid, ``dilation * (k - 1) // 2``.
    """
    static = all(isinstance(size, int) for size in x.shape[1:3])  # a program for any grid cannot skip taps
    if strides == 1 and padding is None and static:
        return _same_grid(x, kernel, dilation)
    return _library(x, kernel, strides=strides, dilation=dilation, padding=padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _same_grid(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    library = functools.partial(_library, dilation=dilation)
    on_cpu = library if dilation == 1 else functools.partial(_taps, dilation=dilation)
    if dilation == 1 and winograd.fits(x.shape[1:3], kernel.shape):
        on_cpu = functools.partial(map_over_devices, winograd.conv)
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=library)


def _backward(dilation: int, residuals: tuple, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    if x.shape[0] == 0:
        return jnp.zeros_like(x), jnp.zeros_like(kernel)
    grad_x = _same_grid(cotangent, kernel[::-1, ::-1].swapaxes(2, 3), dilation)
    if dilation == 1:
        fast = winograd.fits(x.shape[1:3], kernel.shape)
        chunks = functools.partial(_kernel_gradient_in_chunks, kernel_size=len(kernel))
        on_cpu = functools.partial(sum_over_devices, winograd.kernel_gradient if fast else chunks)
    else:
        on_cpu = functools.partial(_kernel_gradient, kernel_size=len(kernel), dilation=dilation)
    library = functools.partial(_library_kernel_gradient, kernel_size=len(kernel), dilation=dilation)
    grad_kernel = lax.platform_dependent(x, cotangent, cpu=on_cpu, default=library)
    return match_vma((grad_x, grad_kernel.astype(kernel.dtype)), residuals)


_same_grid.defvjp(lambda x, kernel, dilation: (_same_grid(x, kernel, dilation), (x, kernel)), _backward)


def _library(
    x: jax.Array, kernel: jax.Array, *, strides: int = 1, dilation: int = 1, padding: int | None = None
) -> jax.Array:
    padding = dilation * (len(kernel) // 2) if padding is None else padding
    layout = {"rhs_dilation": (dilation, dilation), "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    return lax.conv_general_dilated(x, kernel, (strides, strides), [(padding, padding)] * 2, **layout)


def _library_kernel_gradient(x: jax.Array, cotangent: jax.Array, *, kernel_size: int, dilation: int) -> jax.Array:
    kernel = pcast_like(jnp.zeros((kernel_size, kernel_size, x.shape[3], cotangent.shape[3]), x.dtype), x)
    _, vjp = jax.vjp(lambda kernel: _library(x, kernel, dilation=dilation), kernel)
    return upcast(vjp(cotangent)[0])


def _overlaps(grid: tuple[int, int], kernel_size: int, dilation: int) -> Iterator[tuple]:
    """Yield each tap ``(i, j)`` that reads the input, with its outputs and its inputs as slices of h and w."""
    shifts = [dilation * (t - kernel_size // 2) for t in range(kernel_size)]
    for (i, down), (j, right) in itertools.product(enumerate(shifts), repeat=2):
        if abs(down) < grid[0] and abs(right) < grid[1]:
            outputs = tuple(slice(max(0, -s), size - max(0, s)) for s, size in zip((down, right), grid, strict=True))
            inputs = tuple(slice(max(0, s), size - max(0, -s)) for s, size in zip((down, right), grid, strict=True))
            yield (i, j), outputs, inputs


def _taps(x: jax.Array, kernel: jax.Array, *, dilation: int) -> jax.Array:
    """Sum one product per tap, over the positions at which it reads the input.

    Here and below a CPU multiplies in float32: XLA has no product of bfloat16 into float32 for it.
    """
    y = jnp.zeros((*x.shape[:3], kernel.shape[3]), upcast(x).dtype)
    for tap, outputs, inputs in _overlaps(x.shape[1:3], len(kernel), dilation):
        product = jnp.matmul(upcast(x[:, *inputs]), upcast(kernel[tap]))
        y = y.at[:, *outputs].add(product)
    return y.astype(x.dtype)


def _kernel_gradient(x: jax.Array, cotangent: jax.Array, *, kernel_size: int, dilation: int) -> jax.Array:
    gradient = jnp.zeros((kernel_size, kernel_size, x.shape[3], cotangent.shape[3]), upcast(x).dtype)
    for tap, outputs, inputs in _overlaps(x.shape[1:3], kernel_size, dilation):
        product = lax.dot_general(upcast(x[:, *inputs]), upcast(cotangent[:, *outputs]), _OVER_PIXELS)
        gradient = gradient.at[tap].set(product)
    return gradient


def _kernel_gradient_in_chunks(x: jax.Array, cotangent: jax.Array, *, kernel_size: int) -> jax.Array:
    n, height, width, channels = x.shape
    padding, taps = kernel_size // 2, kernel_size**2
    row = width * taps * channels * x.dtype.itemsize
    rows = max(r for r in range(1, height + 1) if height % r == 0 and (r == 1 or r * row <= CHUNK))
    padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))

    def add(index: jax.Array, total: jax.Array) -> jax.Array:
        start = (index // (height // rows), index % (height // rows) * rows, 0, 0)
        part = lax.dynamic_slice(padded, start, (1, rows + 2 * padding, width + 2 * padding, channels))
        views = [part[:, i : i + rows, j : j + width] for i in range(kernel_size) for j in range(kernel_size)]
        gradients = lax.dynamic_slice(cotangent, start, (1, rows, width, cotangent.shape[3]))
        patches = jnp.concatenate(views, axis=-1)
        return total + lax.dot_general(upcast(patches), upcast(gradients), _OVER_PIXELS)

    zeros = pcast_like(jnp.zeros((taps * channels, cotangent.shape[3]), upcast(x).dtype), x)
    total = lax.fori_loop(0, n * height // rows, add, zeros)
    return total.reshape(kernel_size, kernel_size, channels, -1)
