"""DeepLabV3+ on MobileNetV2, for the optic disc and cup, with the spatial operator of its head handed in."""

import functools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax.models.blocks import ConvFactory, ConvNorm, call
from tvconv_jax.models.mobilenetv2 import Block, InvertedResidual, blocks, scaled
from tvconv_jax.nn.checks import MAX_CLASSES, Checked, check_choice, check_images, count
from tvconv_jax.nn.layers import DepthwiseConv

# Dilations of the three atrous convolutions, by output stride: image size over the size of the last grid.
RATES = {16: (6, 12, 18), 8: (12, 24, 36)}
WIDTHS = (0.25, 0.5, 1.0)
# The decoder also takes the output of this stage of the backbone.
LOW_STAGE = 2

# The head starts from variance 2 / fan_in, its generators too; the backbone, as everywhere, from 2 / fan_out.
head_init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
HeadConvNorm = functools.partial(ConvNorm, activation="relu", kernel_init=head_init)


class ImagePool(Checked):
    """Average over the grid, ``[n, h, w, c]`` -> ``[n, 1, 1, c]``."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.mean(x, axis=(1, 2), keepdims=True)

    def cost(self, x: tuple[int, ...], y: tuple[int, ...]) -> int:
        return math.prod(x)


class Backbone(Checked):
    """MobileNetV2 without its last convolution; strides beyond ``output_stride`` become dilation.

    A block pads its input *before* it is expanded, as in the reference ("fixed padding"): the border passes through
    the norm and the ReLU6 like any pixel. The stem does not pad.
    """

    low: tuple[Block, ...]  #: Blocks up to the low-level features.
    high: tuple[Block, ...]  #: The other blocks.
    remat: bool  #: As in :class:`DeepLabV3Plus`.
    features: int = 32  #: Channels of the first convolution.

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Return features on a quarter of the grid, and on the last grid, of images ``[n, h, w, 3]``."""
        x = ConvNorm(self.features, "relu6", 3, strides=2, padding=0, name="stem")(images, train=train)
        low = x = self._run(self.low, x, images.shape[1], train=train)
        return low, self._run(self.high, x, images.shape[1], train=train)

    def _run(self, rows: Sequence[Block], x: jax.Array, image_size: int, *, train: bool) -> jax.Array:
        for row in rows:
            conv = functools.partial(DepthwiseConv, dilation=row.dilation, padding=0)
            block = InvertedResidual(row.features, row.expansion, row.strides, conv, row.dilation, name=row.name)
            x = call(block, x, train=train, remat=self.remat and 3 * x.shape[1] > image_size)
        return x


class Pyramid(Checked):
    """Atrous spatial pyramid pooling, ``[n, h, w, c]`` -> ``[n, h, w, features]``.

    Given ``conv``, three inverted residual blocks with that operator replace the atrous convolutions.

    Source: Chen et al. 2017, https://arxiv.org/abs/1706.05587; the blocks in the branches are Chen et al. 2022's.
    """

    rows: tuple[Block, ...]  #: The three atrous convolutions.
    conv: ConvFactory | None = None
    features: int = 256  #: Channels of every branch and of the output.
    dropout: float = 0.1  #: Share of the output that training sets to zero.

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        branches = [HeadConvNorm(self.features, name="point")(x, train=train)]
        for row in self.rows:
            if self.conv is None:
                branch = HeadConvNorm(row.features, kernel_size=3, dilation=row.dilation, name=row.name)
            else:
                conv = functools.partial(self.conv, kernel_init=head_init)
                branch = InvertedResidual(row.features, row.expansion, 1, conv, kernel_init=head_init, name=row.name)
            branches.append(branch(x, train=train))
        pooled = HeadConvNorm(self.features, name="image")(ImagePool(name="pool")(x), train=train)
        branches.append(jnp.broadcast_to(pooled, branches[0].shape))
        x = HeadConvNorm(self.features, name="project")(jnp.concatenate(branches, axis=-1), train=train)
        return nn.Dropout(self.dropout, deterministic=not train)(x)


class DeepLabV3Plus(Checked):
    """Images ``[n, h, w, 3]`` in [-1, 1] -> logits ``[n, h, w, num_classes]``.

    With TVConv in its head the model belongs to one input size. Training takes a random key:
    ``model.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})``.

    Source: Chen et al. 2018, https://arxiv.org/abs/1802.02611, as changed for fundus images by Chen et al. 2022.
    """

    conv: ConvFactory | None = None  #: Makes the spatial operator of the head; ``None`` for atrous convolutions.
    depth: float = 1.0  #: Multiplies the blocks of every stage of the backbone, rounded up.
    num_classes: int = 2  #: Maps to predict.
    output_stride: int = 16  #: 8 or 16, image size over the size of the backbone's last grid.
    remat: bool = False  #: Whether the gradient recomputes activations of the first blocks, on the half grid.
    width: float = 1.0  #: Multiplies the channels of the backbone and of the head.

    reference_fields = ("conv", "depth", "num_classes", "output_stride", "remat")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("output_stride", self.output_stride, RATES)
        count(MAX_CLASSES).check("num_classes", self.num_classes)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        images = check_images("images", images)
        backbone = Backbone(*map(tuple, self.backbone()), self.remat, scaled(32, self.width), name="backbone")
        low, x = backbone(images, train=train)
        features = scaled(256, self.width)
        x = Pyramid(tuple(self.pyramid()), self.conv, features, name="pyramid")(x, train=train)
        low = HeadConvNorm(scaled(48, self.width), name="low_level")(low, train=train)
        x = jnp.concatenate([low, _resize(x, low.shape[1:3])], axis=-1)
        x = HeadConvNorm(features, kernel_size=3, name="fuse")(x, train=train)
        init = {"kernel_init": head_init, "bias_init": functools.partial(_bias_init, features)}
        x = nn.Dense(self.num_classes, **init, dtype=x.dtype, name="classify")(x)
        return _resize(x, images.shape[1:3])

    def backbone(self) -> tuple[list[Block], list[Block]]:
        """Return the blocks of the backbone: those up to the low-level features for the decoder, and the others."""
        rows = list(blocks(self.width, self.depth, self.output_stride))
        return [row for row in rows if row.stage <= LOW_STAGE], [row for row in rows if row.stage > LOW_STAGE]

    def pyramid(self) -> list[Block]:
        """Return the three atrous convolutions: 3x3 with a dilation, or inverted residual blocks without one."""
        features = scaled(256, self.width)
        return [Block(f"branch_{i}", 0, features, 6, 1, rate) for i, rate in enumerate(RATES[self.output_stride])]


def _bias_init(features: int, key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Draw as ``torch.nn.Conv2d`` a bias: uniform within ``1 / sqrt(fan_in)``."""
    bound = 1 / math.sqrt(features)
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def _resize(x: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Interpolate ``[n, h, w, c]`` -> ``[n, *grid, c]`` bilinearly, pixel centers at halves."""
    return jax.image.resize(x, (x.shape[0], *grid, x.shape[3]), "bilinear", antialias=False)
