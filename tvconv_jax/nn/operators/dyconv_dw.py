"""Dynamic convolution on the depthwise kernel: each image's attention over a few learned kernels.

Chen, Dai, Liu, Chen, Yuan and Liu, "Dynamic Convolution: Attention over Convolution Kernels", CVPR 2020,
sections 3.1 and 3.2, https://arxiv.org/abs/1912.03458. The authors published no source.

    pi(x) = softmax(F_2 relu(F_1 pool(x)) / temperature),   W(x) = sum_e pi_e(x) W_e,   y = x * W(x)

The shares sum to one: equal kernels give the depthwise convolution, and so does a single one. The paper lets the
temperature fall from 30 to 1 over the first ten epochs; an operator knows no epoch, so here it stays where it starts.
"""

import flax.linen as nn
import jax

from tvconv_jax.nn.checks import check_images
from tvconv_jax.nn.layers import SpatialOperator
from tvconv_jax.nn.operators.dynamic import EXPERTS, KernelAttention, MixedDepthwise, mixed_cost


class DyConvDW(SpatialOperator):
    """Per-image attention over depthwise kernels, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``."""

    experts: int = 4  #: Kernels to mix; the paper's 4.
    reduction: int = 4  #: Channels to one of the attention's hidden layer; the paper's 4.
    temperature: float = 30.0  #: Of the softmax; the paper starts at 30.
    use_bias: bool = False  #: Whether a bias per channel, mixed likewise, is added.

    scalable = EXPERTS
    cost = mixed_cost

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x)
        shares = KernelAttention(self.experts, self.reduction, self.temperature, name="attention")(x)
        conv = MixedDepthwise(self.kernel_size, self.strides, self.use_bias, self.kernel_init, name="experts")
        return conv(x, shares)
