"""DeepLabV3+ on MobileNetV2, for the optic disc and cup, with the spatial operator of its head handed in."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax.models.blocks import ConvFactory, ConvNorm, call, repeats
from tvconv_jax.models.mobilenetv2 import STAGES, InvertedResidual
from tvconv_jax.nn.checks import Checked, check_choice, check_images
from tvconv_jax.nn.layers import DepthwiseConv

# Rates of the three atrous convolutions, by output stride: how far the input is brought down.
RATES = {16: (6, 12, 18), 8: (12, 24, 36)}
# The stage of the backbone whose output the decoder takes too.
LOW_STAGE = 2

# The head starts from variance 2 / fan_in, its generators too; the backbone, as everywhere, from 2 / fan_out.
head_init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
HeadConvNorm = functools.partial(ConvNorm, activation="relu", kernel_init=head_init)


class ImagePool(Checked):
    """Average over the grid, ``[n, h, w, c]`` -> ``[n, 1, 1, c]``."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.mean(x, axis=(1, 2), keepdims=True)


class Backbone(Checked):
    """MobileNetV2 of width 1 without its last convolution; strides beyond ``output_stride`` become dilation.

    Zeros are put around a block's input *before* it is expanded, as in the reference ("fixed padding"): the border
    passes through the norm and the ReLU6 like any pixel, and the stem does not pad at all.

    Attributes:
        depth: Multiplies the blocks of every stage, rounded up.
        output_stride: 8 or 16, how far the grid is brought down.
        remat: As in :class:`DeepLabV3Plus`.
    """

    depth: float = 1.0
    output_stride: int = 16
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Images ``[n, h, w, 3]`` -> features at a quarter of the grid, 24 channels; at the last grid, 320."""
        x = ConvNorm(32, "relu6", 3, strides=2, padding=0, name="stem")(images, train=train)
        index, reached, dilation = 1, 2, 1
        for stage, (expansion, channels, blocks, strides) in enumerate(STAGES, start=1):
            before = dilation
            if reached == self.output_stride:
                strides, dilation = 1, dilation * strides
            reached *= strides
            for i in range(repeats(blocks, self.depth)):
                rate = before if i == 0 else dilation
                conv = functools.partial(DepthwiseConv, dilation=rate, padding=0)
                steps = strides if i == 0 else 1
                block = InvertedResidual(channels, expansion, steps, conv, rate, name=f"block_{index}")
                x = call(block, x, train=train, remat=self.remat and 3 * x.shape[1] > images.shape[1])
                index += 1
            if stage == LOW_STAGE:
                low = x
        return low, x


class Pyramid(Checked):
    """Atrous spatial pyramid pooling, ``[n, h, w, c]`` -> ``[n, h, w, features]``.

    Attributes:
        rates: Of the three atrous convolutions.
        conv: Makes the spatial operator of three inverted residual blocks in their place; ``None`` keeps them.
        features: Channels of every branch and of the output.
        dropout: Share of the output that training sets to zero.

    Source: Chen et al. 2017, https://arxiv.org/abs/1706.05587; the blocks in the branches are Chen et al. 2022's.
    """

    rates: tuple[int, int, int]
    conv: ConvFactory | None = None
    features: int = 256
    dropout: float = 0.1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        branches = [HeadConvNorm(self.features, name="point")(x, train=train)]
        for i, rate in enumerate(self.rates):
            if self.conv is None:
                branch = HeadConvNorm(self.features, kernel_size=3, dilation=rate, name=f"branch_{i}")
            else:
                conv = functools.partial(self.conv, kernel_init=head_init)
                branch = InvertedResidual(self.features, 6, 1, conv, kernel_init=head_init, name=f"branch_{i}")
            branches.append(branch(x, train=train))
        pooled = HeadConvNorm(self.features, name="image")(ImagePool(name="pool")(x), train=train)
        branches.append(jnp.broadcast_to(pooled, branches[0].shape))
        x = HeadConvNorm(self.features, name="project")(jnp.concatenate(branches, axis=-1), train=train)
        return nn.Dropout(self.dropout, deterministic=not train)(x)


class DeepLabV3Plus(Checked):
    """Images ``[n, h, w, 3]`` in [-1, 1] -> logits ``[n, h, w, num_classes]``.

    With TVConv in its head the model belongs to one input size. Training takes a random key:
    ``model.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})``.

    Attributes:
        conv: Makes the spatial operator of the head; ``None`` for atrous convolutions.
        depth: Multiplies the blocks of every stage of the backbone, rounded up.
        num_classes: Maps to predict.
        output_stride: 8 or 16, how far the backbone brings the grid down.
        remat: Whether what the first blocks compute, on half of the grid, is computed anew for the gradient, not kept.

    Source: Chen et al. 2018, https://arxiv.org/abs/1802.02611, as changed for fundus images by Chen et al. 2022.
    """

    conv: ConvFactory | None = None
    depth: float = 1.0
    num_classes: int = 2
    output_stride: int = 16
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        images = check_images("images", images)
        check_choice("output_stride", self.output_stride, RATES)
        low, x = Backbone(self.depth, self.output_stride, self.remat, name="backbone")(images, train=train)
        x = Pyramid(RATES[self.output_stride], self.conv, name="pyramid")(x, train=train)
        low = HeadConvNorm(48, name="low_level")(low, train=train)
        x = jnp.concatenate([low, _resize(x, low.shape[1:3])], axis=-1)
        x = HeadConvNorm(256, kernel_size=3, name="fuse")(x, train=train)
        x = nn.Dense(self.num_classes, kernel_init=head_init, bias_init=_bias_init, dtype=x.dtype, name="classify")(x)
        return _resize(x, images.shape[1:3])


def _bias_init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """As ``torch.nn.Conv2d`` starts a bias: uniform within ``1 / sqrt(fan_in)``, here of 256 channels."""
    return jax.random.uniform(key, shape, dtype, -1 / 16, 1 / 16)


def _resize(x: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Bilinear, pixel centers at halves, ``[n, h, w, c]`` -> ``[n, *grid, c]``."""
    return jax.image.resize(x, (x.shape[0], *grid, x.shape[3]), "bilinear", antialias=False)
