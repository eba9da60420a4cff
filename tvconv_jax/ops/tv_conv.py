"""Translation-variant and depthwise convolution as pure functions.

Both sum ``k * k`` shifted copies of the input, each times its weights. XLA fuses that into one pass over memory, while
gathering patches first (``implementation="patches"``) moves ``k * k`` times the input.

Axes: ``n`` images, ``h w`` input grid, ``ho wo`` output grid, ``c`` channels, ``t`` tap (row-major, ``k * k``).
"""

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from tvconv_jax.ops.checks import check_input, check_kernel, check_reach, is_integer
from tvconv_jax.ops.platform import keep_order, on_gpu
from tvconv_jax.ops.precision import upcast
from tvconv_jax.ops.sharding import map_over_devices, match_vma, sum_over_devices
from tvconv_jax.ops.shifts import input_gradient, over_images, pad, shifts, split_taps, spread_taps

Implementation = Literal["shifted", "patches"]

# The weights' gradient on a GPU: sums at a time that keep the chip busy (about what its multiprocessors hold), and the
# fewest images in one sum, so that the sums are small beside what they are made from.
SUMS, IMAGES = 2**18, 16


def output_grid(height: int, width: int, strides: int, shrink: int = 0) -> tuple[int, int]:
    """Return the output's ``(ho, wo)``; the border loses ``shrink`` positions, none with padding ``(k - 1) // 2``."""
    return (height - shrink - 1) // strides + 1, (width - shrink - 1) // strides + 1


def tv_conv(
    x: jax.Array, weights: jax.Array, *, strides: int = 1, implementation: Implementation = "shifted"
) -> jax.Array:
    """Return the translation-variant convolution: one kernel per output position and channel, shared by all images.

    ``y[n, i, j, c] = sum_t x_padded[n, i * strides + t // k, j * strides + t % k, c] * weights[i, j, t, c]``

    Args:
        x: Images or features, ``[n, h, w, c]``, float32, bfloat16 or float64.
        weights: Kernels, ``[ho, wo, k*k, c]``, taps row-major, same dtype as ``x``; ``k`` is odd. Padding is
            zeros, ``(k - 1) // 2`` on each side.
        strides: Step between output positions, the same along both axes.
        implementation: ``"shifted"`` (fast) or ``"patches"`` (patches, then einsum, as the reference). Equal in value
            and gradient; forward mode, as ``jax.jvp`` and ``jax.linearize``, works with ``"patches"`` only.

    Returns:
        ``[n, ho, wo, c]`` in the dtype of ``x``; sums are kept in float32 or better.

    Raises:
        ValueError: If a rank, dtype, grid, kernel size or option does not fit.

    Source: Chen et al., "TVConv: Efficient Translation Variant Convolution for Layout-aware Visual
    Processing", CVPR 2022, Eq. 1-3, https://arxiv.org/abs/2203.10489.
    """
    check_input(x, strides)
    kernel_size = _check_weights(x, weights, strides)
    if implementation == "shifted":
        try:
            return _shifted(x, weights, strides, (kernel_size - 1) // 2)
        except TypeError as error:
            if "jvp" not in str(error):
                raise
            raise TypeError('forward mode, as jax.jvp or jax.jacfwd, needs implementation="patches".') from error
    if implementation == "patches":
        return _patches(x, weights, kernel_size, strides)
    raise ValueError(f"implementation={implementation!r} is not one of 'shifted', 'patches'.")


def depthwise_conv(
    x: jax.Array, kernel: jax.Array, *, strides: int = 1, dilation: int = 1, padding: int | None = None
) -> jax.Array:
    """Return the depthwise convolution in the same shifted form, so that comparisons on any backend are fair.

    XLA's grouped convolution is 3-60x slower on a CPU.

    Args:
        x: Images or features, ``[n, h, w, c]``, float32, bfloat16 or float64.
        kernel: One kernel per channel, ``[k*k, c]``, taps row-major, same dtype as ``x``.
        strides: Step between output positions, the same along both axes.
        dilation: Step between the taps; more than 1 only with ``strides=1``.
        padding: Zeros on each side; ``None`` keeps the grid, ``dilation * (k - 1) // 2``.

    Returns:
        ``[n, ho, wo, c]`` in the dtype of ``x``; sums are kept in float32 or better.

    Raises:
        ValueError: If a rank, dtype, channel count, kernel size or option does not fit.
    """
    check_input(x, strides)
    if kernel.ndim != 2:
        raise ValueError(f"kernel has shape {kernel.shape}; it must be [k*k, channels].")
    kernel_size = check_kernel("kernel", kernel, x)
    for name, value in (("dilation", dilation), ("padding", 0 if padding is None else padding)):
        if not is_integer(value):
            raise ValueError(f"{name}={value!r} must be one integer, the same along both axes.")
    reach = dilation * (kernel_size - 1)
    padding = reach // 2 if padding is None else padding
    check_reach(x, strides, dilation, padding, reach)
    if dilation == 1:
        return _shifted(x, kernel[None, None], strides, padding)
    return _dilated(x, kernel, dilation, padding, reach)


def _dilated(x: jax.Array, kernel: jax.Array, dilation: int, padding: int, reach: int) -> jax.Array:
    """Convolve each phase as an image: positions with equal ``row % dilation`` and ``column % dilation``."""
    n, height, width, channels = x.shape
    rows, columns = (-(-(size + 2 * padding) // dilation) for size in (height, width))
    end = [phase * dilation - size - padding for phase, size in ((rows, height), (columns, width))]
    x = jnp.pad(x, ((0, 0), (padding, end[0]), (padding, end[1]), (0, 0)))
    x = x.reshape(n, rows, dilation, columns, dilation, channels).transpose(2, 4, 0, 1, 3, 5)
    y = _shifted(x.reshape(-1, rows, columns, channels), kernel[None, None], 1, 0)
    y = y.reshape(dilation, dilation, n, *y.shape[1:]).transpose(2, 3, 0, 4, 1, 5)
    y = y.reshape(n, y.shape[1] * dilation, -1, channels)
    return y[:, : height + 2 * padding - reach, : width + 2 * padding - reach]


def _check_weights(x: jax.Array, weights: jax.Array, strides: int) -> int:
    if not hasattr(weights, "ndim"):
        kind = type(weights).__name__
        raise ValueError(f"weights are a {kind}, not an array [ho, wo, k*k, c]; of generated kernels give .weights.")
    if weights.ndim != 4:
        raise ValueError(f"weights have shape {weights.shape}; they must be [ho, wo, k*k, c].")
    grid = output_grid(*x.shape[1:3], strides)
    if weights.shape[2] == 1 != weights.shape[1] and weights.shape[0] == weights.shape[1] and weights.shape[:2] != grid:
        raise ValueError(
            f"weights have shape {weights.shape}, as one kernel for all positions; they must be [ho, wo, k*k, c], here "
            f"[{grid[0]}, {grid[1]}, k*k, {x.shape[3]}]. For one kernel call depthwise_conv."
        )
    kernel_size = check_kernel("weights", weights, x)
    if weights.shape[:2] != grid:
        raise ValueError(
            f"weights are for the output grid {weights.shape[0]}x{weights.shape[1]}, but x {x.shape[1]}x{x.shape[2]} "
            f"with strides={strides} gives {grid[0]}x{grid[1]}; they must be [ho, wo, k*k, c]: resize x or make "
            "weights for that grid."
        )
    return kernel_size


def _weighted_sum(padded: jax.Array, weights: jax.Array, strides: int, grid: tuple[int, int]) -> jax.Array:
    """Return the output; ``weights`` is ``[ho, wo, t, c]`` or, shared by all positions, ``[1, 1, t, c]``."""
    views = shifts(padded, math.isqrt(weights.shape[2]), strides, grid)
    terms = (upcast(a) * over_images(upcast(tap), a.shape) for a, tap in zip(views, split_taps(weights), strict=True))
    return functools.reduce(jnp.add, terms).astype(padded.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shifted(x: jax.Array, weights: jax.Array, strides: int, padding: int) -> jax.Array:
    return _shifted_forward(x, weights, strides, padding)[0]


def _channels_last(x: jax.Array) -> jax.Array:
    """Return ``x [n, h, w, c]``, which a GPU keeps in this order in memory; each device its images.

    The partitioner does not know the constraint, and would give every device the whole batch.
    """
    return on_gpu(functools.partial(map_over_devices, keep_order), lambda x: x, x)


def _shifted_forward(x: jax.Array, weights: jax.Array, strides: int, padding: int) -> tuple[jax.Array, tuple]:
    x, kernel_size = _channels_last(x), math.isqrt(weights.shape[2])
    padded = pad(x, padding)
    y = _weighted_sum(padded, weights, strides, output_grid(*padded.shape[1:3], strides, kernel_size - 1))
    return _channels_last(y), (x, weights)


def _shifted_backward(
    strides: int, padding: int, residuals: tuple, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, weights = residuals
    cotangent = _channels_last(cotangent)
    grad_x = _gradient_of_input(upcast(cotangent), upcast(weights), strides, padding, x.shape[1:3]).astype(x.dtype)
    # XLA pads once for both passes, or where the padded input is read: a residual of its own would be written.
    grad_taps = weight_gradient(pad(x, padding), cotangent, math.isqrt(weights.shape[2]), strides)
    if weights.shape[:2] == (1, 1) != cotangent.shape[1:3]:  # shared by all positions
        grad_taps = jnp.sum(grad_taps, axis=(0, 1), keepdims=True)
    return match_vma((_channels_last(grad_x), grad_taps.astype(weights.dtype)), residuals)


_shifted.defvjp(_shifted_forward, _shifted_backward)


def _gradient_of_input(cotangent: jax.Array, weights: jax.Array, strides: int, *where: Any) -> jax.Array:
    def by_phase(cotangent: jax.Array, weights: jax.Array) -> jax.Array:
        return input_gradient(cotangent, [weights[None]], strides, *where)

    def by_tap(cotangent: jax.Array, weights: jax.Array) -> jax.Array:
        return spread_taps(cotangent, weights, strides, *where)

    return on_gpu(by_tap, by_phase, cotangent, weights)


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
    on_cpu, on_cuda = (functools.partial(sum_over_devices, function) for function in (loop, windows))
    if not all(isinstance(size, int) for size in cotangent.shape):  # windows need sizes
        on_cuda = reduce
    return lax.platform_dependent(padded, cotangent, cpu=on_cpu, cuda=on_cuda, rocm=on_cuda, default=reduce)


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


def _patches(x: jax.Array, weights: jax.Array, kernel_size: int, strides: int) -> jax.Array:
    n, _, _, channels = x.shape
    window, padding = (kernel_size, kernel_size), [((kernel_size - 1) // 2,) * 2] * 2
    layout = ("NHWC", "HWIO", "NHWC")
    patches = lax.conv_general_dilated_patches(x, window, (strides, strides), padding, dimension_numbers=layout)
    patches = patches.reshape(n, *weights.shape[:2], channels, kernel_size**2)
    return jnp.einsum("nijct,ijtc->nijc", upcast(patches), upcast(weights)).astype(x.dtype)
