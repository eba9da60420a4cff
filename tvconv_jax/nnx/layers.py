"""TVConv and DepthwiseConv as ``flax.nnx`` modules, on the same functions as the linen layers."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from tvconv_jax.nn import layers as linen
from tvconv_jax.nn.boxes import unboxed
from tvconv_jax.nn.checks import FIELDS, check_images
from tvconv_jax.nn.freeze import freeze_params
from tvconv_jax.nn.functional import check_grid_size, draw_parameters
from tvconv_jax.nnx.variables import get_variables, linen_init, param_key, set_variables
from tvconv_jax.ops.generator import GeneratorPadding, generate_values
from tvconv_jax.ops.tv_conv import Implementation, output_grid

Initializer = nn.initializers.Initializer


class TVConv(nnx.Module):
    """Translation-variant depthwise convolution, ``[n, h, w, features]`` -> ``[n, ho, wo, features]``.

    Its parameters are ``affinity`` and those of a generator, ``weights_generator``, named as in the linen layer. Zeros
    pad the input. ``rngs`` draw the parameters and are not kept, so a layer has no random state.

    Source: Chen et al., "TVConv: Efficient Translation Variant Convolution for Layout-aware Visual
    Processing", CVPR 2022, https://arxiv.org/abs/2203.10489.

    Args:
        features: Channels of the input and of the output.
        grid: ``(h, w)`` of the *input*; with strides, the output's is ``(ceil(h / strides), ceil(w / strides))``. The
            layer belongs to this grid.
        kernel_size: Odd size of the kernels.
        strides: Step between output positions, the same along both axes.
        affinity_channels: Affinity maps of the generator.
        hidden_channels: Channels of the generator's hidden blocks.
        hidden_layers: Hidden blocks of the generator after the first.
        use_bias: Whether a second generator yields a bias per position and channel.
        generator_padding: ``"zeros"`` (the reference) or ``"edge"``, see :class:`tvconv_jax.WeightGenerator`.
        implementation: Passed to :func:`tvconv_jax.tv_conv`.
        dtype: Dtype to compute in; ``None``: the input's.
        param_dtype: Dtype of the parameters.
        kernel_init: Initializer of the generator's convolutions.
        rngs: Draws the parameters: a key of its stream ``params``.

    Raises:
        ValueError: If a number is out of its range, ``kernel_size`` is even, or ``rngs`` are none. Calls raise it for
            an input with another grid or other channels.
    """

    affinity: nnx.Param[jax.Array]

    def __init__(
        self,
        features: int,
        grid: tuple[int, int],
        kernel_size: int = 3,
        strides: int = 1,
        *,
        affinity_channels: int = 4,
        hidden_channels: int = 64,
        hidden_layers: int = 3,
        use_bias: bool = False,
        generator_padding: GeneratorPadding = "zeros",
        implementation: Implementation = "shifted",
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        kernel_init: Initializer = linen.kaiming_normal,
        rngs: nnx.Rngs,
    ) -> None:
        self.features, self.grid = features, check_grid_size("grid", grid)
        self.kernel_size, self.strides = kernel_size, strides
        self.affinity_channels, self.use_bias = affinity_channels, use_bias
        self.hidden_channels, self.hidden_layers = hidden_channels, hidden_layers
        self.generator_padding, self.implementation = generator_padding, implementation
        self.dtype, self.param_dtype, self.kernel_init = dtype, param_dtype, kernel_init
        layer = self.linen_layer(kernel_init=linen_init(kernel_init))  # checks the fields
        set_variables(self, {"params": draw_parameters(layer, param_key(rngs), features, grid)})

    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x, self.dtype)
        _check_channels(self, x)
        if output_grid(*x.shape[1:3], self.strides) != output_grid(*self.grid, self.strides):
            height, width = x.shape[1:3]
            raise ValueError(
                f"TVConv has grid={self.grid}, but x is {height}x{width}; its parameters belong to positions: resize x "
                f"to {self.grid[0]}x{self.grid[1]}, or make the layer with grid=({height}, {width})."
            )
        return linen.position_conv(x, self.kernels(), self.strides, self.implementation)

    def kernels(self) -> dict[str, jax.Array]:
        """Return ``weights [ho, wo, k*k, c]``, and ``bias [ho, wo, c]`` if there is one: generated, or frozen."""
        variables = unboxed(get_variables(self))
        return variables["frozen"] if "frozen" in variables else generate_values(variables["params"])

    def freeze(self) -> None:
        """Replace the parameters by the kernels that they generate, see :func:`tvconv_jax.nnx.freeze`."""
        if not hasattr(self, "affinity"):
            return
        params = get_variables(self)["params"]
        kept, frozen = freeze_params(params)
        for name in params.keys() - kept.keys():
            delattr(self, name)
        set_variables(self, {"frozen": frozen})

    def linen_layer(self, **fields: Any) -> linen.TVConv:
        """Return the linen layer with the same fields."""
        return _linen_layer(linen.TVConv, self, fields)


class DepthwiseConv(nnx.Module):
    """Depthwise convolution, ``[n, h, w, features]`` -> ``[n, ho, wo, features]``; the baseline of TVConv.

    Args:
        features: Channels of the input and of the output.
        kernel_size: Odd size of the kernel.
        strides: Step between output positions, the same along both axes.
        use_bias: Whether a bias per channel is added.
        dilation: Step between the taps.
        padding: Zeros on each side; ``None`` keeps the grid.
        dtype: Dtype to compute in; ``None``: the input's.
        param_dtype: Dtype of the parameters.
        kernel_init: Initializer of the kernel.
        rngs: Draws the kernel: a key of its stream ``params``.

    Raises:
        ValueError: As :class:`TVConv`.
    """

    kernel: nnx.Param[jax.Array]

    def __init__(
        self,
        features: int,
        kernel_size: int = 3,
        strides: int = 1,
        *,
        use_bias: bool = False,
        dilation: int = 1,
        padding: int | None = None,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        kernel_init: Initializer = linen.kaiming_normal,
        rngs: nnx.Rngs,
    ) -> None:
        FIELDS["features"].check("features", features)
        self.features, self.kernel_size, self.strides = features, kernel_size, strides
        self.use_bias, self.dilation, self.padding = use_bias, dilation, padding
        self.dtype, self.param_dtype, self.kernel_init = dtype, param_dtype, kernel_init
        self.linen_layer()  # checks the fields
        kernel = linen_init(kernel_init)(param_key(rngs), (kernel_size, kernel_size, 1, features), param_dtype)
        bias = {"bias": jnp.zeros((features,), param_dtype)} if use_bias else {}
        set_variables(self, {"params": {"kernel": kernel, **bias}})

    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x, self.dtype)
        _check_channels(self, x)
        y = linen.shared_conv(x, self.kernel[...], self.strides, self.dilation, self.padding)
        return y + self.bias[...].astype(y.dtype)[None, None, None] if self.use_bias else y

    def linen_layer(self, **fields: Any) -> linen.DepthwiseConv:
        """Return the linen layer with the same fields."""
        return _linen_layer(linen.DepthwiseConv, self, fields)


def _linen_layer(kind: type[nn.Module], layer: nnx.Module, fields: dict[str, Any]) -> Any:
    names = [field.name for field in dataclasses.fields(kind) if field.name not in ("parent", "name")]
    return kind(**{name: getattr(layer, name) for name in names} | fields)


def _check_channels(layer: Any, x: jax.Array) -> None:
    if x.shape[3] != layer.features:
        raise ValueError(
            f"{type(layer).__name__} has features={layer.features}, but x has {x.shape[3]} channels; they must agree."
        )
