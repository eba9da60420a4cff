"""The operators as Flax linen modules: drop-in layers that read their grid and channels from the input."""

import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax.nn.boxes import reboxed, unboxed
from tvconv_jax.nn.checks import Checked, check_frozen, check_grid, check_images
from tvconv_jax.ops.tv_conv import Implementation, depthwise_conv, output_grid, tv_conv
from tvconv_jax.ops.unfold import unfold

# What every convolution of the reference starts from: normal, variance 2 / fan_out (He et al. 2015).
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

GeneratorPadding = Literal["zeros", "edge"]

# A generator's name in the parameters tells its padding, so weights of one never pass for the other's.
GENERATOR_NAMES = {"zeros": "generator", "edge": "edge_generator"}


class GeneratorBlock(Checked):
    """3x3 convolution, layer norm over the whole map with a scale and a bias per element, ReLU.

    Attributes:
        features: Channels of the output.
        padding: What the 3x3 convolution sees outside the map, ``"zeros"`` or ``"edge"``.
        epsilon: Added to the variance.
        kernel_init: What the convolution starts from.
    """

    features: int
    padding: GeneratorPadding = "zeros"
    epsilon: float = 1e-5
    kernel_init: nn.initializers.Initializer = kaiming_normal

    @nn.compact
    def __call__(self, maps: jax.Array) -> jax.Array:
        """Maps ``[h, w, c]`` -> ``[h, w, features]``."""
        maps = MapConv((self.features,), self.padding, self.kernel_init, name="conv")(maps)
        # One mean and one variance for the whole (h, w, c) block, as torch.nn.LayerNorm([c, h, w]) takes them.
        maps = maps - jnp.mean(maps)
        maps = maps * jax.lax.rsqrt(jnp.mean(jnp.square(maps)) + self.epsilon)
        scale = self.param("scale", nn.initializers.ones, maps.shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, maps.shape, jnp.float32)
        return nn.relu(maps * scale + bias)


class MapConv(Checked):
    """3x3 convolution over one map, as one matrix product over :func:`tvconv_jax.ops.unfold.neighbors`.

    A CPU runs this and above all its gradient faster than ``lax.conv``: with a batch of one, the nine copies
    of the map are small and everything else is two matrix products.

    Attributes:
        features: Shape of the output at every position.
        padding: What lies outside the map, ``"zeros"`` or ``"edge"``.
        kernel_init: What the kernel starts from.
    """

    features: tuple[int, ...]
    padding: GeneratorPadding = "zeros"
    kernel_init: nn.initializers.Initializer = kaiming_normal

    @nn.compact
    def __call__(self, maps: jax.Array) -> jax.Array:
        """Maps ``[h, w, c]`` -> ``[h, w, *features]``."""
        height, width, channels = maps.shape
        size = math.prod(self.features)

        def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Any:
            drawn = self.kernel_init(key, (3, 3, channels, size), dtype)
            axes = (0, 1, 2, *[None] * (len(self.features) - 1), 3)  # the last axis of all keeps its name
            return reboxed(drawn, unboxed(drawn).reshape(shape), axes)

        kernel = self.param("kernel", init, (3, 3, channels, *self.features), jnp.float32)
        padded = jnp.pad(maps, ((1, 1), (1, 1), (0, 0)), mode="constant" if self.padding == "zeros" else "edge")
        seen = unfold(padded, (height, width))
        return (seen @ kernel.reshape(9 * channels, size)).reshape(height, width, *self.features)


class WeightGenerator(Checked):
    """The block ``B`` of ``W = B(A)``: turns affinity maps into values for every position.

    ``hidden_layers + 1`` blocks (3x3 convolution, joint layer norm, ReLU), then a last 3x3 convolution.

    Attributes:
        features: Shape of the values at every position, ``(k*k, c)`` for weights, ``(c,)`` for a bias.
        hidden_channels: Channels of the hidden blocks.
        hidden_layers: Hidden blocks after the first.
        padding: ``"zeros"`` as the reference (kernels within ``hidden_layers + 2`` pixels of the border differ
            from the start), or ``"edge"`` (they start equal everywhere).
        kernel_init: What the convolutions start from.

    Source: Chen et al., CVPR 2022, section 3.2, and github.com/JierunChen/TVConv (609d4bf).
    """

    features: tuple[int, ...]
    hidden_channels: int = 64
    hidden_layers: int = 3
    padding: GeneratorPadding = "zeros"
    kernel_init: nn.initializers.Initializer = kaiming_normal

    @nn.compact
    def __call__(self, affinity: jax.Array) -> jax.Array:
        """Affinity maps ``[ho, wo, affinity_channels]`` -> ``[ho, wo, *features]``, float32."""
        maps = affinity
        for i in range(self.hidden_layers + 1):
            maps = GeneratorBlock(self.hidden_channels, self.padding, kernel_init=self.kernel_init, name=f"block_{i}")(
                maps
            )
        return MapConv(self.features, self.padding, self.kernel_init, name="out")(maps)


class TVConv(Checked):
    """Translation-variant depthwise convolution, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``.

    The grid is read from the first input; from then on the layer belongs to that grid. Variables that
    :func:`tvconv_jax.freeze` made hold the weights themselves, and then nothing is generated.

    Attributes:
        kernel_size: Odd side of the kernels.
        strides: Step between output positions.
        affinity_channels: Affinity maps of the generator.
        hidden_channels: Channels of the generator's hidden blocks.
        hidden_layers: Hidden blocks of the generator after the first.
        use_bias: Whether a second generator yields a bias per position and channel.
        generator_padding: ``"zeros"`` (the reference) or ``"edge"``, see :class:`WeightGenerator`.
        implementation: Passed to :func:`tvconv_jax.ops.tv_conv.tv_conv`.
        kernel_init: What the generator's convolutions start from.

    Source: Chen et al., "TVConv: Efficient Translation Variant Convolution for Layout-aware Visual
    Processing", CVPR 2022, https://arxiv.org/abs/2203.10489.
    """

    kernel_size: int = 3
    strides: int = 1
    affinity_channels: int = 4
    hidden_channels: int = 64
    hidden_layers: int = 3
    use_bias: bool = False
    generator_padding: GeneratorPadding = "zeros"
    implementation: Implementation = "shifted"
    kernel_init: nn.initializers.Initializer = kaiming_normal

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x)
        values = self._values(x)
        y = tv_conv(x, values["weights"].astype(x.dtype), strides=self.strides, implementation=self.implementation)
        return y + values["bias"].astype(x.dtype)[None] if self.use_bias else y

    def _values(self, x: jax.Array) -> dict[str, jax.Array]:
        """``weights [ho, wo, k*k, c]`` and, with a bias, ``bias [ho, wo, c]``: frozen ones, else generated."""
        grid = output_grid(x.shape[1], x.shape[2], self.strides)
        features = {"weights": (self.kernel_size**2, x.shape[3])}
        if self.use_bias:
            features["bias"] = (x.shape[3],)
        if self.has_variable("frozen", "weights"):
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


class DepthwiseConv(Checked):
    """Depthwise convolution, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``; the operator TVConv is compared with.

    Attributes:
        kernel_size: Odd side of the kernels.
        strides: Step between output positions.
        use_bias: Whether a bias per channel is added.
        dilation: Step between the positions that taps see.
        padding: Zeros on each side; ``None`` keeps the grid.
        kernel_init: What the kernel starts from.
    """

    kernel_size: int = 3
    strides: int = 1
    use_bias: bool = False
    dilation: int = 1
    padding: int | None = None
    kernel_init: nn.initializers.Initializer = kaiming_normal

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x)
        channels = x.shape[3]
        shape = (self.kernel_size, self.kernel_size, 1, channels)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        taps = kernel.reshape(-1, channels).astype(x.dtype)
        y = depthwise_conv(x, taps, strides=self.strides, dilation=self.dilation, padding=self.padding)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
            y = y + bias.astype(x.dtype)[None, None, None]
        return y
