"""MobileNetV2 for aligned faces, with the spatial operator handed in."""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax.models.blocks import (
    REFERENCE_FIELDS,
    ConvFactory,
    ConvNorm,
    FaceModel,
    Pointwise,
    spatial,
)
from tvconv_jax.nn.checks import Checked, check_stages
from tvconv_jax.nn.layers import kaiming_normal
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
    """Round ``channels * width`` to the nearest multiple of 8, at least 8, never more than 10 % below."""
    target = channels * width
    rounded = max(8, int(target + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * target else rounded


class Block(NamedTuple):
    """One inverted residual block of the architecture."""

    name: str  # in the parameters
    stage: int  # 1 to 7
    features: int  # channels of the output
    expansion: int  # hidden channels, as a multiple of the input's
    strides: int
    dilation: int


def blocks(width: float = 1.0, depth: float = 1.0, output_stride: float = math.inf) -> Iterator[Block]:
    """Yield the blocks in order: the one description of the architecture for all who build, convert or export it.

    Args:
        width: Multiplier of the channels.
        depth: Multiplier of every stage's blocks, rounded up.
        output_stride: Stride of the last grid to the image, for a stem of strides 2; later strides become dilation.
    """
    index, reached, dilation = 1, 2, 1
    for stage, (expansion, channels, count, strides) in enumerate(STAGES, start=1):
        first_dilation = dilation
        if reached >= output_stride:
            strides, dilation = 1, dilation * strides
        reached *= strides
        for i in range(math.ceil(count * depth)):  # so every stage keeps one
            own = (strides, first_dilation) if i == 0 else (1, dilation)
            yield Block(f"block_{index}", stage, scaled(channels, width), expansion, *own)
            index += 1


class InvertedResidual(Checked):
    """Expand (1x1), spatial operator, project (1x1); added to its input if strides are 1 and channels agree."""

    features: int  #: Channels of the output.
    expansion: int  #: Hidden channels, as a multiple of the input's.
    strides: int  #: Strides of the spatial operator.
    conv: ConvFactory  #: Makes the spatial operator.
    padding: int = 0  #: Zeros around the input before it is expanded, for an operator that does not pad (DeepLab).
    kernel_init: nn.initializers.Initializer = kaiming_normal  #: Initializer of the 1x1 convolutions.
    pointwise: ConvFactory = Pointwise  #: Makes the 1x1 convolutions.

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        pointwise = functools.partial(ConvNorm, kernel_init=self.kernel_init, pointwise=self.pointwise)
        y = jnp.pad(x, ((0, 0), *[(self.padding, self.padding)] * 2, (0, 0)))
        if self.expansion != 1:
            y = pointwise(x.shape[-1] * self.expansion, "relu6", name="expand")(y, train=train)
        y = spatial(self.conv(strides=self.strides, name="conv"), y, train=train)
        norm = BatchNorm(activation="relu6", name="norm")
        y = pointwise(self.features, name="project")(y, train=train, before=norm)
        return x + y if self.strides == 1 and x.shape == y.shape else y


class MobileNetV2(FaceModel):
    """MobileNetV2 with stages 1-7, the paper's S1-S7.

    The first convolution keeps the grid (strides 1), because faces of 96x96 are small.

    Source: Sandler et al. 2018, https://arxiv.org/abs/1801.04381, as changed for faces by Chen et al. 2022.
    """

    stages: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7)

    reference_fields = REFERENCE_FIELDS

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        images = self.prepared(images)
        check_stages("mobilenetv2", self.stages, range(1, len(STAGES) + 1))
        stem = ConvNorm(scaled(32, self.width), "relu6", kernel_size=3, name="stem")
        x = self.run(stem, images, images.shape[1], train=train)
        for row in self.blocks():
            conv, pointwise = self.operators(row.stage)
            block = InvertedResidual(row.features, row.expansion, row.strides, conv, pointwise=pointwise, name=row.name)
            x = self.run(block, x, images.shape[1], train=train)
        x = ConvNorm(scaled(512, max(1.0, self.width)), "relu6", name="last")(x, train=train)
        return self.make_head()(x, train=train)

    def blocks(self) -> Iterator[Block]:
        return blocks(self.width, self.depth)
