"""Dynamic TVConv: the affinity maps come from the input, so every image has its own kernel at every pixel.

Chen et al., "TVConv: Efficient Translation Variant Convolution for Layout-aware Visual Processing", CVPR 2022,
section 3.3, https://arxiv.org/abs/2203.10489: the limit in which TVConv becomes a per-pixel dynamic convolution.

    A(x) = F x + b,   W(x) = B(A(x)),   y[n, i, j, c] = sum_t W(x)[n, i, j, t, c] x[n, i + t // k, j + t % k, c]

The paper does not say how the maps come from the input. Here a linear layer yields them at every pixel, after an
average over ``strides x strides`` pixels; it starts with zero weights and biases of 1, so that the operator starts
as TVConv does. Maps that do not depend on the input give TVConv. The generator runs for every image, and its
kernels are ``k*k`` times as large as the output: it is here to be compared with, not to be deployed.
"""

import flax.linen as nn
import jax

from tvconv_jax.nn.boxes import unboxed
from tvconv_jax.nn.checks import Checked, check_grid, check_images
from tvconv_jax.nn.layers import GENERATOR_NAMES, GeneratorPadding, WeightGenerator, kaiming_normal
from tvconv_jax.nn.operators.dynamic import average_pool, dynamic_conv
from tvconv_jax.ops.fused import upcast

# The same generator for all images. Its convolutions are products over gathered pixels, so this is one large product.
EachImage = nn.vmap(WeightGenerator, variable_axes={"params": None}, split_rngs={"params": False})


class TVConvDynamic(Checked):
    """TVConv with affinity maps of the input's own, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``.

    Attributes:
        kernel_size: Odd side of the kernels.
        strides: Step between output positions.
        affinity_channels: Affinity maps.
        hidden_channels: Channels of the generator's hidden blocks.
        hidden_layers: Hidden blocks of the generator after the first.
        use_bias: Whether a second generator yields a bias per image, position and channel.
        generator_padding: ``"zeros"`` or ``"edge"``, see :class:`tvconv_jax.WeightGenerator`.
        kernel_init: What the generator's convolutions start from.
    """

    kernel_size: int = 3
    strides: int = 1
    affinity_channels: int = 4
    hidden_channels: int = 64
    hidden_layers: int = 3
    use_bias: bool = False
    generator_padding: GeneratorPadding = "zeros"
    kernel_init: nn.initializers.Initializer = kaiming_normal

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x)
        to_maps = nn.Dense(
            self.affinity_channels,
            kernel_init=nn.initializers.zeros,
            bias_init=nn.initializers.ones,
            dtype=x.dtype,
            name="maps",
        )
        maps, channels = upcast(to_maps(average_pool(x, self.strides))), x.shape[3]
        y = dynamic_conv(x, self._generate("kernels", maps, (self.kernel_size**2, channels)), strides=self.strides)
        return y + self._generate("biases", maps, (channels,)).astype(x.dtype) if self.use_bias else y

    def _generate(self, what: str, maps: jax.Array, features: tuple[int, ...]) -> jax.Array:
        """Maps ``[n, ho, wo, a]`` -> ``[n, ho, wo, *features]``."""
        name = f"{what}_{GENERATOR_NAMES[self.generator_padding]}"
        if self.has_variable("params", name):
            check_grid(self, unboxed(self.get_variable("params", name)["block_0"]["scale"]).shape, maps.shape[1:3])
        return EachImage(
            features=features,
            hidden_channels=self.hidden_channels,
            hidden_layers=self.hidden_layers,
            padding=self.generator_padding,
            kernel_init=self.kernel_init,
            name=name,
        )(maps)
