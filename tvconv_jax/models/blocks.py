"""Parts of the models: convolutions with their norms, operators in their blocks, the heads."""

import math
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax.nn.boxes import unboxed
from tvconv_jax.nn.checks import Checked, check_built, check_images
from tvconv_jax.nn.layers import DepthwiseConv, kaiming_normal
from tvconv_jax.nn.norm import BatchNorm
from tvconv_jax.ops.batch_norm import Activation
from tvconv_jax.ops.conv import conv
from tvconv_jax.ops.pointwise import FEW_CHANNELS, pointwise
from tvconv_jax.ops.pointwise_norm import is_narrow
from tvconv_jax.ops.precision import upcast

Shape = tuple[int, ...]

# Makes the spatial operator of a block: called as conv(strides=2, name="conv").
ConvFactory = Callable[..., nn.Module]


def call(module: nn.Module, x: jax.Array, *, train: bool, remat: bool) -> jax.Array:
    """Return ``module(x, train=train)``; with ``remat`` the gradient recomputes the activations inside."""

    def plain(module: nn.Module, x: jax.Array) -> jax.Array:
        return module(x, train=train)

    return (nn.remat(plain) if remat else plain)(module, x)


def spatial(operator: nn.Module, x: jax.Array, *, train: bool) -> jax.Array:
    """Return ``operator(x)``; one that normalizes over the batch (``has_norm``) gets ``train``."""
    return operator(x, train=train) if getattr(operator, "has_norm", False) else operator(x)


class Pointwise(Checked):
    """1x1 convolution without a bias, ``[..., c]`` -> ``[..., features]``."""

    features: int  #: Channels of the output.
    kernel_init: nn.initializers.Initializer = kaiming_normal  #: Initializer of the kernel.

    def __call__(self, x: jax.Array) -> jax.Array:
        return pointwise(x, self.declare(x.shape[-1]))

    @nn.compact
    def declare(self, channels: int) -> jax.Array:
        """Return the kernel, ``[channels, features]``."""
        return self.param("kernel", self.kernel_init, (channels, self.features), jnp.float32)

    def cost(self, x: Shape, y: Shape) -> int:
        return math.prod(y) * x[-1]


class Conv(Checked):
    """Convolution over all channels without a bias, ``[n, h, w, c]`` -> ``[n, ho, wo, features]``; see ConvNorm."""

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

    def cost(self, x: Shape, y: Shape) -> int:
        return math.prod(y) * self.kernel_size**2 * x[-1]


class ConvNorm(Checked):
    """Convolution without a bias, batch norm, activation.

    A kernel of size 1 is made by ``pointwise(features, kernel_init=...)``, without strides, dilation and padding.
    """

    features: int  #: Channels of the output.
    activation: Activation = "identity"
    kernel_size: int = 1  #: Odd.
    strides: int = 1  #: Step between output positions.
    dilation: int = 1  #: Step between the taps.
    padding: int | None = None  #: Zeros on each side; ``None`` keeps the grid.
    kernel_init: nn.initializers.Initializer = kaiming_normal  #: Initializer of the kernel.
    pointwise: ConvFactory = Pointwise

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, before: BatchNorm | None = None) -> jax.Array:
        """Return ``[n, ho, wo, features]``; the input goes through the norm ``before`` first, if there is one."""
        norm = BatchNorm(activation=self.activation, name="norm")
        if self.kernel_size == 1:
            conv = self.pointwise(self.features, kernel_init=self.kernel_init, name="conv")
            together = train and type(conv) is Pointwise
            if together and before is not None and self.features <= FEW_CHANNELS < x.shape[-1]:
                return norm(before(x, train=True, next_kernel=conv.declare(x.shape[-1])), train=True)
            x = x if before is None else before(x, train=train)
            if together and is_narrow(x.shape[-1], self.features):
                return norm(x, train=True, kernel=conv.declare(x.shape[-1]))
        else:
            geometry = (self.kernel_size, self.strides, self.dilation, self.padding)
            conv = Conv(self.features, *geometry, self.kernel_init, name="conv")
        return norm(conv(x), train=train)


class MaxPool(Checked):
    """Maximum over 3x3 windows, every second position: ``[n, h, w, c]`` -> ``[n, ho, wo, c]``."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

    def cost(self, x: Shape, y: Shape) -> int:
        return math.prod(x)


# How a head reduces the last grid: its average, a learned depthwise kernel over all of it, or all of its numbers.
HeadPool = Literal["mean", "gdc", "flatten"]


class GlobalDepthwise(Checked):
    """Depthwise convolution whose kernel is the whole grid, ``[n, h, w, c]`` -> ``[n, c]``.

    It starts as the average. The layer belongs to one grid.

    Source: Chen et al. 2018, "MobileFaceNets", section 3.2, https://arxiv.org/abs/1804.07573.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        check_built(self, "kernel", x.shape[1:3])
        start = nn.initializers.constant(1 / math.prod(x.shape[1:3]))
        kernel = self.param("kernel", start, x.shape[1:], jnp.float32)
        values = upcast(x)
        return jnp.sum(values * kernel[None].astype(values.dtype), axis=(1, 2)).astype(x.dtype)

    def cost(self, x: Shape, y: Shape) -> int:
        return math.prod(x)


class Head(Checked):
    """Base of the heads of a grid, ``[n, h, w, c]`` -> ``[n, features]``."""

    features: int = 512  #: Size of the embedding, or number of classes.
    head_pool: HeadPool = "mean"  #: ``"mean"``, ``"gdc"`` (:class:`GlobalDepthwise`) or ``"flatten"``.

    def linear(self, x: jax.Array) -> jax.Array:
        """Return the grid reduced by ``head_pool``, through a linear layer: ``[n, h, w, c]`` -> ``[n, features]``."""
        if self.head_pool == "gdc":
            x = GlobalDepthwise(name="pool")(x)
        elif self.head_pool == "flatten":
            x = x.reshape(len(x), -1)
            self._check_flat(x.shape[1])
        else:
            x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.features, kernel_init=nn.initializers.normal(0.01), dtype=x.dtype, name="dense")(x)

    def _check_flat(self, size: int) -> None:
        if not self.has_variable("params", "dense"):
            return
        built = unboxed(self.get_variable("params", "dense")["kernel"]).shape[0]
        if built != size:
            raise ValueError(
                f"{self.name or type(self).__name__} was built for {built} numbers of the last grid, but this input "
                f"gives {size}; its weights belong to positions: resize the input or initialize again."
            )


@nn.nowrap
def mean_cost(head: Head, x: Shape, y: Shape) -> int:
    """Count the average over the grid, where the head takes it."""
    return math.prod(x) if head.head_pool == "mean" else 0


class EmbeddingHead(Head):
    """Batch norm, pooling, linear layer, batch norm: ``[n, h, w, c]`` -> ``[n, features]``."""

    cost = mean_cost

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = self.linear(BatchNorm(name="norm_in")(x, train=train))
        return BatchNorm(name="norm_out")(x, train=train)


class ClassHead(Head):
    """Pooling and linear layer: ``[n, h, w, c]`` -> logits ``[n, features]``."""

    cost = mean_cost

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return self.linear(x)


def make_head(num_classes: int, embedding_size: int, head_pool: HeadPool = "mean") -> Head:
    """Return the head of a model: logits of the classes, or an embedding if there are none."""
    if num_classes:
        return ClassHead(num_classes, head_pool, name="head")
    return EmbeddingHead(embedding_size, head_pool, name="head")


def add_coordinates(images: jax.Array) -> jax.Array:
    """Append two channels, x and y of every pixel in [-1, 1]: ``[n, h, w, c]`` -> ``[n, h, w, c + 2]``.

    Source: Liu et al. 2018, "CoordConv", https://arxiv.org/abs/1807.03247.
    """
    n, height, width, _ = images.shape
    x, y = jnp.meshgrid(jnp.linspace(-1, 1, width), jnp.linspace(-1, 1, height))
    channels = jnp.broadcast_to(jnp.stack([x, y], axis=-1), (n, height, width, 2))
    return jnp.concatenate([images, channels.astype(images.dtype)], axis=-1)


# Fields of a face model that the PyTorch reference has too.
REFERENCE_FIELDS = ("width", "depth", "conv", "stages", "embedding_size", "remat")


class FaceModel(Checked):
    """Base of models with one output an image: images ``[n, h, w, 3]`` in [-1, 1] -> ``[n, d]``.

    By default these are embeddings ``[n, embedding_size]``, not normalized; with ``num_classes``, logits
    ``[n, num_classes]``. With ``head_pool`` other than ``"mean"``, the model belongs to one input size.
    """

    width: float = 1.0  #: Multiplies the channels.
    depth: float = 1.0  #: Multiplies the blocks of every stage, rounded up.
    conv: ConvFactory = DepthwiseConv  #: Makes the spatial operator of the chosen stages.
    stages: tuple[int, ...] = ()  #: Stages that get ``conv`` and ``pointwise``; others keep their plain convolutions.
    embedding_size: int = 512  #: Size of the embedding.
    pointwise: ConvFactory = Pointwise  #: Makes the 1x1 convolutions of the chosen stages.
    remat: bool = False  #: Whether the gradient recomputes activations on the full and the half grid.
    num_classes: int = 0  #: Classes of the logits; 0: the model returns embeddings.
    head_pool: HeadPool = "mean"  #: Reduction of the last grid, see :class:`Head`.
    coordinates: bool = False  #: Whether x and y of every pixel are two more channels of the images.

    def operators(self, stage: int) -> tuple[ConvFactory, ConvFactory]:
        """Return the makers of a stage's spatial operator and 1x1 convolutions."""
        return (self.conv, self.pointwise) if stage in self.stages else (DepthwiseConv, Pointwise)

    def prepared(self, images: jax.Array) -> jax.Array:
        """Return the images, checked, with their coordinates if the model takes them."""
        images = check_images("images", images)
        return add_coordinates(images) if self.coordinates else images

    def run(self, module: nn.Module, x: jax.Array, height: int, *, train: bool) -> jax.Array:
        """Return ``module(x)``, recomputed for the gradient on large grids if ``remat`` is set."""
        return call(module, x, train=train, remat=self.remat and 2 * x.shape[1] >= height)

    def make_head(self) -> Head:
        """Return the head."""
        return make_head(self.num_classes, self.embedding_size, self.head_pool)
