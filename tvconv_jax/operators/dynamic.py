"""What the operators share: kernels that differ from image to image, mixing of experts, pooling, checks."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from tvconv_jax.fused import wide
from tvconv_jax.ops import output_grid

Initializer = nn.initializers.Initializer

# What every linear layer of the reference starts from.
dense_init = nn.initializers.normal(0.01)


def taps(x: jax.Array, kernel_size: int, *, strides: int = 1) -> list[jax.Array]:
    """What each tap of a window sees: ``k * k`` views ``[n, ho, wo, ...]`` of ``[n, h, w, ...]``, zeros outside."""
    n, height, width, *rest = x.shape
    margin, whole = (kernel_size - 1) // 2, [(0, 0)] * len(rest)
    padded = jnp.pad(x, [(0, 0), (margin, margin), (margin, margin), *whole])
    rows, columns = (strides * (side - 1) + 1 for side in output_grid(height, width, strides))
    return [
        lax.slice(
            padded,
            (0, i, j, *[0] * len(rest)),
            (n, i + rows, j + columns, *rest),
            (1, strides, strides, *[1] * len(rest)),
        )
        for i in range(kernel_size)
        for j in range(kernel_size)
    ]


def dynamic_conv(x: jax.Array, *factors: jax.Array, strides: int = 1) -> jax.Array:
    """Depthwise convolution whose kernels may differ by image, position and channel, in one pass over the input.

    ``y[n, i, j, c] = sum_t x_padded[n, i * strides + t // k, j * strides + t % k, c] * weights[n, i, j, t, c]``

    Args:
        x: ``[n, h, w, c]``; in place of ``c`` there may be several axes.
        *factors: Arrays ``[n, ho, wo, k*k, c]`` whose product is the weights; what they do not depend on is an
            axis of 1, so that the product of several never lies in memory.
        strides: Step between output positions. Padding is zeros, ``(k - 1) // 2`` on each side.

    Returns:
        ``[n, ho, wo, c]`` in the dtype of ``x``; sums are kept in float32 or better.
    """
    n, *grid, _ = factors[0].shape[:4]
    if len(factors) == 1 and (n, *grid, *factors[0].shape[4:]) == (x.shape[0], 1, 1, *x.shape[3:]):
        return _image_conv(x, factors[0], strides)
    return _weighted_sum(x, factors, strides)


def _weighted_sum(x: jax.Array, factors: tuple[jax.Array, ...], strides: int) -> jax.Array:
    terms = []
    for t, seen in enumerate(taps(x, math.isqrt(factors[0].shape[3]), strides=strides)):
        term = wide(seen)
        for factor in factors:
            term = term * factor[:, :, :, t].astype(term.dtype)
        terms.append(term)
    return functools.reduce(jnp.add, terms).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _image_conv(x: jax.Array, weights: jax.Array, strides: int) -> jax.Array:
    """One kernel an image, ``[n, 1, 1, k*k, c]``, with a gradient of its own."""
    return _weighted_sum(x, (weights,), strides)


def _image_conv_forward(x: jax.Array, weights: jax.Array, strides: int) -> tuple[jax.Array, tuple]:
    return _image_conv(x, weights, strides), (x, weights)


def _image_conv_backward(strides: int, residuals: tuple, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, weights = residuals
    _, pull = jax.vjp(lambda x: _weighted_sum(x, (weights,), strides), x)
    gradient = functools.partial(_kernel_gradient, kernel_size=math.isqrt(weights.shape[3]), strides=strides)

    def by_image(x: jax.Array, cotangent: jax.Array) -> jax.Array:
        return lax.map(lambda one: gradient(one[0][None], one[1][None])[0], (x, cotangent))

    # A CPU sums one image at a time, which stays in its cache: four times as fast as over the whole batch.
    grad_weights = lax.platform_dependent(x, cotangent, cpu=by_image, default=gradient)
    return pull(cotangent)[0], grad_weights.astype(weights.dtype)


def _kernel_gradient(x: jax.Array, cotangent: jax.Array, *, kernel_size: int, strides: int) -> jax.Array:
    """``[n, 1, 1, k*k, c]`` in float32 or better."""
    seen = taps(x, kernel_size, strides=strides)
    return jnp.stack([jnp.sum(wide(a) * wide(cotangent), (1, 2), keepdims=True) for a in seen], axis=3)


_image_conv.defvjp(_image_conv_forward, _image_conv_backward)


def pooled(x: jax.Array) -> jax.Array:
    """Average over the grid, ``[n, h, w, c]`` -> ``[n, c]`` in float32 or better."""
    return jnp.mean(wide(x), axis=(1, 2))


def average_pool(x: jax.Array, strides: int) -> jax.Array:
    """Averages ``strides x strides`` pixels, fewer at an odd grid's end: ``[n, h, w, c]`` -> ``[n, ho, wo, c]``."""
    if strides == 1:
        return x
    ends = [(0, -side % strides) for side in x.shape[1:3]]
    window = (strides, strides)
    return nn.avg_pool(wide(x), window, strides=window, padding=ends, count_include_pad=False).astype(x.dtype)


def stacked(init: Initializer) -> Initializer:
    """Draws every entry of the first axis on its own, as if it were a parameter of its own."""

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        return jnp.stack([init(key, shape[1:], dtype) for key in jax.random.split(key, shape[0])])

    return draw


def mixed(routes: jax.Array, experts: jax.Array) -> jax.Array:
    """Each image's own mix of experts, ``[n, e]``, ``[e, ...]`` -> ``[n, ...]`` in the dtype of ``routes``."""
    return jnp.tensordot(routes, experts.astype(routes.dtype), axes=1)


class MixedDepthwise(nn.Module):
    """Depthwise convolution with each image's mix of kernels: the kernels are mixed, then convolved with once.

    Attributes:
        kernel_size: Odd side of the kernels.
        strides: Step between output positions.
        use_bias: Whether a bias per channel, mixed likewise, is added.
        kernel_init: What every kernel starts from.
    """

    kernel_size: int
    strides: int
    use_bias: bool
    kernel_init: Initializer

    @nn.compact
    def __call__(self, x: jax.Array, routes: jax.Array) -> jax.Array:
        """``[n, h, w, c]`` and the experts' shares ``[n, e]`` -> ``[n, ho, wo, c]``."""
        experts, channels = routes.shape[1], x.shape[3]
        shape = (experts, self.kernel_size, self.kernel_size, 1, channels)
        kernels = self.param("kernel", stacked(self.kernel_init), shape, jnp.float32)
        weights = mixed(routes, kernels.reshape(experts, 1, 1, -1, channels))
        y = dynamic_conv(x, weights, strides=self.strides)
        if self.use_bias:
            bias = mixed(routes, self.param("bias", nn.initializers.zeros, (experts, channels), jnp.float32))
            y = y + bias.astype(x.dtype)[:, None, None]
        return y


def largest_divisor(number: int, at_most: int) -> int:
    """The largest divisor of ``number`` that is at most ``at_most``; 1 if there is none."""
    return max((d for d in range(1, min(number, at_most) + 1) if number % d == 0), default=1)


def head_count(channels: int, at_most: int) -> int:
    """Heads that split the channels evenly, two channels or more each."""
    return largest_divisor(channels, min(at_most, max(1, channels // 2)))


def check_call(x: jax.Array, kernel_size: int) -> None:
    """Raises a ``ValueError`` for an even kernel, or an input that is not ``[n, h, w, c]``."""
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size={kernel_size} must be odd, so that every pixel has a centre tap.")
    if x.ndim != 4:
        raise ValueError(f"x has shape {x.shape}; it must be [n, h, w, c]. Add the batch axis with x[None].")


def check_grid(module: nn.Module, built: tuple[int, ...], grid: tuple[int, ...]) -> None:
    """Raises a ``ValueError`` if the module's parameters, of shape ``built``, are for another grid than the input's."""
    if built[: len(grid)] != grid:
        sides = ("x".join(map(str, shape)) for shape in (built[: len(grid)], grid))
        raise ValueError(
            f"{module.name or type(module).__name__} was built for the grid {next(sides)}, but this input gives "
            f"{next(sides)}; its parameters belong to positions: resize the input or initialise anew."
        )
