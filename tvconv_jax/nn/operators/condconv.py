"""CondConv: a depthwise convolution whose kernel is each image's own mix of a few learned ones.

Yang, Bender, Le and Ngiam, "CondConv: Conditionally Parameterized Convolutions for Efficient Inference",
NeurIPS 2019, section 3, https://arxiv.org/abs/1904.04971. Source of the authors:
github.com/tensorflow/tpu, models/official/efficientnet/condconv.

    r(x) = sigmoid(R pool(x)),   W(x) = sum_e r_e(x) W_e,   y = x * W(x)

The shares are sigmoids and need not sum to one: experts that are all equal give the depthwise convolution times
``sum_e r_e``. The paper also makes pointwise convolutions and the classifier conditional; here it is the spatial
operator alone, as for every operator of the comparison. Its dropout on the routes is left out.
"""

import math

import flax.linen as nn
import jax

from tvconv_jax.nn.checks import check_images
from tvconv_jax.nn.layers import Shape, SpatialOperator
from tvconv_jax.nn.operators.dynamic import EXPERTS, MixedDepthwise, dense_init, mixed_cost, pooled


class CondConv(SpatialOperator):
    """Per-image mix of depthwise kernels by sigmoid routing, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``."""

    experts: int = 8  #: Kernels to mix; the paper's 8.
    use_bias: bool = False  #: Whether a bias per channel, mixed likewise, is added.

    scalable = EXPERTS

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x)
        context = pooled(x)
        routing = nn.Dense(self.experts, kernel_init=dense_init, dtype=context.dtype, name="routing")
        conv = MixedDepthwise(self.kernel_size, self.strides, self.use_bias, self.kernel_init, name="experts")
        return conv(x, nn.sigmoid(routing(context)))

    def cost(self, x: Shape, y: Shape) -> int:
        return math.prod(x) + x[0] * self.experts + mixed_cost(self, x, y)  # average, sigmoids
