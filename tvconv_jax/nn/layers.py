"""The operators as Flax linen modules: drop-in layers that read their grid and channels from the input."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax.nn.boxes import reboxed, unboxed
from tvconv_jax.nn.checks import Checked, check_built, check_images, frozen_values
from tvconv_jax.ops.generator import GENERATOR_NAMES, PADDINGS, GeneratorPadding, generate, generate_values
from tvconv_jax.ops.tv_conv import Implementation, depthwise_conv, output_grid, tv_conv

# The reference's start of every convolution: normal, variance 2 / fan_out (He et al. 2015).
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

Shape = tuple[int, ...]
Params = dict[str, Any]


@nn.nowrap
def no_cost(module: nn.Module, x: Shape, y: Shape) -> int:
    """Return 0, for parts that freezing drops or that their operator counts."""
    return 0


class MapConv(Checked):
    """Parameters of a 3x3 convolution of maps, see :mod:`tvconv_jax.ops.generator`."""

    features: tuple[int, ...]  #: Shape of the output at every position.
    kernel_init: nn.initializers.Initializer = kaiming_normal  #: Initializer of the kernel.
    param_dtype: Any = jnp.float32  #: Dtype of the parameters.

    @nn.compact
    def declare(self, inputs: int) -> Params:
        """Return ``{"kernel": [3, 3, inputs, *features]}``."""
        size = math.prod(self.features)

        def init(key: jax.Array, shape: Shape, dtype: jnp.dtype) -> Any:
            drawn = self.kernel_init(key, (3, 3, inputs, size), dtype)
            axes = (0, 1, 2, *[None] * (len(self.features) - 1), 3)  # the last axis of all keeps its name
            return reboxed(drawn, unboxed(drawn).reshape(shape), axes)

        return {"kernel": self.param("kernel", init, (3, 3, inputs, *self.features), self.param_dtype)}


class GeneratorBlock(Checked):
    """Parameters of a 3x3 convolution and of a norm over the whole map."""

    features: int  #: Channels of the output.
    kernel_init: nn.initializers.Initializer = kaiming_normal  #: Initializer of the convolution.
    param_dtype: Any = jnp.float32  #: Dtype of the parameters.

    @nn.compact
    def declare(self, shape: Shape) -> Params:
        """Return ``{"conv", "scale", "bias"}`` for maps of a shape ``(h, w, c)``."""
        conv = MapConv((self.features,), self.kernel_init, self.param_dtype, name="conv").declare(shape[2])
        norm = (*shape[:2], self.features)
        scale = self.param("scale", nn.initializers.ones, norm, self.param_dtype)
        return {"conv": conv, "scale": scale, "bias": self.param("bias", nn.initializers.zeros, norm, self.param_dtype)}


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
    param_dtype: Any = jnp.float32  #: Dtype of the parameters.

    cost = no_cost

    def __call__(self, affinity: jax.Array) -> jax.Array:
        """Transform affinity maps ``[ho, wo, affinity_channels]`` -> ``[ho, wo, *features]``, float32."""
        return generate(self.declare(affinity.shape), affinity, self.padding)

    @nn.compact
    def declare(self, shape: Shape) -> Params:
        """Return the parameters for affinity maps of a shape ``(ho, wo, affinity_channels)``."""
        params = {}
        for i in range(self.hidden_layers + 1):
            block = GeneratorBlock(self.hidden_channels, self.kernel_init, self.param_dtype, name=f"block_{i}")
            params[f"block_{i}"] = block.declare(shape)
            shape = (*shape[:2], self.hidden_channels)
        out = MapConv(self.features, self.kernel_init, self.param_dtype, name="out")
        return {**params, "out": out.declare(shape[2])}


def freeze_generators(*names: str) -> dict[str, Callable]:
    """Return the rules of :mod:`.freeze` for an operator's generators of these names, with either padding."""
    rules = {suffix: functools.partial(_freeze_generator, padding=padding) for suffix, padding in PADDINGS.items()}
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
    return functools.partial(generate, padding=padding), params["out"]["kernel"]


class SpatialOperator(Checked):
    """Base of the operators of a block, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``."""

    kernel_size: int = 3  #: Odd size of the kernels.
    strides: int = 1  #: Step between output positions.
    #: Initializer of the kernels, or of the convolutions and linear layers that make them.
    kernel_init: nn.initializers.Initializer = dataclasses.field(default=kaiming_normal, kw_only=True)
    dtype: Any = dataclasses.field(default=None, kw_only=True)  #: Dtype to compute in; ``None``: the input's.
    param_dtype: Any = dataclasses.field(default=jnp.float32, kw_only=True)  #: Dtype of the parameters.


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
            param_dtype=self.param_dtype,
            name=self.generator_name(name),
        )

    def generator_name(self, name: str) -> str:
        """Return a generator's name in the parameters."""
        return f"{name}_{GENERATOR_NAMES[self.generator_padding]}"

    def declare(self, grid: Shape, **features: Shape) -> Params:
        """Return the layer's parameters: affinity maps, and a generator for each name of values ``[*grid, *shape]``."""
        shape = (*grid, self.affinity_channels)
        generators = {self.generator_name(name): self.generator(name, values) for name, values in features.items()}
        params = {"affinity": self.param("affinity", nn.initializers.ones, shape, self.param_dtype)}
        return params | {name: generator.declare(shape) for name, generator in generators.items()}

    def values(self, grid: Shape, **features: Shape) -> dict[str, jax.Array]:
        """Return generated values ``[*grid, *shape]`` by name."""
        return generate_values(self.declare(grid, **features))


def position_values(operator: Any, x: jax.Array, **features: Shape) -> dict[str, jax.Array]:
    """Return values ``[ho, wo, *shape]`` by name, with a bias if there is one: frozen, or made from affinity maps."""
    grid = output_grid(x.shape[1], x.shape[2], operator.strides)
    if operator.use_bias:
        features["bias"] = (x.shape[3],)
    if frozen := frozen_values(operator, {name: (*grid, *shape) for name, shape in features.items()}):
        return frozen
    check_built(operator, "affinity", grid)
    return operator.values(grid, **features)


def position_conv(
    x: jax.Array, values: Mapping[str, jax.Array], strides: int, implementation: Implementation = "shifted"
) -> jax.Array:
    """Convolve ``[n, h, w, c]`` with a kernel per position -> ``[n, ho, wo, c]``, in the dtype of ``x``.

    Args:
        x: Images or features.
        values: ``weights [ho, wo, k*k, c]``; ``bias [ho, wo, c]`` if there is one.
        strides: Step between output positions.
        implementation: Passed to :func:`tvconv_jax.ops.tv_conv.tv_conv`.
    """
    y = tv_conv(x, values["weights"].astype(x.dtype), strides=strides, implementation=implementation)
    return y + values["bias"].astype(x.dtype)[None] if "bias" in values else y


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
        *("implementation", "kernel_init", "dtype", "param_dtype"),
    )
    cost = depthwise_cost

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x, self.dtype)
        values = position_values(self, x, weights=(self.kernel_size**2, x.shape[3]))
        return position_conv(x, values, self.strides, self.implementation)


class DepthwiseConv(SpatialOperator):
    """Depthwise convolution, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``; the baseline of TVConv."""

    use_bias: bool = False  #: Whether a bias per channel is added.
    dilation: int = 1  #: Step between the taps.
    padding: int | None = None  #: Zeros on each side; ``None`` keeps the grid.

    reference_fields = (
        *("kernel_size", "strides", "use_bias", "dilation", "padding", "kernel_init"),
        *("dtype", "param_dtype"),
    )
    cost = depthwise_cost

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x, self.dtype)
        shape = (self.kernel_size, self.kernel_size, 1, x.shape[3])
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        y = shared_conv(x, kernel, self.strides, self.dilation, self.padding)
        return add_bias(self, y) if self.use_bias else y


def shared_conv(x: jax.Array, kernel: jax.Array, strides: int, dilation: int, padding: int | None) -> jax.Array:
    """Convolve ``[n, h, w, c]`` with a kernel ``[k, k, 1, c]`` -> ``[n, ho, wo, c]``, in the dtype of ``x``."""
    taps = kernel.reshape(-1, kernel.shape[-1]).astype(x.dtype)
    return depthwise_conv(x, taps, strides=strides, dilation=dilation, padding=padding)


def add_bias(module: nn.Module, y: jax.Array) -> jax.Array:
    """Add the module's parameter ``bias [c]`` to ``[n, ho, wo, c]``."""
    bias = module.param("bias", nn.initializers.zeros, y.shape[-1:], module.param_dtype)
    return y + bias.astype(y.dtype)[None, None, None]
