"""Decoupled dynamic filter: a kernel per pixel times a kernel per channel, both from the input.

Zhou, Jampani, Pi, Liu and Yang, "Decoupled Dynamic Filter Networks", CVPR 2021, section 3, Eq. 2-5,
https://arxiv.org/abs/2104.14107. Source of the authors: github.com/theFoxofSky/ddfnet (ddf/ddf.py).

    S = norm(F_S x)[n, i, j, t],   D = norm(F_2 relu(F_1 pool(x)))[n, t, c] * scale[t, c]
    y[n, i, j, c] = sum_t S[n, i, j, t] D[n, t, c] x[n, i + t // k, j + t % k, c]

``norm`` (filter normalization) takes off the mean over the ``k*k`` taps of one filter and divides by their
standard deviation (of a sample, ``k*k - 1``). It is not a batch norm, so it stays. Pixels' filters are multiplied by
``sqrt(2) / k``, channels' by learned scales that start from N(0, 2 / k^2), as in the authors' source. Its 1e-10 is
added to the variance here, so that a filter of equal taps has a finite gradient. Pixels' and channels' filters
that do not depend on the input give a depthwise convolution, and here it starts close to one: the last biases of both
branches are drawn, N(0, 2 / k^2), and their weights are small. Without that, blocks that have no shortcut hardly train.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax.nn.checks import check_images
from tvconv_jax.nn.layers import Shape, SpatialOperator
from tvconv_jax.nn.operators.dynamic import PixelDense, dense_init, pooled
from tvconv_jax.ops.dynamic_conv import dynamic_conv
from tvconv_jax.ops.precision import upcast


def filter_norm(filters: jax.Array, axis: int) -> jax.Array:
    """Normalize to mean zero and standard deviation one over the taps, along ``axis``."""
    centered = filters - jnp.mean(filters, axis, keepdims=True)
    variance = jnp.sum(jnp.square(centered), axis, keepdims=True) / max(filters.shape[axis] - 1, 1)
    return centered * jax.lax.rsqrt(variance + 1e-10)


class DDF(SpatialOperator):
    """Per-pixel times per-channel dynamic filters, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``."""

    squeeze: float = 0.2  #: Hidden channels of the channels' branch, as a share of ``c``; the paper's 0.2.

    scalable = ("scale",)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x)
        if self.kernel_size == 1:
            raise ValueError(
                "kernel_size=1 leaves a filter of one tap, and its norm makes it zero; it must be 3 or more."
            )
        n, channels, size = x.shape[0], x.shape[3], self.kernel_size**2
        gain = math.sqrt(2) / self.kernel_size
        strided = x[:, :: self.strides, :: self.strides]
        starts = {"kernel_init": dense_init, "bias_init": nn.initializers.normal(gain)}
        pixels = gain * filter_norm(upcast(PixelDense(size, **starts, dtype=x.dtype, name="pixels")(strided)), -1)
        context = pooled(x)
        hidden = max(1, int(channels * self.squeeze))
        hidden = nn.relu(nn.Dense(hidden, kernel_init=self.kernel_init, dtype=context.dtype, name="squeeze")(context))
        own = nn.Dense(size * channels, **starts, dtype=context.dtype, name="channels")(hidden).reshape(
            n, size, channels
        )
        scale = self.param("scale", nn.initializers.normal(gain), (size, channels), jnp.float32)
        own = filter_norm(own, 1) * scale.astype(context.dtype)[None]
        return dynamic_conv(x, pixels[..., None], own[:, None, None], strides=self.strides)

    def cost(self, x: Shape, y: Shape) -> int:
        """Count average, ReLU, both filters' norms and two products per tap and element."""
        taps, hidden = self.kernel_size**2, max(1, int(x[-1] * self.squeeze))
        norms = 2 * taps * (math.prod(y[:-1]) + x[0] * x[-1])
        return math.prod(x) + x[0] * hidden + norms + 2 * taps * math.prod(y)
