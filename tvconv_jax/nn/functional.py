"""TVConv as functions of a parameter tree, for Equinox, Haiku or code without a library."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import InvalidRngError

from tvconv_jax.nn.boxes import unboxed
from tvconv_jax.nn.checks import FIELDS
from tvconv_jax.nn.layers import Params, Shape, TVConv, kaiming_normal
from tvconv_jax.ops.generator import PADDINGS, GeneratorPadding, generate_values
from tvconv_jax.ops.tv_conv import output_grid


class Kernels(NamedTuple):
    """Kernels for :func:`tvconv_jax.tv_conv`."""

    weights: jax.Array  #: ``[ho, wo, k*k, c]``, taps row-major.
    bias: jax.Array | None = None  #: ``[ho, wo, c]``, to be added to the output; ``None`` without ``use_bias``.


class _Parameters(TVConv):
    """The parameters of a TVConv by themselves: nothing is computed from them."""

    @nn.compact
    def __call__(self, grid: Shape, channels: int) -> Params:
        bias = {"bias": (channels,)} if self.use_bias else {}
        return self.declare(output_grid(*grid, self.strides), weights=(self.kernel_size**2, channels), **bias)


def init_tv_conv(
    key: jax.Array,
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
    kernel_init: nn.initializers.Initializer = kaiming_normal,
    param_dtype: Any = jnp.float32,
) -> Params:
    """Draw the parameters of a TVConv, the same as ``TVConv(...).init(key, x)["params"]`` of the linen layer.

    Args:
        key: Random key.
        features: Channels of the input and of the output.
        grid: ``(height, width)`` of the input.
        kernel_size: Odd size of the kernels.
        strides: Step between output positions.
        affinity_channels: Affinity maps.
        hidden_channels: Channels of the generator's hidden blocks.
        hidden_layers: Hidden blocks after the first.
        use_bias: Whether a second generator yields a bias per position and channel.
        generator_padding: ``"zeros"`` or ``"edge"``, see :class:`tvconv_jax.WeightGenerator`.
        kernel_init: Initializer of the generator's convolutions.
        param_dtype: Dtype of the parameters.

    Returns:
        ``{"affinity": [ho, wo, affinity_channels], "weights_generator": {...}}``, a tree of dicts of arrays, to be
        trained as it is. With ``use_bias`` also ``"bias_generator"``; with edge padding ``"weights_edge_generator"``.

    Raises:
        ValueError: If a number is out of its range, the grid is not two positive integers, or ``key`` is not a key.
    """
    layer = TVConv(
        kernel_size,
        strides,
        affinity_channels,
        hidden_channels,
        hidden_layers,
        use_bias,
        generator_padding,
        kernel_init=kernel_init,
        param_dtype=param_dtype,
    )
    return draw_parameters(layer, key, features, grid)


def draw_parameters(layer: TVConv, key: jax.Array, features: int, grid: tuple[int, int]) -> Params:
    """Draw the parameters of a linen layer without a call of it; for arguments see :func:`init_tv_conv`."""
    FIELDS["features"].check("features", features)
    grid = check_grid_size("grid", grid)
    fields = {field.name: getattr(layer, field.name) for field in dataclasses.fields(layer)}
    del fields["parent"], fields["name"]
    try:
        return _Parameters(**fields).init(key, grid, features)["params"]
    except InvalidRngError as error:
        raise ValueError(f"key={key!r} must be a random key, as jax.random.key(0).") from error


def generate_kernels(params: Mapping[str, Any]) -> Kernels:
    """Compute the kernels ``W = B(A)`` of a TVConv from its parameters.

    ``tv_conv(x, generate_kernels(params).weights, strides=strides)`` is the layer without a bias. The parameters' names
    give the padding and tell whether there is a bias.

    Args:
        params: The tree of :func:`init_tv_conv`; also ``variables["params"]`` of a linen TVConv.

    Returns:
        Weights ``[ho, wo, k*k, c]`` and a bias ``[ho, wo, c]`` or ``None``, float32 (float64 for float64 parameters).

    Raises:
        ValueError: If the tree is not that of a TVConv.

    Source: Chen et al., CVPR 2022, section 3.2, https://arxiv.org/abs/2203.10489.
    """
    held = sorted(params) if isinstance(params, Mapping) else f"a {type(params).__name__}"
    if "affinity" not in held or not any(f"weights_{suffix}" in held for suffix in PADDINGS):
        raise ValueError(
            f"params hold {held}; they must hold 'affinity' and 'weights_generator', as init_tv_conv returns "
            "them (of a linen layer: variables['params'])."
        )
    params = unboxed(params)
    for name in [name for name in params if name.partition("_")[2] in PADDINGS]:
        _check_generator(name, params[name], params["affinity"])
    return Kernels(**generate_values(params))


def _check_generator(name: str, params: Any, affinity: jax.Array) -> None:
    """Raise a ``ValueError`` that names the first array of a generator that is missing or of another shape."""
    found = {"affinity": jnp.shape(affinity)}
    for path, leaf in jax.tree.leaves_with_path(params):
        found["/".join([name, *(key.key for key in path if hasattr(key, "key"))])] = jnp.shape(leaf)  # NNX adds .value
    if len(found["affinity"]) != 3:
        raise ValueError(f"affinity has shape {found['affinity']}; it must be [ho, wo, affinity_channels].")
    features, out = ("k*k", "c") if name.startswith("weights_") else ("c",), found.get(f"{name}/out/kernel", ())
    out = out if len(out) == 3 + len(features) else (3, 3, "hidden_channels", *features)
    (*grid, inputs), hidden, expected = found["affinity"], out[2], {}
    for i in range(max(1, len(params) - 1) if isinstance(params, Mapping) else 1):
        block = f"{name}/block_{i}"
        expected[f"{block}/conv/kernel"] = (3, 3, inputs, hidden)
        expected |= {f"{block}/{leaf}": (*grid, hidden) for leaf in ("scale", "bias")}
        inputs = hidden
    expected |= {f"{name}/out/kernel": (3, 3, *out[2:])}
    for path, shape in expected.items():
        if found.get(path) != shape:
            given = f"has shape {found[path]}" if path in found else "is missing"
            shape = ", ".join(map(str, shape))
            raise ValueError(f"{path} {given}; it must be [{shape}], as init_tv_conv returns it.")


def check_grid_size(name: str, grid: Any) -> tuple[int, int]:
    """Return a height and a width; raise a ``ValueError`` unless they are two positive integers."""
    if not isinstance(grid, tuple | list) or len(grid) != 2:
        raise ValueError(f"{name}={grid!r} must be (height, width), as (24, 24).")
    for side, size in zip(("height", "width"), grid, strict=True):
        FIELDS["features"].check(f"{side} of {name}", size)
    return int(grid[0]), int(grid[1])
