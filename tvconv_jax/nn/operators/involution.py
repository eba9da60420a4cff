"""Involution: every pixel yields its own kernel, shared by the channels of a group.

Li, Hu, Wang, Li, She, Zhu, Zhang and Chen, "Involution: Inverting the Inherence of Convolution for Visual
Recognition", CVPR 2021, section 3, Algorithm 1, https://arxiv.org/abs/2103.06255. Source of the authors:
github.com/d-li14/involution (involution_naive.py).

    H[n, i, j, t, g] = W_1 relu(norm(W_0 x[n, i, j])),   y = x * H,   channel c uses the group g = c // group_channels

With strides the kernels come from the input averaged over ``strides x strides`` pixels, as the authors have it.
The start differs from theirs, for blocks without a shortcut: the bias of ``W_1`` is drawn as depthwise kernels and its
weights are small, so it starts close to a depthwise convolution with kernels shared within a group. Zero weights of
``W_1`` give exactly that. Their groups have 16 channels; here the smallest number from 16 on that divides the channels.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax.nn.boxes import reboxed, unboxed
from tvconv_jax.nn.checks import check_images
from tvconv_jax.nn.layers import Shape, SpatialOperator, depthwise_cost
from tvconv_jax.nn.norm import BatchNorm
from tvconv_jax.nn.operators.dynamic import PixelDense, average_pool, dense_init, largest_divisor, pool_cost
from tvconv_jax.ops.dynamic_conv import dynamic_conv


class Involution(SpatialOperator):
    """Per-pixel kernels from the pixel itself, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``."""

    has_norm = True

    reduction: int = 4  #: Channels to one of the hidden layer; the authors' 4.
    group_channels: int = 16  #: Channels that share a kernel, at least; the authors' 16.

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = check_images("x", x)
        n, height, width, channels = x.shape
        groups = largest_divisor(channels, channels // self.group_channels)
        hidden = max(1, channels // self.reduction)
        pooled = average_pool(x, self.strides)
        reduce = PixelDense(hidden, use_bias=False, kernel_init=self.kernel_init, dtype=x.dtype, name="reduce")
        reduced = BatchNorm(activation="relu", name="norm")(reduce(pooled), train=train)

        def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Any:
            kernel = self.kernel_init(key, (self.kernel_size, self.kernel_size, 1, groups), dtype)
            return reboxed(kernel, unboxed(kernel).reshape(shape), (None,))

        size = self.kernel_size**2 * groups
        span = PixelDense(size, kernel_init=dense_init, bias_init=init, dtype=x.dtype, name="span")
        kernels = span(reduced)
        kernels = kernels.reshape(*pooled.shape[:3], self.kernel_size**2, groups, 1)
        y = dynamic_conv(x.reshape(n, height, width, groups, -1), kernels, strides=self.strides)
        return y.reshape(pooled.shape)

    def cost(self, x: Shape, y: Shape) -> int:
        return pool_cost(self, x) + depthwise_cost(self, x, y)
