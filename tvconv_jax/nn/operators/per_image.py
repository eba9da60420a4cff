"""Operators with one depthwise or 1x1 kernel an image, made from the image."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax.nn.checks import Checked, check_images
from tvconv_jax.nn.layers import Shape, SpatialOperator, add_bias, depthwise_cost, kaiming_normal, no_cost
from tvconv_jax.nn.operators.dynamic import dense_init, pooled, stacked
from tvconv_jax.ops.dynamic_conv import dynamic_conv

# Parameters of MixedDepthwise named "experts" that scale its output, see ``scalable`` of Checked.
EXPERTS = ("experts/kernel", "experts/bias")


def mixed(routes: jax.Array, experts: jax.Array) -> jax.Array:
    """Mix experts per image, ``[n, e]``, ``[e, ...]`` -> ``[n, ...]``, in the dtype of ``routes``."""
    return jnp.tensordot(routes, experts.astype(routes.dtype), axes=1)


@nn.nowrap
def mixed_cost(operator: Any, x: Shape, y: Shape) -> int:
    """Count the mixing of kernels and biases per image, then the depthwise convolution."""
    taps = operator.kernel_size**2 + operator.use_bias
    return x[0] * operator.experts * taps * x[-1] + math.prod(y) * taps


class KernelAttention(Checked):
    """Each image's shares of the experts, ``[n, h, w, c]`` -> ``[n, experts]``, positive and of sum one."""

    experts: int  #: Kernels to share among.
    reduction: int  #: Channels of the input to one of the hidden layer.
    temperature: float  #: Divides the logits; the higher, the more equal the shares.
    param_dtype: Any = jnp.float32  #: Dtype of the parameters.

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        context, hidden = pooled(x), max(1, x.shape[3] // self.reduction)
        squeeze = nn.Dense(
            hidden, kernel_init=dense_init, dtype=context.dtype, param_dtype=self.param_dtype, name="squeeze"
        )
        logits = nn.Dense(
            self.experts, kernel_init=dense_init, dtype=context.dtype, param_dtype=self.param_dtype, name="logits"
        )
        return nn.softmax(logits(nn.relu(squeeze(context))) / self.temperature)

    def cost(self, x: Shape, y: Shape) -> int:
        """Count average, ReLU and softmax."""
        return math.prod(x) + x[0] * max(1, x[-1] // self.reduction) + 2 * math.prod(y)


class MixedDepthwise(Checked):
    """Depthwise convolution with each image's mix of kernels, and of biases, mixed before a single convolution."""

    kernel_size: int
    strides: int
    use_bias: bool
    kernel_init: nn.initializers.Initializer
    param_dtype: Any = jnp.float32

    cost = no_cost

    @nn.compact
    def __call__(self, x: jax.Array, routes: jax.Array) -> jax.Array:
        """Convolve ``[n, h, w, c]`` with kernels mixed by the shares ``[n, e]`` -> ``[n, ho, wo, c]``."""
        experts, channels = routes.shape[1], x.shape[3]
        shape = (experts, self.kernel_size, self.kernel_size, 1, channels)
        kernels = self.param("kernel", stacked(self.kernel_init), shape, self.param_dtype)
        weights = mixed(routes, kernels.reshape(experts, 1, 1, -1, channels))
        y = dynamic_conv(x, weights, strides=self.strides)
        if self.use_bias:
            bias = mixed(routes, self.param("bias", nn.initializers.zeros, (experts, channels), self.param_dtype))
            y = y + bias.astype(x.dtype)[:, None, None]
        return y


class CondConv(SpatialOperator):
    """Per-image mix of depthwise kernels by sigmoid routing, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``.

    Yang, Bender, Le and Ngiam, "CondConv: Conditionally Parameterized Convolutions for Efficient Inference",
    NeurIPS 2019, section 3, https://arxiv.org/abs/1904.04971. Source of the authors:
    github.com/tensorflow/tpu, models/official/efficientnet/condconv.

        r(x) = sigmoid(R pool(x)),   W(x) = sum_e r_e(x) W_e,   y = x * W(x)

    The shares are sigmoids and need not sum to one: experts that are all equal give the depthwise convolution times
    ``sum_e r_e``. The paper also makes pointwise convolutions and the classifier conditional; here it is the spatial
    operator alone, as for every operator of the comparison. Its dropout on the routes is left out.
    """

    experts: int = 8  #: Kernels to mix; the paper's 8.
    use_bias: bool = False  #: Whether a bias per channel, mixed likewise, is added.

    scalable = EXPERTS

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x, self.dtype)
        context = pooled(x)
        routing = nn.Dense(
            self.experts, kernel_init=dense_init, dtype=context.dtype, param_dtype=self.param_dtype, name="routing"
        )
        conv = MixedDepthwise(
            self.kernel_size, self.strides, self.use_bias, self.kernel_init, self.param_dtype, name="experts"
        )
        return conv(x, nn.sigmoid(routing(context)))

    def cost(self, x: Shape, y: Shape) -> int:
        return math.prod(x) + x[0] * self.experts + mixed_cost(self, x, y)  # average, sigmoids


class WeightNet(SpatialOperator):
    """Per-image depthwise kernel from a grouped linear layer, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``.

    Ma, Zhang, Huang and Sun, "WeightNet: Revisiting the Design Space of Weight Networks", ECCV 2020, section 3,
    https://arxiv.org/abs/2007.11823. Source of the authors: github.com/megvii-model/WeightNet (weightnet.py).

        a(x) = sigmoid(F_1 F_0 pool(x)),   W(x)[t, c] = sum_m a(x)[m, c] F_2[m, t, c],   y = x * W(x)

    ``F_0`` reduces to ``max(16, c / 16)``; ``F_2`` is the grouped layer, one group a channel with ``M / G`` inputs, as
    the authors have it for a depthwise kernel (``M = G = 2``, so one input). A constant ``a`` gives the depthwise
    convolution. Theirs computes ``F_0 pool(x)`` once per block, from the block's input; here every operator sees its
    own input only. There is no batch norm in it.
    """

    inputs: int = 1  #: Activations behind each channel's kernel, the paper's ``M / G``.
    use_bias: bool = False  #: Whether a bias per channel is added.

    scalable = ("kernel", "bias")

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x, self.dtype)
        n, channels = x.shape[0], x.shape[3]
        context = pooled(x)
        reduced = nn.Dense(
            max(16, channels // 16),
            kernel_init=dense_init,
            dtype=context.dtype,
            param_dtype=self.param_dtype,
            name="reduce",
        )(context)
        activate = nn.Dense(
            self.inputs * channels,
            kernel_init=dense_init,
            dtype=context.dtype,
            param_dtype=self.param_dtype,
            name="activate",
        )
        active = nn.sigmoid(activate(reduced)).reshape(n, self.inputs, 1, channels)
        shape = (self.inputs, self.kernel_size, self.kernel_size, 1, channels)
        kernels = self.param("kernel", stacked(self.kernel_init), shape, self.param_dtype)
        kernels = kernels.reshape(1, self.inputs, -1, channels).astype(context.dtype)
        weights = jnp.sum(active * kernels, axis=1)[:, None, None]
        y = dynamic_conv(x, weights, strides=self.strides)
        return add_bias(self, y) if self.use_bias else y

    def cost(self, x: Shape, y: Shape) -> int:
        """Count average, sigmoids, the grouped linear layer and the convolution."""
        return math.prod(x) + x[0] * self.inputs * x[-1] * (1 + self.kernel_size**2) + depthwise_cost(self, x, y)


class DyConvDW(SpatialOperator):
    """Per-image attention over depthwise kernels, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``.

    Chen, Dai, Liu, Chen, Yuan and Liu, "Dynamic Convolution: Attention over Convolution Kernels", CVPR 2020,
    sections 3.1 and 3.2, https://arxiv.org/abs/1912.03458. The authors published no source.

        pi(x) = softmax(F_2 relu(F_1 pool(x)) / temperature),   W(x) = sum_e pi_e(x) W_e,   y = x * W(x)

    The shares sum to one: equal kernels give the depthwise convolution, and so does a single one. The paper lets the
    temperature fall from 30 to 1 over the first ten epochs; an operator knows no epoch, so here it stays as it starts.
    """

    experts: int = 4  #: Kernels to mix; the paper's 4.
    reduction: int = 4  #: Channels to one of the attention's hidden layer; the paper's 4.
    temperature: float = 30.0  #: Of the softmax; the paper starts at 30.
    use_bias: bool = False  #: Whether a bias per channel, mixed likewise, is added.

    scalable = EXPERTS
    cost = mixed_cost

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x, self.dtype)
        shares = KernelAttention(self.experts, self.reduction, self.temperature, self.param_dtype, name="attention")(x)
        conv = MixedDepthwise(
            self.kernel_size, self.strides, self.use_bias, self.kernel_init, self.param_dtype, name="experts"
        )
        return conv(x, shares)


class DyConvPW(Checked):
    """Per-image attention over 1x1 kernels, ``[n, h, w, c]`` -> ``[n, h, w, features]``.

    Paper, equations and differences are those of :class:`DyConvDW`. It takes the place of the 1x1 convolutions of a
    block, while its depthwise convolution stays: models take it as ``pointwise=``. One expert, or equal ones, give the
    plain 1x1 convolution.
    """

    features: int  #: Channels of the output.
    kernel_init: nn.initializers.Initializer = kaiming_normal  #: Initializer of every kernel.
    experts: int = 4  #: Kernels to mix; the paper's 4.
    reduction: int = 4  #: Channels to one of the attention's hidden layer; the paper's 4.
    temperature: float = 30.0  #: Of the softmax; the paper starts at 30.
    dtype: Any = None  #: Dtype to compute in; ``None``: the input's.
    param_dtype: Any = jnp.float32  #: Dtype of the parameters.

    scalable = ("kernel",)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x, self.dtype)
        n, height, width, channels = x.shape
        shares = KernelAttention(self.experts, self.reduction, self.temperature, self.param_dtype, name="attention")(x)
        shape = (self.experts, channels, self.features)
        kernels = self.param("kernel", stacked(self.kernel_init), shape, self.param_dtype)
        weights = mixed(shares, kernels).astype(x.dtype)
        # One product an image, over all of its pixels.
        return (x.reshape(n, -1, channels) @ weights).reshape(n, height, width, self.features)

    def cost(self, x: Shape, y: Shape) -> int:
        return x[0] * self.experts * x[-1] * y[-1] + math.prod(y) * x[-1]
