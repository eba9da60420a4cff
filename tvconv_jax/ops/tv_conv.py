"""The operators as pure functions: a convolution with its own kernel at every pixel, and the depthwise one.

Both are written as ``k * k`` shifted copies of the input, each times its weights, summed. XLA fuses that into
one pass over memory, while gathering patches first (``implementation="patches"``) moves ``k * k`` times the
input. Nothing here knows about modules, models or files.

Axes: ``n`` images, ``h w`` input grid, ``ho wo`` output grid, ``c`` channels, ``t`` tap (row-major, ``k * k``).
"""

import functools
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from tvconv_jax.nn.checks import check_input, check_integers, check_taps
from tvconv_jax.ops.fused import upcast
from tvconv_jax.ops.sharding import match_vma, sum_over_devices

Implementation = Literal["shifted", "patches"]


def output_grid(height: int, width: int, strides: int, shrink: int = 0) -> tuple[int, int]:
    """Every ``strides``-th position; ``shrink`` are lost at the border, none with padding ``(k - 1) // 2``."""
    return (height - shrink - 1) // strides + 1, (width - shrink - 1) // strides + 1


def tv_conv(
    x: jax.Array, weights: jax.Array, *, strides: int = 1, implementation: Implementation = "shifted"
) -> jax.Array:
    """Translation-variant depthwise convolution: its own kernel at every output position, shared by all images.

    ``y[n, i, j, c] = sum_t x_padded[n, i * strides + t // k, j * strides + t % k, c] * weights[i, j, t, c]``

    Args:
        x: Images or features, ``[n, h, w, c]``, float32, bfloat16 or float64.
        weights: Kernels, ``[ho, wo, k*k, c]``, taps row-major, same dtype as ``x``; ``k`` is odd. Padding is
            zeros, ``(k - 1) // 2`` on each side.
        strides: Step between output positions, the same along both axes.
        implementation: ``"shifted"`` (fast) or ``"patches"`` (gathers patches, then einsum; the reference's
            formulation). Equal in value and gradient; forward mode, as ``jax.jvp``, goes through patches alone.

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
        return _shifted(x, weights, strides, (kernel_size - 1) // 2)
    if implementation == "patches":
        return _patches(x, weights, kernel_size, strides)
    raise ValueError(f"implementation={implementation!r} is not one of 'shifted', 'patches'.")


def depthwise_conv(
    x: jax.Array, kernel: jax.Array, *, strides: int = 1, dilation: int = 1, padding: int | None = None
) -> jax.Array:
    """Depthwise convolution in the same shifted form, so that comparisons on any backend are fair.

    XLA's own grouped convolution is 3-60x slower than this on a CPU.

    Args:
        x: Images or features, ``[n, h, w, c]``, float32, bfloat16 or float64.
        kernel: One kernel per channel, ``[k*k, c]``, taps row-major, same dtype as ``x``.
        strides: Step between output positions, the same along both axes.
        dilation: Step between the positions that taps see; more than 1 only with ``strides=1``.
        padding: Zeros on each side; ``None`` keeps the grid, ``dilation * (k - 1) // 2``.

    Returns:
        ``[n, ho, wo, c]`` in the dtype of ``x``; sums are kept in float32 or better.

    Raises:
        ValueError: If a rank, dtype, channel count, kernel size or option does not fit.
    """
    check_input(x, strides)
    if kernel.ndim != 2:
        raise ValueError(f"kernel has shape {kernel.shape}; it must be [k*k, channels].")
    check_taps("kernel", kernel.shape[0])
    if kernel.shape[1] != x.shape[3]:
        raise ValueError(f"kernel is for {kernel.shape[1]} channels, but x has {x.shape[3]}; they must agree.")
    if kernel.dtype != x.dtype:
        raise ValueError(f"kernel is {kernel.dtype}, but x is {x.dtype}; cast one of them.")
    check_integers(dilation=dilation, padding=0 if padding is None else padding)
    reach = dilation * (math.isqrt(kernel.shape[0]) - 1)
    padding = reach // 2 if padding is None else padding
    _check_reach(x, strides, dilation, padding, reach)
    if dilation == 1:
        return _shifted(x, kernel[None, None], strides, padding)
    return _dilated(x, kernel, dilation, padding, reach)


def _dilated(x: jax.Array, kernel: jax.Array, dilation: int, padding: int, reach: int) -> jax.Array:
    """Positions that share ``row % dilation`` and ``column % dilation`` see only each other: they become images."""
    n, height, width, channels = x.shape
    rows, columns = (-(-(side + 2 * padding) // dilation) for side in (height, width))
    end = [size * dilation - side - padding for size, side in ((rows, height), (columns, width))]
    x = jnp.pad(x, ((0, 0), (padding, end[0]), (padding, end[1]), (0, 0)))
    x = x.reshape(n, rows, dilation, columns, dilation, channels).transpose(2, 4, 0, 1, 3, 5)
    y = _shifted(x.reshape(-1, rows, columns, channels), kernel[None, None], 1, 0)
    y = y.reshape(dilation, dilation, n, *y.shape[1:]).transpose(2, 3, 0, 4, 1, 5)
    y = y.reshape(n, y.shape[1] * dilation, -1, channels)
    return y[:, : height + 2 * padding - reach, : width + 2 * padding - reach]


def _check_reach(x: jax.Array, strides: int, dilation: int, padding: int, reach: int) -> None:
    if dilation < 1 or (dilation > 1 and strides > 1):
        raise ValueError(f"dilation={dilation} must be positive, and 1 with strides={strides}.")
    if not 0 <= padding <= reach:
        raise ValueError(f"padding={padding} must be 0 to {reach}, what the kernel reaches over.")
    sides = [side for side in x.shape[1:3] if isinstance(side, int)]  # symbolic ones are known when they are called
    if sides and min(sides) + 2 * padding <= reach:
        grid = "x".join(map(str, x.shape[1:3]))
        raise ValueError(f"x {grid} with padding={padding} is smaller than the {reach + 1} that the kernel spans.")


def _check_weights(x: jax.Array, weights: jax.Array, strides: int) -> int:
    if weights.ndim != 4:
        raise ValueError(f"weights have shape {weights.shape}; they must be [ho, wo, k*k, c].")
    if weights.dtype != x.dtype:
        raise ValueError(f"weights are {weights.dtype}, but x is {x.dtype}; cast one of them.")
    _, height, width, channels = x.shape
    grid = output_grid(height, width, strides)
    if weights.shape[:2] != grid:
        raise ValueError(
            f"weights are for the output grid {weights.shape[0]}x{weights.shape[1]}, but x {height}x{width} with "
            f"strides={strides} gives {grid[0]}x{grid[1]}; resize x or make weights for that grid."
        )
    if weights.shape[3] != channels:
        raise ValueError(f"weights are for {weights.shape[3]} channels, but x has {channels}; they must agree.")
    return check_taps("weights", weights.shape[2])


def _pad(x: jax.Array, margin: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))


def _shifts(padded: jax.Array, kernel_size: int, strides: int, grid: tuple[int, int]) -> list[jax.Array]:
    """What each tap sees, ``k * k`` views ``[n, ho, wo, c]`` of the padded input."""
    n, _, _, c = padded.shape
    last_row, last_column = strides * (grid[0] - 1) + 1, strides * (grid[1] - 1) + 1
    return [
        lax.slice(padded, (0, i, j, 0), (n, i + last_row, j + last_column, c), (1, strides, strides, 1))
        for i in range(kernel_size)
        for j in range(kernel_size)
    ]


def _weighted_sum(padded: jax.Array, weights: jax.Array, strides: int, grid: tuple[int, int]) -> jax.Array:
    """Forward pass; ``weights`` is ``[ho, wo, t, c]`` or, the same everywhere, ``[1, 1, t, c]``."""
    kernel_size = math.isqrt(weights.shape[2])
    shifts = _shifts(padded, kernel_size, strides, grid)
    terms = (upcast(a) * upcast(weights[None, :, :, t]) for t, a in enumerate(shifts))
    return functools.reduce(jnp.add, terms).astype(padded.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shifted(x: jax.Array, weights: jax.Array, strides: int, margin: int) -> jax.Array:
    return _shifted_forward(x, weights, strides, margin)[0]


def _shifted_forward(x: jax.Array, weights: jax.Array, strides: int, margin: int) -> tuple[jax.Array, tuple]:
    padded, kernel_size = _pad(x, margin), math.isqrt(weights.shape[2])
    y = _weighted_sum(padded, weights, strides, output_grid(*padded.shape[1:3], strides, kernel_size - 1))
    return y, (padded, weights)  # the padded input alone is kept, so that x itself need not be written


def _shifted_backward(strides: int, margin: int, residuals: tuple, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    padded, weights = residuals
    grid = tuple(side - 2 * margin for side in padded.shape[1:3])
    grad_x = input_gradient(cotangent, [weights[None]], strides, margin, grid).astype(padded.dtype)
    same_everywhere = weights.shape[:2] == (1, 1) and cotangent.shape[1:3] != (1, 1)
    grad_taps = _weight_gradient(padded, cotangent, math.isqrt(weights.shape[2]), strides)
    if same_everywhere:
        grad_taps = jnp.sum(grad_taps, axis=(0, 1), keepdims=True)
    return match_vma((grad_x, grad_taps.astype(weights.dtype)), residuals)


_shifted.defvjp(_shifted_forward, _shifted_backward)


def input_gradient(
    cotangent: jax.Array, factors: Sequence[jax.Array], strides: int, margin: int, grid: tuple[int, int]
) -> jax.Array:
    """``[n, h, w, c]``: every input position gathers from the outputs that read it.

    Positions that share ``row % strides`` and ``column % strides`` are read by the same taps, so there is one sum
    for each such phase. Autodiff's sum of padded products asks of every element and tap whether it lies in the
    padding; here the padding is made once.

    Args:
        cotangent: ``[n, ho, wo, c]``; in place of ``c`` there may be several axes.
        factors: Arrays ``[n, ho, wo, k*k, c]`` whose product is the weights, with 1 for an axis that they share.
        strides: Step between output positions.
        margin: Zeros that were put around the input.
        grid: ``(h, w)``.
    """
    kernel_size = math.isqrt(factors[0].shape[3])
    n, *outputs = cotangent.shape[:3]
    rows, columns = (-(-side // strides) for side in grid)
    # Outputs that do not exist add nothing: zeros stand where the first and the last tap would look for them.
    before, after = -((margin - kernel_size + 1) // strides), (strides - 1 + margin) // strides
    around = [(before, size + after - side) for size, side in zip((rows, columns), outputs, strict=True)]

    def pad(tensor: jax.Array) -> jax.Array:
        """``[n, ho, wo, ...]`` with zeros around; what all outputs share as it is."""
        if list(tensor.shape[1:3]) != outputs:
            return tensor
        return jnp.pad(tensor, ((0, 0), *around, *[(0, 0)] * (tensor.ndim - 3)))

    gradient = pad(upcast(cotangent))
    factors = [jnp.moveaxis(pad(factor), 3, 0) for factor in factors]

    def readers(tensor: jax.Array, tap: tuple[int, int], phase: tuple[int, int]) -> jax.Array:
        """The outputs whose ``tap`` reads the phase, of ``[n, ho, wo, ...]``; what all share as it is."""
        if tensor.shape[1:3] != gradient.shape[1:3]:
            return tensor
        i, j = (before + (at + margin - t) // strides for at, t in zip(phase, tap, strict=True))
        return tensor[:, i : i + rows, j : j + columns]

    def phase_sum(phase: tuple[int, int]) -> jax.Array:
        total = jnp.zeros((n, rows, columns, *cotangent.shape[3:]), gradient.dtype)
        for tap in (divmod(t, kernel_size) for t in range(kernel_size**2)):
            if any((at + margin - t) % strides for at, t in zip(phase, tap, strict=True)):
                continue
            weights = (upcast(readers(factor[tap[0] * kernel_size + tap[1]], tap, phase)) for factor in factors)
            total += functools.reduce(jnp.multiply, weights, readers(gradient, tap, phase))
        return total

    if strides == 1:
        return phase_sum((0, 0))
    phases = [jnp.stack([phase_sum((i, j)) for j in range(strides)], axis=3) for i in range(strides)]
    full = jnp.stack(phases, axis=2).reshape(n, rows * strides, columns * strides, *cotangent.shape[3:])
    return full[:, : grid[0], : grid[1]]


def _weight_gradient(padded: jax.Array, cotangent: jax.Array, kernel_size: int, strides: int) -> jax.Array:
    """``[ho, wo, k*k, c]`` in float32 or better, summed over the batch.

    A CPU reads the batch four images at a time, so that the running sums stay in its cache (autodiff's nine
    reductions over the whole batch take 10-30x as long). Accelerators, where a loop would leave most of the
    chip idle, get the reductions.
    """
    loop, reduce = (functools.partial(f, kernel_size=kernel_size, strides=strides) for f in (_accumulate, _reduce))
    if padded.shape[0] == 0:
        return reduce(padded, cotangent)
    on_cpu = functools.partial(sum_over_devices, loop)
    return lax.platform_dependent(padded, cotangent, cpu=on_cpu, default=reduce)


def _accumulate(padded: jax.Array, cotangent: jax.Array, *, kernel_size: int, strides: int) -> jax.Array:
    grid = cotangent.shape[1:3]

    def add_image(n: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        image = lax.dynamic_slice_in_dim(padded, n, 1)
        gradient = upcast(lax.dynamic_index_in_dim(cotangent, n, keepdims=False))
        shifts = _shifts(image, kernel_size, strides, grid)
        return tuple(total + upcast(a[0]) * gradient for total, a in zip(sums, shifts, strict=True))

    zeros = tuple(jnp.zeros_like(upcast(cotangent[0])) for _ in range(kernel_size**2))
    images = padded.shape[0]
    unroll = 4 if isinstance(images, int) else 1  # a loop over a batch of symbolic size cannot be unrolled
    return jnp.stack(lax.fori_loop(0, images, add_image, zeros, unroll=unroll), axis=2)


def _reduce(padded: jax.Array, cotangent: jax.Array, *, kernel_size: int, strides: int) -> jax.Array:
    shifts = _shifts(padded, kernel_size, strides, cotangent.shape[1:3])
    gradient = upcast(cotangent)
    return jnp.stack([jnp.sum(upcast(a) * gradient, axis=0) for a in shifts], axis=2)


def _patches(x: jax.Array, weights: jax.Array, kernel_size: int, strides: int) -> jax.Array:
    n, _, _, channels = x.shape
    margin = (kernel_size - 1) // 2
    layout, square = ("NHWC", "HWIO", "NHWC"), (kernel_size, kernel_size)
    patches = lax.conv_general_dilated_patches(
        x, square, (strides, strides), [(margin, margin)] * 2, dimension_numbers=layout
    )
    patches = patches.reshape(n, *weights.shape[:2], channels, kernel_size**2)
    return jnp.einsum("nijct,ijtc->nijc", upcast(patches), upcast(weights)).astype(x.dtype)
