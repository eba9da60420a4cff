"""The operators as Flax linen modules: drop-in layers that read their grid and channels from the input."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax.nn.boxes import reboxed, unboxed
from tvconv_jax.nn.checks import Checked, check_built, check_images, frozen_values
from tvconv_jax.ops.tv_conv import Implementation, depthwise_conv, output_grid, tv_conv
from tvconv_jax.ops.unfold import unfold

# The reference's start of every convolution: normal, variance 2 / fan_out (He et al. 2015).
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

Shape = tuple[int, ...]
GeneratorPadding = Literal["zeros", "edge"]

# A generator's padding is part of its name in the parameters, so weights of one never pass for the other's.
GENERATOR_NAMES = {"zeros": "generator", "edge": "edge_generator"}


@nn.nowrap
def no_cost(module: nn.Module, x: Shape, y: Shape) -> int:
    """Return 0, for parts that freezing drops or that their operator counts."""
    return 0


class MapConv(Checked):
    """3x3 convolution over one map, as one matrix product over :func:`tvconv_jax.ops.unfold.unfold`.

    A CPU runs it, and above all its gradient, faster than ``lax.conv``: with a batch of one, the nine copies of the
    map are small, and everything else is two matrix products.
    """

    features: tuple[int, ...]  #: Shape of the output at every position.
    padding: GeneratorPadding = "zeros"  #: Values outside the map, ``"zeros"`` or ``"edge"``.
    kernel_init: nn.initializers.Initializer = kaiming_normal  #: Initializer of the kernel.

    cost = no_cost

    @nn.compact
    def __call__(self, maps: jax.Array) -> jax.Array:
        """Convolve ``[h, w, c]`` -> ``[h, w, *features]``."""
        height, width, channels = maps.shape
        size = math.prod(self.features)

        def init(key: jax.Array, shape: Shape, dtype: jnp.dtype) -> Any:
            drawn = self.kernel_init(key, (3, 3, channels, size), dtype)
            axes = (0, 1, 2, *[None] * (len(self.features) - 1), 3)  # the last axis of all keeps its name
            return reboxed(drawn, unboxed(drawn).reshape(shape), axes)

        kernel = self.param("kernel", init, (3, 3, channels, *self.features), jnp.float32)
        padded = jnp.pad(maps, ((1, 1), (1, 1), (0, 0)), mode="constant" if self.padding == "zeros" else "edge")
        patches = unfold(padded, (height, width))
        return (patches @ kernel.reshape(9 * channels, size)).reshape(height, width, *self.features)


class GeneratorBlock(Checked):
    """3x3 convolution, layer norm over the whole map with a scale and a bias per element, ReLU."""

    features: int  #: Channels of the output.
    padding: GeneratorPadding = "zeros"  #: Values outside the map for the 3x3 convolution, ``"zeros"`` or ``"edge"``.
    epsilon: float = 1e-5  #: Added to the variance.
    kernel_init: nn.initializers.Initializer = kaiming_normal  #: Initializer of the convolution.

    cost = no_cost

    @nn.compact
    def __call__(self, maps: jax.Array) -> jax.Array:
        """Transform ``[h, w, c]`` -> ``[h, w, features]``."""
        maps = MapConv((self.features,), self.padding, self.kernel_init, name="conv")(maps)
        # One mean and one variance for the whole (h, w, c) block, as torch.nn.LayerNorm([c, h, w]) takes them.
        maps = maps - jnp.mean(maps)
        maps = maps * jax.lax.rsqrt(jnp.mean(jnp.square(maps)) + self.epsilon)
        scale = self.param("scale", nn.initializers.ones, maps.shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, maps.shape, jnp.float32)
        return nn.relu(maps * scale + bias)


class WeightGenerator(Checked):
    """The block ``B`` of ``W = B(A)``: turns affinity maps into values for every position.

    ``hidden_layers + 1`` blocks (3x3 convolution, joint layer norm, ReLU), then a last 3x3 convolution.

    Source: Chen et al., CVPR 2022, section 3.2, and github.com/JierunChen/TVConv (609d4bf).
    """

    features: tuple[int, ...]  #: Shape of the values at every position, ``(k*k, c)`` for weights, ``(c,)`` for a bias.
    hidden_channels: int = 64  #: Channels of the hidden blocks.
    hidden_layers: int = 3  #: Hidden blocks after the first.
    #: ``"zeros"`` as the reference (kernels within ``hidden_layers + 2`` pixels of the border differ from the start) or
    #: ``"edge"`` (they start equal everywhere).
    padding: GeneratorPadding = "zeros"
    kernel_init: nn.initializers.Initializer = kaiming_normal  #: Initializer of the convolutions.

    cost = no_cost

    @nn.compact
    def __call__(self, affinity: jax.Array) -> jax.Array:
        """Transform affinity maps ``[ho, wo, affinity_channels]`` -> ``[ho, wo, *features]``, float32."""
        maps, block = affinity, functools.partial(GeneratorBlock, self.hidden_channels, self.padding)
        for i in range(self.hidden_layers + 1):
            maps = block(kernel_init=self.kernel_init, name=f"block_{i}")(maps)
        return MapConv(self.features, self.padding, self.kernel_init, name="out")(maps)


def freeze_generators(*names: str) -> dict[str, Callable]:
    """Return the rules of :mod:`.freeze` for an operator's generators of these names, with either padding."""
    rules = {
        suffix: functools.partial(_freeze_generator, padding=padding) for padding, suffix in GENERATOR_NAMES.items()
    }
    return {f"{name}_{suffix}": rule for name in names for suffix, rule in rules.items()}


def _freeze_generator(
    params: Any, affinity: jax.Array, *, padding: GeneratorPadding
) -> tuple[Callable[..., jax.Array], Any] | None:
    """Accept exactly the parameters of a :class:`WeightGenerator`, and no others."""
    if not isinstance(params, Mapping) or not {"block_0", "out"} <= set(params):
        return None
    forms = {name: {"kernel"} if name == "out" else {"conv", "scale", "bias"} for name in params}
    if not all(isinstance(params[name], Mapping) and set(params[name]) == form for name, form in forms.items()):
        return None

    def generate(params: Mapping[str, Any], affinity: jax.Array) -> jax.Array:
        generator = WeightGenerator(
            features=params["out"]["kernel"].shape[3:],
            hidden_channels=params["block_0"]["conv"]["kernel"].shape[3],
            hidden_layers=len(params) - 2,
            padding=padding,
        )
        return generator.apply({"params": params}, affinity)

    return generate, params["out"]["kernel"]


class SpatialOperator(Checked):
    """Base of the operators of a block, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``."""

    kernel_size: int = 3  #: Odd size of the kernels.
    strides: int = 1  #: Step between output positions.
    #: Initializer of the kernels, or of the convolutions and linear layers that make them.
    kernel_init: nn.initializers.Initializer = dataclasses.field(default=kaiming_normal, kw_only=True)


@nn.nowrap
def depthwise_cost(operator: Any, x: Shape, y: Shape) -> int:
    """Count a product per tap and output element, and one for a bias, as for frozen per-pixel kernels."""
    return math.prod(y) * (operator.kernel_size**2 + getattr(operator, "use_bias", False))


class GeneratedOperator(SpatialOperator):
    """Base of the operators with a :class:`WeightGenerator`."""

    affinity_channels: int = 4  #: Affinity maps of the generator.
    hidden_channels: int = 64  #: Channels of the generator's hidden blocks.
    hidden_layers: int = 3  #: Hidden blocks of the generator after the first.
    use_bias: bool = False  #: Whether a second generator yields a bias per position and channel.
    generator_padding: GeneratorPadding = "zeros"  #: ``"zeros"`` (the reference) or ``"edge"``, see WeightGenerator.

    def generator(self, name: str, features: Shape, kind: type[WeightGenerator] = WeightGenerator) -> nn.Module:
        """Return the generator of values of the shape ``features`` at every position."""
        return kind(
            features=features,
            hidden_channels=self.hidden_channels,
            hidden_layers=self.hidden_layers,
            padding=self.generator_padding,
            kernel_init=self.kernel_init,
            name=self.generator_name(name),
        )

    def generator_name(self, name: str) -> str:
        """Return a generator's name in the parameters."""
        return f"{name}_{GENERATOR_NAMES[self.generator_padding]}"


def position_values(operator: Any, x: jax.Array, make: Callable, **features: Shape) -> dict[str, jax.Array]:
    """Return values ``[ho, wo, *features]`` by name, with a bias if there is one: frozen, or made from affinity maps.

    ``make(name, features)`` returns the function of affinity maps ``[ho, wo, affinity_channels]``.
    """
    grid = output_grid(x.shape[1], x.shape[2], operator.strides)
    if operator.use_bias:
        features["bias"] = (x.shape[3],)
    if frozen := frozen_values(operator, {name: (*grid, *shape) for name, shape in features.items()}):
        return frozen
    check_built(operator, "affinity", grid)
    affinity = operator.param("affinity", nn.initializers.ones, (*grid, operator.affinity_channels), jnp.float32)
    return {name: make(name, shape)(affinity) for name, shape in features.items()}


class TVConv(GeneratedOperator):
    """Translation-variant depthwise convolution, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``.

    The grid is read from the first input; from then on the layer belongs to that grid. With variables from
    :func:`tvconv_jax.freeze`, which hold the weights themselves, nothing is generated.

    Its fields are those of :class:`SpatialOperator` and :class:`GeneratedOperator`, and ``implementation``.

    Source: Chen et al., "TVConv: Efficient Translation Variant Convolution for Layout-aware Visual
    Processing", CVPR 2022, https://arxiv.org/abs/2203.10489.
    """

    implementation: Implementation = "shifted"  #: Passed to :func:`tvconv_jax.ops.tv_conv.tv_conv`.

    generated = freeze_generators("weights", "bias")
    reference_fields = (
        *("kernel_size", "strides", "affinity_channels", "hidden_channels", "hidden_layers", "use_bias"),
        *("implementation", "kernel_init"),
    )
    cost = depthwise_cost

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x)
        values = position_values(self, x, self.generator, weights=(self.kernel_size**2, x.shape[3]))
        y = tv_conv(x, values["weights"].astype(x.dtype), strides=self.strides, implementation=self.implementation)
        return y + values["bias"].astype(x.dtype)[None] if self.use_bias else y


class DepthwiseConv(SpatialOperator):
    """Depthwise convolution, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``; the baseline of TVConv."""

    use_bias: bool = False  #: Whether a bias per channel is added.
    dilation: int = 1  #: Step between the taps.
    padding: int | None = None  #: Zeros on each side; ``None`` keeps the grid.

    reference_fields = ("kernel_size", "strides", "use_bias", "dilation", "padding", "kernel_init")
    cost = depthwise_cost

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x)
        shape = (self.kernel_size, self.kernel_size, 1, x.shape[3])
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        taps = kernel.reshape(-1, x.shape[3]).astype(x.dtype)
        y = depthwise_conv(x, taps, strides=self.strides, dilation=self.dilation, padding=self.padding)
        return add_bias(self, y) if self.use_bias else y


def add_bias(module: nn.Module, y: jax.Array) -> jax.Array:
    """Add the module's parameter ``bias [c]`` to ``[n, ho, wo, c]``."""
    bias = module.param("bias", nn.initializers.zeros, y.shape[-1:], jnp.float32)
    return y + bias.astype(y.dtype)[None, None, None]
