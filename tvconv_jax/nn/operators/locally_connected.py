"""Locally connected depthwise convolution: a free kernel at every pixel, as a parameter.

Chen et al., "TVConv: Efficient Translation Variant Convolution for Layout-aware Visual Processing", CVPR 2022,
section 3.1, Eq. 2, https://arxiv.org/abs/2203.10489: the kernels that TVConv factors into maps and a generator.

    y[n, i, j, c] = sum_t weights[i, j, t, c] x[n, i + t // k, j + t % k, c]

All kernels start equal, as a depthwise convolution; the paper gives no start. There is nothing to freeze: the kernels
are the parameters.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax.nn.boxes import reboxed, unboxed
from tvconv_jax.nn.checks import check_built, check_images
from tvconv_jax.nn.layers import SpatialOperator, depthwise_cost
from tvconv_jax.ops.tv_conv import output_grid, tv_conv


class LocallyConnected(SpatialOperator):
    """Depthwise convolution with a parameter per pixel, tap and channel, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``."""

    use_bias: bool = False  #: Whether a bias per position and channel is added.

    cost = depthwise_cost

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x)
        grid, channels = output_grid(*x.shape[1:3], self.strides), x.shape[3]
        check_built(self, "weights", grid)

        def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Any:
            kernel = self.kernel_init(key, (self.kernel_size, self.kernel_size, 1, channels), dtype)
            everywhere = jnp.broadcast_to(unboxed(kernel).reshape(1, 1, -1, channels), shape)
            return reboxed(kernel, everywhere, (None, None, None, 3))

        weights = self.param("weights", init, (*grid, self.kernel_size**2, channels), jnp.float32)
        y = tv_conv(x, weights.astype(x.dtype), strides=self.strides)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (*grid, channels), jnp.float32).astype(x.dtype)[None]
        return y
