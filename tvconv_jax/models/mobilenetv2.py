"""MobileNetV2 for aligned faces, with the spatial operator handed in."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax.models.blocks import ConvFactory, ConvNorm, EmbeddingHead, Pointwise, call, repeats, spatial
from tvconv_jax.nn.checks import Checked, check_images, check_stages
from tvconv_jax.nn.layers import DepthwiseConv, kaiming_normal
from tvconv_jax.nn.norm import BatchNorm

# expansion, channels, blocks, strides of the first block; grid for a 96x96 input: 96 48 24 12 12 6 6.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
WIDTHS = (0.1, 0.2, 0.3, 0.5, 1.0)


def scaled(channels: int, width: float) -> int:
    """``channels * width`` to the nearest multiple of 8, at least 8, never more than 10 % below."""
    target = channels * width
    rounded = max(8, int(target + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * target else rounded


class InvertedResidual(Checked):
    """Expand (1x1), spatial operator, project (1x1); added to its input where strides are 1 and channels agree.

    Attributes:
        features: Channels of the output.
        expansion: Channels in between, as a multiple of the input's.
        strides: Strides of the spatial operator.
        conv: Makes the spatial operator.
        margin: Zeros put around the input before it is expanded, for an operator that does not pad (DeepLab).
        kernel_init: What the 1x1 convolutions start from.
        pointwise: Makes the 1x1 convolutions.
    """

    features: int
    expansion: int
    strides: int
    conv: ConvFactory
    margin: int = 0
    kernel_init: nn.initializers.Initializer = kaiming_normal
    pointwise: ConvFactory = Pointwise

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        pointwise = functools.partial(ConvNorm, kernel_init=self.kernel_init, pointwise=self.pointwise)
        y = jnp.pad(x, ((0, 0), *[(self.margin, self.margin)] * 2, (0, 0)))
        if self.expansion != 1:
            y = pointwise(x.shape[-1] * self.expansion, "relu6", name="expand")(y, train=train)
        y = spatial(self.conv(strides=self.strides, name="conv"), y, train=train)
        y = BatchNorm(activation="relu6", name="norm")(y, train=train)
        y = pointwise(self.features, name="project")(y, train=train)
        return x + y if self.strides == 1 and x.shape == y.shape else y


class MobileNetV2(Checked):
    """Images ``[n, h, w, 3]`` in [-1, 1] -> embeddings ``[n, embedding_size]``, not normalized.

    The first convolution keeps the grid (strides 1), because faces of 96x96 are small.

    Attributes:
        width: Multiplies the channels.
        depth: Multiplies the blocks of every stage, rounded up.
        conv: Makes the spatial operator of the chosen stages.
        stages: Which of the stages 1-7 (the paper's S1-S7) get ``conv`` and ``pointwise``; the others keep the
            depthwise and the plain 1x1 convolution.
        embedding_size: Size of the embedding.
        pointwise: Makes the 1x1 convolutions of the chosen stages.
        remat: Whether what is computed on the whole and on the half grid is computed anew for the gradient, not kept.

    Source: Sandler et al. 2018, https://arxiv.org/abs/1801.04381, as changed for faces by Chen et al. 2022.
    """

    width: float = 1.0
    depth: float = 1.0
    conv: ConvFactory = DepthwiseConv
    stages: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7)
    embedding_size: int = 512
    pointwise: ConvFactory = Pointwise
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        images = check_images("images", images)
        check_stages("mobilenetv2", self.stages, range(1, len(STAGES) + 1))
        stem = ConvNorm(scaled(32, self.width), "relu6", kernel_size=3, name="stem")
        x = call(stem, images, train=train, remat=self.remat)
        index = 1
        for stage, (expansion, channels, blocks, strides) in enumerate(STAGES, start=1):
            conv, pointwise = (self.conv, self.pointwise) if stage in self.stages else (DepthwiseConv, Pointwise)
            for i in range(repeats(blocks, self.depth)):
                block = InvertedResidual(
                    scaled(channels, self.width),
                    expansion,
                    strides if i == 0 else 1,
                    conv,
                    pointwise=pointwise,
                    name=f"block_{index}",
                )
                x = call(block, x, train=train, remat=self.remat and 2 * x.shape[1] >= images.shape[1])
                index += 1
        x = ConvNorm(scaled(512, max(1.0, self.width)), "relu6", name="last")(x, train=train)
        return EmbeddingHead(self.embedding_size, name="head")(x, train=train)
