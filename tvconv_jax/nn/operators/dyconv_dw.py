"""Dynamic convolution on the depthwise kernel: each image's attention over a few learned kernels.

Chen, Dai, Liu, Chen, Yuan and Liu, "Dynamic Convolution: Attention over Convolution Kernels", CVPR 2020,
sections 3.1 and 3.2, https://arxiv.org/abs/1912.03458. The authors published no source.

    pi(x) = softmax(F_2 relu(F_1 pool(x)) / temperature),   W(x) = sum_e pi_e(x) W_e,   y = x * W(x)

The shares sum to one: equal kernels give the depthwise convolution, and so does a single one. The paper lets the
temperature fall from 30 to 1 over the first ten epochs; an operator knows no epoch, so here it stays where it starts.
"""

import flax.linen as nn
import jax

from tvconv_jax.nn.checks import Checked, check_images
from tvconv_jax.nn.layers import kaiming_normal
from tvconv_jax.nn.operators.dynamic import MixedDepthwise, dense_init, pooled


class KernelAttention(Checked):
    """Each image's shares of the experts, ``[n, h, w, c]`` -> ``[n, experts]``, positive and of sum one.

    Attributes:
        experts: Kernels to share among.
        reduction: Channels of the input to one of the hidden layer.
        temperature: Divides the logits; the higher, the more equal the shares.
    """

    experts: int
    reduction: int
    temperature: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        context = pooled(x)
        squeeze = nn.Dense(
            max(1, x.shape[3] // self.reduction), kernel_init=dense_init, dtype=context.dtype, name="squeeze"
        )
        logits = nn.Dense(self.experts, kernel_init=dense_init, dtype=context.dtype, name="logits")
        return nn.softmax(logits(nn.relu(squeeze(context))) / self.temperature)


class DyConvDW(Checked):
    """Per-image attention over depthwise kernels, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``.

    Attributes:
        kernel_size: Odd side of the kernels.
        strides: Step between output positions.
        experts: Kernels to mix; the paper's 4.
        reduction: Channels to one of the attention's hidden layer; the paper's 4.
        temperature: Of the softmax; the paper starts at 30.
        use_bias: Whether a bias per channel, mixed likewise, is added.
        kernel_init: What every kernel starts from.
    """

    kernel_size: int = 3
    strides: int = 1
    experts: int = 4
    reduction: int = 4
    temperature: float = 30.0
    use_bias: bool = False
    kernel_init: nn.initializers.Initializer = kaiming_normal

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x)
        shares = KernelAttention(self.experts, self.reduction, self.temperature, name="attention")(x)
        conv = MixedDepthwise(self.kernel_size, self.strides, self.use_bias, self.kernel_init, name="experts")
        return conv(x, shares)
