"""The gradient of the kernels of a convolution in shifted form: sums over the batch, as each platform does them best.

Axes: ``n`` images, ``h w`` padded input grid, ``ho wo`` output grid, ``c`` channels.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from tvconv_jax.ops.precision import upcast
from tvconv_jax.ops.sharding import sum_over_devices
from tvconv_jax.ops.shifts import shifts

# The weights' gradient on a GPU: sums at a time that keep the chip busy (about what its multiprocessors hold), and the
# fewest images in one sum, so that the sums are small beside what they are made from.
SUMS, IMAGES = 2**18, 16


def weight_gradient(padded: jax.Array, cotangent: jax.Array, kernel_size: int, strides: int) -> jax.Array:
    """Return ``[ho, wo, k*k, c]`` in float32 or better, summed over the batch.

    A CPU reads the batch four images at a time, so that the running sums stay in its cache; autodiff's nine
    reductions over the whole batch take 10-30x as long. A GPU would read input and cotangent five times for them, and
    sums parts of the batch in one pass. A TPU runs the reductions: XLA makes one pass of them there.
    """
    methods = (_accumulate, _window_sums, _reduce)
    loop, windows, reduce = (functools.partial(f, kernel_size=kernel_size, strides=strides) for f in methods)
    if padded.shape[0] == 0:
        return reduce(padded, cotangent)
    on_cpu, on_gpu = (functools.partial(sum_over_devices, function) for function in (loop, windows))
    if not all(isinstance(size, int) for size in cotangent.shape):  # windows need sizes
        on_gpu = reduce
    return lax.platform_dependent(padded, cotangent, cpu=on_cpu, cuda=on_gpu, rocm=on_gpu, default=reduce)


def _accumulate(padded: jax.Array, cotangent: jax.Array, *, kernel_size: int, strides: int) -> jax.Array:
    grid = cotangent.shape[1:3]

    def add_image(n: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        image = lax.dynamic_slice_in_dim(padded, n, 1)
        gradient = upcast(lax.dynamic_index_in_dim(cotangent, n, keepdims=False))
        views = shifts(image, kernel_size, strides, grid)
        return tuple(total + upcast(a[0]) * gradient for total, a in zip(sums, views, strict=True))

    zeros = tuple(jnp.zeros_like(upcast(cotangent[0])) for _ in range(kernel_size**2))
    images = padded.shape[0]
    unroll = 4 if isinstance(images, int) else 1  # a loop over a batch of symbolic size cannot be unrolled
    return jnp.stack(lax.fori_loop(0, images, add_image, zeros, unroll=unroll), axis=2)


def _reduce(padded: jax.Array, cotangent: jax.Array, *, kernel_size: int, strides: int) -> jax.Array:
    views = shifts(padded, kernel_size, strides, cotangent.shape[1:3])
    gradient = upcast(cotangent)
    return jnp.stack([jnp.sum(upcast(a) * gradient, axis=0) for a in views], axis=2)


def _window_sums(padded: jax.Array, cotangent: jax.Array, *, kernel_size: int, strides: int) -> jax.Array:
    """Sum the taps' products over windows of the batch, for all taps in one kernel, then over the windows."""
    images, *outputs = cotangent.shape
    windows = min(-(-SUMS // math.prod(outputs)), max(images // IMAGES, 1))
    windows = 1 << (windows - 1).bit_length()  # divides most batches, so that no window has to test for its end
    size = -(-images // windows)
    gradient = upcast(cotangent)
    products = tuple(upcast(a) * gradient for a in shifts(padded, kernel_size, strides, cotangent.shape[1:3]))
    zeros = (jnp.zeros((), gradient.dtype),) * len(products)
    window = (size, *[1] * len(outputs))
    padding = ((0, -images % size), *[(0, 0)] * len(outputs))
    parts = lax.reduce_window(products, zeros, _add, window, window, padding)
    return jnp.sum(jnp.stack(parts, axis=3), axis=0)


def _add(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))
