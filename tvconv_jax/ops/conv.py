"""Convolution over all channels, with a gradient of its own where a CPU gains by it."""

import functools
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax

from tvconv_jax.ops import winograd
from tvconv_jax.ops.fused import upcast
from tvconv_jax.ops.sharding import map_over_devices, match_vma, pcast_like, sum_over_devices

# Bytes of gathered neighbors that one product of conv's weight gradient reads: they stay in a CPU's last cache.
CHUNK = 8 * 2**20


def conv(
    x: jax.Array, kernel: jax.Array, *, strides: int = 1, dilation: int = 1, padding: int | None = None
) -> jax.Array:
    """Convolution over all channels: ``[n, h, w, c]``, ``[k, k, c, d]`` -> ``[n, ho, wo, d]``.

    Where it keeps the grid, a CPU takes fewer products: it leaves out the taps of a dilated kernel that see nothing but
    padding (all but one at rate 18 on 16x16), and 3x3 kernels over many channels go through :mod:`.winograd`.
    Other kernels' gradients are products for a few rows of pictures at a time, twice as fast as what autodiff makes.
    Everything else is the library's.

    Args:
        x: Features.
        kernel: Odd ``k``; in the dtype of ``x``.
        strides: Step between output positions.
        dilation: Step between the positions that taps see.
        padding: Zeros on each side; ``None`` keeps the grid, ``dilation * (k - 1) // 2``.
    """
    known = all(isinstance(side, int) for side in x.shape[1:3])  # a program for any grid cannot leave taps out
    if strides == 1 and padding is None and known:
        return _keeping_grid(x, kernel, dilation)
    margin = dilation * (len(kernel) // 2) if padding is None else padding
    return _library(x, kernel, strides=strides, dilation=dilation, margin=margin)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _keeping_grid(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    library = functools.partial(_library, dilation=dilation, margin=dilation * (len(kernel) // 2))
    on_cpu = library if dilation == 1 else functools.partial(_taps, dilation=dilation)
    if dilation == 1 and winograd.fits(x.shape[1:3], kernel.shape):
        on_cpu = functools.partial(map_over_devices, winograd.conv)
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=library)


def _forward(x: jax.Array, kernel: jax.Array, dilation: int) -> tuple[jax.Array, tuple]:
    return _keeping_grid(x, kernel, dilation), (x, kernel)


def _backward(dilation: int, residuals: tuple, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    if x.shape[0] == 0:
        return jnp.zeros_like(x), jnp.zeros_like(kernel)
    grad_x = _keeping_grid(cotangent, kernel[::-1, ::-1].swapaxes(2, 3), dilation)
    if dilation == 1:
        fast = winograd.fits(x.shape[1:3], kernel.shape)
        chunks = functools.partial(_kernel_gradient_in_chunks, kernel_size=len(kernel))
        on_cpu = functools.partial(sum_over_devices, winograd.kernel_gradient if fast else chunks)
    else:
        on_cpu = functools.partial(_kernel_gradient, kernel_size=len(kernel), dilation=dilation)
    grad_kernel = lax.platform_dependent(
        x,
        cotangent,
        cpu=on_cpu,
        default=functools.partial(_library_kernel_gradient, kernel_size=len(kernel), dilation=dilation),
    )
    return match_vma((grad_x, grad_kernel.astype(kernel.dtype)), residuals)


_keeping_grid.defvjp(_forward, _backward)


def _library(x: jax.Array, kernel: jax.Array, *, strides: int = 1, dilation: int, margin: int) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        [(margin, margin)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _library_kernel_gradient(x: jax.Array, cotangent: jax.Array, *, kernel_size: int, dilation: int) -> jax.Array:
    kernel = pcast_like(jnp.zeros((kernel_size, kernel_size, x.shape[3], cotangent.shape[3]), x.dtype), x)
    margin = dilation * (kernel_size // 2)
    _, pull = jax.vjp(lambda kernel: _library(x, kernel, dilation=dilation, margin=margin), kernel)
    return upcast(pull(cotangent)[0])


def _overlaps(grid: tuple[int, int], kernel_size: int, dilation: int) -> Iterator[tuple]:
    """Every tap that sees something: ``(i, j)``, the outputs it adds to, the inputs it sees, as slices of h and w."""
    shifts = [dilation * (t - kernel_size // 2) for t in range(kernel_size)]
    for (i, down), (j, right) in itertools.product(enumerate(shifts), repeat=2):
        if abs(down) < grid[0] and abs(right) < grid[1]:
            outputs = tuple(slice(max(0, -s), side - max(0, s)) for s, side in zip((down, right), grid, strict=True))
            inputs = tuple(slice(max(0, s), side - max(0, -s)) for s, side in zip((down, right), grid, strict=True))
            yield (i, j), outputs, inputs


def _taps(x: jax.Array, kernel: jax.Array, *, dilation: int) -> jax.Array:
    """Sum of one product a tap, over the positions where it sees the input.

    Here and below a CPU multiplies in float32: XLA has no product of bfloat16 into float32 for it.
    """
    y = jnp.zeros((*x.shape[:3], kernel.shape[3]), upcast(x).dtype)
    for tap, outputs, inputs in _overlaps(x.shape[1:3], len(kernel), dilation):
        product = jnp.matmul(upcast(x[:, inputs[0], inputs[1]]), upcast(kernel[tap]))
        y = y.at[:, outputs[0], outputs[1]].add(product)
    return y.astype(x.dtype)


def _kernel_gradient(x: jax.Array, cotangent: jax.Array, *, kernel_size: int, dilation: int) -> jax.Array:
    gradient = jnp.zeros((kernel_size, kernel_size, x.shape[3], cotangent.shape[3]), upcast(x).dtype)
    for tap, outputs, inputs in _overlaps(x.shape[1:3], kernel_size, dilation):
        seen, pulled = x[:, inputs[0], inputs[1]], cotangent[:, outputs[0], outputs[1]]
        product = lax.dot_general(upcast(seen), upcast(pulled), _OVER_PIXELS)
        gradient = gradient.at[tap].set(product)
    return gradient


# Contracts the axes n, h and w of both operands.
_OVER_PIXELS = (((0, 1, 2), (0, 1, 2)), ((), ()))


def _kernel_gradient_in_chunks(x: jax.Array, cotangent: jax.Array, *, kernel_size: int) -> jax.Array:
    n, height, width, channels = x.shape
    margin, taps = kernel_size // 2, kernel_size**2
    row = width * taps * channels * x.dtype.itemsize
    rows = max(r for r in range(1, height + 1) if height % r == 0 and (r == 1 or r * row <= CHUNK))
    padded = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))

    def add(index: jax.Array, total: jax.Array) -> jax.Array:
        start = (index // (height // rows), index % (height // rows) * rows, 0, 0)
        seen = lax.dynamic_slice(padded, start, (1, rows + 2 * margin, width + 2 * margin, channels))
        neighbors = [seen[:, i : i + rows, j : j + width] for i in range(kernel_size) for j in range(kernel_size)]
        pulled = lax.dynamic_slice(cotangent, start, (1, rows, width, cotangent.shape[3]))
        gathered = jnp.concatenate(neighbors, axis=-1)
        return total + lax.dot_general(upcast(gathered), upcast(pulled), _OVER_PIXELS)

    zeros = pcast_like(jnp.zeros((taps * channels, cotangent.shape[3]), upcast(x).dtype), x)
    total = lax.fori_loop(0, n * height // rows, add, zeros)
    return total.reshape(kernel_size, kernel_size, channels, -1)
