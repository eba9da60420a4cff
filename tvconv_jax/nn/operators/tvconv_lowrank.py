"""Low-rank TVConv: a few depthwise convolutions, each times a gain per pixel and channel.

Ours, after what trained TVConv kernels look like: per channel, a matrix of taps by pixels that is nearly of rank 1
or 2. The generator of Chen et al., CVPR 2022, section 3.2, https://arxiv.org/abs/2203.10489, yields the gains.

    W[i, j, t, c] = sum_r G[i, j, r, c] K[r, t, c],   G = B(A),   so   y = sum_r G_r * (x convolved with K_r)

It costs ``rank`` depthwise convolutions and as many products, in training too. Rank ``k*k`` can be any TVConv;
rank 1 with equal gains is the depthwise convolution. Frozen, gains and kernels are kept.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax.nn.boxes import unboxed
from tvconv_jax.nn.checks import Checked, check_frozen, check_grid, check_images
from tvconv_jax.nn.layers import GENERATOR_NAMES, GeneratorPadding, WeightGenerator, kaiming_normal
from tvconv_jax.nn.operators.dynamic import stacked
from tvconv_jax.ops.fused import upcast
from tvconv_jax.ops.tv_conv import depthwise_conv, output_grid


class TVConvLowrank(Checked):
    """Sum of ``rank`` depthwise convolutions times generated gains, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``.

    Attributes:
        kernel_size: Odd side of the kernels.
        strides: Step between output positions.
        rank: Depthwise kernels per channel; ``kernel_size**2`` of them can be any TVConv.
        affinity_channels: Affinity maps of the generator.
        hidden_channels: Channels of the generator's hidden blocks.
        hidden_layers: Hidden blocks of the generator after the first.
        use_bias: Whether a second generator yields a bias per position and channel.
        generator_padding: ``"zeros"`` or ``"edge"``, see :class:`tvconv_jax.WeightGenerator`.
        kernel_init: What kernels and the generator's convolutions start from.
    """

    kernel_size: int = 3
    strides: int = 1
    rank: int = 2
    affinity_channels: int = 4
    hidden_channels: int = 64
    hidden_layers: int = 3
    use_bias: bool = False
    generator_padding: GeneratorPadding = "zeros"
    kernel_init: nn.initializers.Initializer = kaiming_normal

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x)
        channels = x.shape[3]
        shape = (self.rank, self.kernel_size, self.kernel_size, 1, channels)
        kernels = self.param("kernel", stacked(self.kernel_init), shape, jnp.float32)
        kernels = kernels.reshape(self.rank, -1, channels).astype(x.dtype)
        values = self._values(output_grid(*x.shape[1:3], self.strides), channels)
        terms = (
            upcast(depthwise_conv(x, kernels[r], strides=self.strides)) * upcast(values["gains"][None, :, :, r])
            for r in range(self.rank)
        )
        y = functools.reduce(jnp.add, terms).astype(x.dtype)
        return y + values["bias"].astype(x.dtype)[None] if self.use_bias else y

    def _values(self, grid: tuple[int, int], channels: int) -> dict[str, jax.Array]:
        """``gains [ho, wo, rank, c]`` and, with a bias, ``bias [ho, wo, c]``: frozen ones, else generated."""
        features = {"gains": (self.rank, channels)} | ({"bias": (channels,)} if self.use_bias else {})
        if self.has_variable("frozen", "gains"):
            values = {name: nn.meta.unbox(self.get_variable("frozen", name)) for name in features}
            check_frozen(self, values, {name: (*grid, *shape) for name, shape in features.items()})
            return values
        if self.has_variable("params", "affinity"):
            check_grid(self, unboxed(self.get_variable("params", "affinity")).shape, grid)
        affinity = self.param("affinity", nn.initializers.ones, (*grid, self.affinity_channels), jnp.float32)
        return {
            name: WeightGenerator(
                features=shape,
                hidden_channels=self.hidden_channels,
                hidden_layers=self.hidden_layers,
                padding=self.generator_padding,
                kernel_init=self.kernel_init,
                name=f"{name}_{GENERATOR_NAMES[self.generator_padding]}",
            )(affinity)
            for name, shape in features.items()
        }
