"""Dynamic convolution on the pointwise kernels: each image's attention over a few learned matrices.

Chen et al., "Dynamic Convolution: Attention over Convolution Kernels", CVPR 2020, sections 3.1 and 3.2,
https://arxiv.org/abs/1912.03458; see :mod:`tvconv_jax.nn.operators.dyconv_dw` for the equations and for what differs.

It takes the place of the 1x1 convolutions of a block, while its depthwise convolution stays: models take it as
``pointwise=``. One expert, or equal ones, give the plain 1x1 convolution.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax.nn.checks import Checked, check_images
from tvconv_jax.nn.layers import Shape, kaiming_normal
from tvconv_jax.nn.operators.dynamic import KernelAttention, mixed, stacked


class DyConvPW(Checked):
    """Per-image attention over 1x1 kernels, ``[n, h, w, c]`` -> ``[n, h, w, features]``."""

    features: int  #: Channels of the output.
    kernel_init: nn.initializers.Initializer = kaiming_normal  #: Initializer of every kernel.
    experts: int = 4  #: Kernels to mix; the paper's 4.
    reduction: int = 4  #: Channels to one of the attention's hidden layer; the paper's 4.
    temperature: float = 30.0  #: Of the softmax; the paper starts at 30.

    scalable = ("kernel",)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x)
        n, height, width, channels = x.shape
        shares = KernelAttention(self.experts, self.reduction, self.temperature, name="attention")(x)
        shape = (self.experts, channels, self.features)
        kernels = self.param("kernel", stacked(self.kernel_init), shape, jnp.float32)
        weights = mixed(shares, kernels).astype(x.dtype)
        # One product an image, over all of its pixels.
        return (x.reshape(n, -1, channels) @ weights).reshape(n, height, width, self.features)

    def cost(self, x: Shape, y: Shape) -> int:
        return x[0] * self.experts * x[-1] * y[-1] + math.prod(y) * x[-1]
