"""ShuffleNetV2 for aligned faces, with the spatial operator handed in."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax.models.blocks import REFERENCE_FIELDS, ConvFactory, ConvNorm, FaceModel, MaxPool, spatial
from tvconv_jax.nn.checks import Checked, check_choice, check_stages
from tvconv_jax.nn.norm import BatchNorm

# Channels of the stem, the three stages and the last 1x1 convolution.
CHANNELS = {0.5: (24, 48, 96, 192, 1024), 1.0: (24, 116, 232, 464, 1024), 1.5: (24, 176, 352, 704, 1024)}
# Units of the stages 2, 3 and 4; grid for a 96x96 input: 24 12 6.
UNITS = (4, 8, 4)
WIDTHS = tuple(CHANNELS)


def shuffle(x: jax.Array) -> jax.Array:
    """Interleave the two halves of the channels: a b c d -> a c b d."""
    *shape, channels = x.shape
    return x.reshape(*shape, 2, channels // 2).swapaxes(-1, -2).reshape(x.shape)


class UnitRow(NamedTuple):
    """One unit of the architecture."""

    name: str  # in the parameters
    stage: int  # 2, 3 or 4
    index: int  # within the stage
    features: int  # channels of the output
    strides: int  # 2 for the first of a stage, with a convolution on both branches, else 1


def units(width: float = 1.0, depth: float = 1.0) -> Iterator[UnitRow]:
    """Yield the units in order: the one description of the architecture for all who build, convert or export it."""
    for stage, (features, count) in enumerate(zip(CHANNELS[width][1:-1], UNITS, strict=True), start=2):
        for i in range(math.ceil(count * depth)):  # so every stage keeps one
            yield UnitRow(f"stage{stage}_{i}", stage, i, features, 1 if i else 2)


class Branch(Checked):
    """1x1, spatial operator, 1x1: ``[n, h, w, c]`` -> ``[n, ho, wo, features]``."""

    features: int  #: Channels of the output.
    strides: int  #: Strides of the spatial operator.
    conv: ConvFactory  #: Makes the spatial operator.
    pointwise: ConvFactory  #: Makes the 1x1 convolutions.
    expand: bool = True  #: Whether the first 1x1 convolution is there.

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.expand:
            x = ConvNorm(self.features, "relu", pointwise=self.pointwise, name="expand")(x, train=train)
        x = spatial(self.conv(strides=self.strides, name="conv"), x, train=train)
        x = BatchNorm(name="norm")(x, train=train)
        return ConvNorm(self.features, "relu", pointwise=self.pointwise, name="project")(x, train=train)


class Unit(Checked):
    """Half of the channels pass by (strides 1) or through a branch of their own (strides 2), then all shuffle."""

    features: int  #: Channels of the output.
    strides: int  #: 1 or 2.
    conv: ConvFactory  #: Makes the spatial operators.
    pointwise: ConvFactory  #: Makes the 1x1 convolutions.

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        half = self.features // 2
        branch = Branch(half, self.strides, self.conv, self.pointwise, name="branch")
        if self.strides == 1:
            kept, x = jnp.split(x, 2, axis=-1)
        else:
            shortcut = Branch(half, self.strides, self.conv, self.pointwise, expand=False, name="shortcut")
            kept = shortcut(x, train=train)
        return shuffle(jnp.concatenate([kept, branch(x, train=train)], axis=-1))


class ShuffleNetV2(FaceModel):
    """ShuffleNetV2 with stages 2-4; width 0.5, 1.0 or 1.5.

    Source: Ma et al. 2018, https://arxiv.org/abs/1807.11164, as changed for faces by Chen et al. 2022.
    """

    stages: tuple[int, ...] = (2, 3, 4)

    reference_fields = REFERENCE_FIELDS

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        images = self.prepared(images)
        check_choice("shufflenetv2 width", self.width, WIDTHS)
        check_stages("shufflenetv2", self.stages, range(2, 2 + len(UNITS)))
        stem, *_, last = CHANNELS[self.width]
        x = self.run(ConvNorm(stem, "relu", kernel_size=3, name="stem"), images, images.shape[1], train=train)
        x = MaxPool(name="pool")(x)
        for row in self.units():
            unit = Unit(row.features, row.strides, *self.operators(row.stage), name=row.name)
            x = self.run(unit, x, images.shape[1], train=train)
        x = ConvNorm(last, "relu", name="last")(x, train=train)
        return self.make_head()(x, train=train)

    def units(self) -> Iterator[UnitRow]:
        return units(self.width, self.depth)
