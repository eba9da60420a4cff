"""What every model is built from: batch norm with PyTorch's statistics, convolutions, the embedding head."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax.convolution import conv
from tvconv_jax.fused import Activation, activate, affine, batch_norm, pointwise
from tvconv_jax.layers import kaiming_normal

# Makes the spatial operator of a block: called as conv(strides=2, name="conv").
ConvFactory = Callable[..., nn.Module]


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, keeping statistics as PyTorch does.

    The batch is normalised with the biased variance, while the *unbiased* one enters the running average;
    ``flax.linen.BatchNorm`` keeps the biased one.

    Attributes:
        momentum: Weight of the old running average (PyTorch's ``1 - momentum``).
        epsilon: Added to the variance.
        activation: Applied to the output: ``"identity"``, ``"relu"`` or ``"relu6"``.

    Source: Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167; ``torch.nn.BatchNorm2d``.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    activation: Activation = "identity"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, groups: int = 1) -> jax.Array:
        """``[n, ..., c]``; ``groups`` equal runs of the ``n`` have statistics of their own while training."""
        features = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (features,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (features,), jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (features,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (features,), jnp.float32)
        if not train:
            factor = scale * jax.lax.rsqrt(var.value + self.epsilon)
            return activate(affine(x, factor, bias - mean.value * factor), self.activation).astype(x.dtype)
        y, batch_mean, batch_var = batch_norm(x, scale, bias, self.epsilon, self.activation, groups)
        if not self.is_initializing():
            count = x.size // features // groups
            unbiased = batch_var * (count / max(count - 1, 1))
            mean.value = self.momentum * mean.value + (1 - self.momentum) * batch_mean
            var.value = self.momentum * var.value + (1 - self.momentum) * unbiased
        return y


def call(module: nn.Module, x: jax.Array, *, train: bool, remat: bool) -> jax.Array:
    """``module(x, train=train)``; with ``remat`` what it computes in between is computed anew for the gradient."""

    def plain(module: nn.Module, x: jax.Array) -> jax.Array:
        return module(x, train=train)

    return (nn.remat(plain) if remat else plain)(module, x)


class Pointwise(nn.Module):
    """1x1 convolution without a bias, ``[..., c]`` -> ``[..., features]``.

    Attributes:
        features: Channels of the output.
        kernel_init: What the kernel starts from.
    """

    features: int
    kernel_init: nn.initializers.Initializer = kaiming_normal

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return pointwise(x, self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32))


class Conv(nn.Module):
    """Convolution over all channels without a bias, ``[n, h, w, c]`` -> ``[n, ho, wo, features]``.

    Attributes:
        features: Channels of the output.
        kernel_size: Odd side of the kernels.
        strides: Step between output positions.
        dilation: Step between the positions that taps see.
        padding: Zeros on each side; ``None`` keeps the grid.
        kernel_init: What the kernel starts from.
    """

    features: int
    kernel_size: int
    strides: int = 1
    dilation: int = 1
    padding: int | None = None
    kernel_init: nn.initializers.Initializer = kaiming_normal

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(x.dtype)
        return conv(x, kernel, strides=self.strides, dilation=self.dilation, padding=self.padding)


class ConvNorm(nn.Module):
    """Convolution without a bias, batch norm, activation.

    Attributes:
        features: Channels of the output.
        activation: ``"identity"``, ``"relu"`` or ``"relu6"``.
        kernel_size: 1, or another odd side.
        strides: Step between output positions of a kernel larger than 1.
        dilation: Step between the positions that its taps see.
        padding: Zeros on each side; ``None`` keeps the grid.
        kernel_init: What the kernel starts from.
        pointwise: Makes the convolution where ``kernel_size`` is 1: called as ``pointwise(features, kernel_init=...)``.
    """

    features: int
    activation: Activation = "identity"
    kernel_size: int = 1
    strides: int = 1
    dilation: int = 1
    padding: int | None = None
    kernel_init: nn.initializers.Initializer = kaiming_normal
    pointwise: ConvFactory = Pointwise

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.kernel_size == 1:
            x = self.pointwise(self.features, kernel_init=self.kernel_init, name="conv")(x)
        else:
            x = Conv(
                self.features,
                self.kernel_size,
                strides=self.strides,
                dilation=self.dilation,
                padding=self.padding,
                kernel_init=self.kernel_init,
                name="conv",
            )(x)
        return BatchNorm(activation=self.activation, name="norm")(x, train=train)


class MaxPool(nn.Module):
    """Maximum over 3x3 windows, every second position: ``[n, h, w, c]`` -> ``[n, ho, wo, c]``."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


class EmbeddingHead(nn.Module):
    """Batch norm, average over the grid, linear layer, batch norm: ``[n, h, w, c]`` -> ``[n, features]``.

    Attributes:
        features: Size of the embedding.
    """

    features: int = 512

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = BatchNorm(name="norm_in")(x, train=train)
        x = jnp.mean(x, axis=(1, 2))
        x = nn.Dense(self.features, kernel_init=nn.initializers.normal(0.01), dtype=x.dtype, name="dense")(x)
        return BatchNorm(name="norm_out")(x, train=train)
