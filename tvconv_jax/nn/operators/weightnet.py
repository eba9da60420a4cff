"""WeightNet: two small linear layers turn each image's average into its depthwise kernel.

Ma, Zhang, Huang and Sun, "WeightNet: Revisiting the Design Space of Weight Networks", ECCV 2020, section 3,
https://arxiv.org/abs/2007.11823. Source of the authors: github.com/megvii-model/WeightNet (weightnet.py).

    a(x) = sigmoid(F_1 F_0 pool(x)),   W(x)[t, c] = sum_m a(x)[m, c] F_2[m, t, c],   y = x * W(x)

``F_0`` reduces to ``max(16, c / 16)``; ``F_2`` is the grouped layer, one group a channel with ``M / G`` inputs, as
the authors have it for a depthwise kernel (``M = G = 2``, so one input). A constant ``a`` gives the depthwise
convolution. Theirs computes ``F_0 pool(x)`` once per block, from the block's input; here every operator sees its
own input only. There is no batch norm in it.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax.nn.checks import check_images
from tvconv_jax.nn.layers import Shape, SpatialOperator, add_bias, depthwise_cost
from tvconv_jax.nn.operators.dynamic import dense_init, dynamic_conv, pooled, stacked


class WeightNet(SpatialOperator):
    """Per-image depthwise kernel from a grouped linear layer, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``."""

    inputs: int = 1  #: Activations behind each channel's kernel, the paper's ``M / G``.
    use_bias: bool = False  #: Whether a bias per channel is added.

    scalable = ("kernel", "bias")

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x)
        n, channels = x.shape[0], x.shape[3]
        context = pooled(x)
        reduced = nn.Dense(max(16, channels // 16), kernel_init=dense_init, dtype=context.dtype, name="reduce")(context)
        activate = nn.Dense(self.inputs * channels, kernel_init=dense_init, dtype=context.dtype, name="activate")
        active = nn.sigmoid(activate(reduced)).reshape(n, self.inputs, 1, channels)
        shape = (self.inputs, self.kernel_size, self.kernel_size, 1, channels)
        kernels = self.param("kernel", stacked(self.kernel_init), shape, jnp.float32)
        kernels = kernels.reshape(1, self.inputs, -1, channels).astype(context.dtype)
        weights = jnp.sum(active * kernels, axis=1)[:, None, None]
        y = dynamic_conv(x, weights, strides=self.strides)
        return add_bias(self, y) if self.use_bias else y

    def cost(self, x: Shape, y: Shape) -> int:
        """Count average, sigmoids, the grouped linear layer and the convolution."""
        return math.prod(x) + x[0] * self.inputs * x[-1] * (1 + self.kernel_size**2) + depthwise_cost(self, x, y)
