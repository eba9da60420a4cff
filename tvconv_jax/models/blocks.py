"""Parts of the models: convolutions with their norms, operators in their blocks, the embedding head."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax.nn.checks import Checked
from tvconv_jax.nn.layers import DepthwiseConv, kaiming_normal
from tvconv_jax.nn.norm import BatchNorm
from tvconv_jax.ops.batch_norm import Activation
from tvconv_jax.ops.conv import conv
from tvconv_jax.ops.pointwise import pointwise

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

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return pointwise(x, self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32))

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
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.kernel_size == 1:
            x = self.pointwise(self.features, kernel_init=self.kernel_init, name="conv")(x)
        else:
            geometry = (self.kernel_size, self.strides, self.dilation, self.padding)
            x = Conv(self.features, *geometry, self.kernel_init, name="conv")(x)
        return BatchNorm(activation=self.activation, name="norm")(x, train=train)


class MaxPool(Checked):
    """Maximum over 3x3 windows, every second position: ``[n, h, w, c]`` -> ``[n, ho, wo, c]``."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

    def cost(self, x: Shape, y: Shape) -> int:
        return math.prod(x)


class EmbeddingHead(Checked):
    """Batch norm, average over the grid, linear layer, batch norm: ``[n, h, w, c]`` -> ``[n, features]``."""

    features: int = 512  #: Size of the embedding.

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = BatchNorm(name="norm_in")(x, train=train)
        x = jnp.mean(x, axis=(1, 2))
        x = nn.Dense(self.features, kernel_init=nn.initializers.normal(0.01), dtype=x.dtype, name="dense")(x)
        return BatchNorm(name="norm_out")(x, train=train)

    def cost(self, x: Shape, y: Shape) -> int:
        return math.prod(x)  # the average over the grid


# Fields of a face model that the PyTorch reference has too.
REFERENCE_FIELDS = ("width", "depth", "conv", "stages", "embedding_size", "remat")


class FaceModel(Checked):
    """Base of face models: images ``[n, h, w, 3]`` in [-1, 1] -> embeddings ``[n, embedding_size]``, not normalized."""

    width: float = 1.0  #: Multiplies the channels.
    depth: float = 1.0  #: Multiplies the blocks of every stage, rounded up.
    conv: ConvFactory = DepthwiseConv  #: Makes the spatial operator of the chosen stages.
    stages: tuple[int, ...] = ()  #: Stages that get ``conv`` and ``pointwise``; others keep their plain convolutions.
    embedding_size: int = 512  #: Size of the embedding.
    pointwise: ConvFactory = Pointwise  #: Makes the 1x1 convolutions of the chosen stages.
    remat: bool = False  #: Whether the gradient recomputes activations on the full and the half grid.

    def operators(self, stage: int) -> tuple[ConvFactory, ConvFactory]:
        """Return the makers of a stage's spatial operator and 1x1 convolutions."""
        return (self.conv, self.pointwise) if stage in self.stages else (DepthwiseConv, Pointwise)

    def run(self, module: nn.Module, x: jax.Array, image_size: int, *, train: bool) -> jax.Array:
        """Return ``module(x)``, recomputed for the gradient on large grids if ``remat`` is set."""
        return call(module, x, train=train, remat=self.remat and 2 * x.shape[1] >= image_size)
