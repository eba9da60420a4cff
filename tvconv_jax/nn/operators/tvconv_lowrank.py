"""Low-rank TVConv: a few depthwise convolutions, each times a gain per pixel and channel.

Ours. Trained TVConv kernels are, per channel, a matrix of taps by pixels that is nearly of rank 1 or 2. The generator
of Chen et al., CVPR 2022, section 3.2, https://arxiv.org/abs/2203.10489, yields the gains.

    W[i, j, t, c] = sum_r G[i, j, r, c] K[r, t, c],   G = B(A),   so   y = sum_r G_r * (x convolved with K_r)

It costs ``rank`` depthwise convolutions and as many products, in training too. Rank ``k*k`` can be any TVConv;
rank 1 with equal gains is the depthwise convolution. Frozen, gains and kernels are kept.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax.nn.checks import check_images
from tvconv_jax.nn.layers import GeneratedOperator, Shape, freeze_generators
from tvconv_jax.nn.operators.dynamic import stacked
from tvconv_jax.ops.precision import upcast
from tvconv_jax.ops.tv_conv import depthwise_conv


class TVConvLowrank(GeneratedOperator):
    """Sum of ``rank`` depthwise convolutions times generated gains, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``."""

    rank: int = 2  #: Depthwise kernels per channel; ``kernel_size**2`` of them can be any TVConv.

    generated = freeze_generators("gains", "bias")

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x)
        channels = x.shape[3]
        shape = (self.rank, self.kernel_size, self.kernel_size, 1, channels)
        kernels = self.param("kernel", stacked(self.kernel_init), shape, jnp.float32)
        kernels = kernels.reshape(self.rank, -1, channels).astype(x.dtype)
        values = self.values(x, gains=(self.rank, channels))
        terms = (
            upcast(depthwise_conv(x, kernels[r], strides=self.strides)) * upcast(values["gains"][None, :, :, r])
            for r in range(self.rank)
        )
        y = functools.reduce(jnp.add, terms).astype(x.dtype)
        return y + values["bias"].astype(x.dtype)[None] if self.use_bias else y

    def cost(self, x: Shape, y: Shape) -> int:
        return math.prod(y) * (self.rank * (self.kernel_size**2 + 1) + self.use_bias)
