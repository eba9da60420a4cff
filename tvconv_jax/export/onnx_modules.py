"""Operators whose kernels come from the picture, and MLP-Mixer's blocks, in stock ONNX operations.

Each function writes one linen module: the builder, the module, its parameters as a tree (a norm's running statistics
among them), the name of its input
``[n, c, h, w]`` and ``(h, w, c)``; it returns the name of the output ``[n, d, ho, wo]``. Equations and sources stand in
the modules' own files.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import numpy as np
from flax.traverse_util import unflatten_dict

from tvconv_jax.errors import UserError
from tvconv_jax.export.onnx_builder import Builder
from tvconv_jax.layers import GENERATOR_NAMES
from tvconv_jax.models.mlp_mixer import MixerBlock
from tvconv_jax.norm import factor_and_offset
from tvconv_jax.operators.axial import Axial
from tvconv_jax.operators.condconv import CondConv
from tvconv_jax.operators.ddf import DDF
from tvconv_jax.operators.dyconv_dw import DyConvDW
from tvconv_jax.operators.dyconv_pw import DyConvPW
from tvconv_jax.operators.dynamic import head_count
from tvconv_jax.operators.involution import Involution
from tvconv_jax.operators.sasa import SASA
from tvconv_jax.operators.tvconv_dynamic import TVConvDynamic
from tvconv_jax.operators.weightnet import WeightNet

Params = Mapping[str, Any]
Shape = tuple[int, int, int]


def write(builder: Builder, module: nn.Module, arrays: Mapping[str, np.ndarray], x: str, shape: Shape) -> str:
    """Writes a module with the arrays of its node.

    Raises:
        UserError: If there is no row for it in ``MODULES``.
    """
    if type(module) not in MODULES:
        known = ", ".join(kind.__name__ for kind in MODULES)
        raise UserError(f"{type(module).__name__} has no ONNX form; what has: {known}; add a row to MODULES.")
    params = unflatten_dict({name.partition("/")[2]: array for name, array in arrays.items()}, sep="/")
    return MODULES[type(module)](builder, module, params, x, shape)


# Parts.


def _dense(b: Builder, x: str, params: Params) -> str:
    """A linear layer, ``[n, c]`` -> ``[n, d]``."""
    return b.op("Gemm", [x, b.constant(params["kernel"]), b.constant(params["bias"])])


def _pointwise(b: Builder, x: str, params: Params, *, strides: int = 1) -> str:
    """The same at every pixel, ``[n, c, h, w]`` -> ``[n, d, ho, wo]``."""
    weights = [b.constant(params["kernel"].T[:, :, None, None])]
    weights += [b.constant(params["bias"])] if "bias" in params else []
    return b.op("Conv", [x, *weights], kernel_shape=[1, 1], strides=[strides] * 2)


def _normed(params: Params, norm: Params) -> Params:
    """A linear layer with the norm behind it."""
    factor, offset = factor_and_offset(norm)
    return {"kernel": params["kernel"] * factor, "bias": offset + params.get("bias", 0) * factor}


def _pooled(b: Builder, x: str) -> str:
    """Average over the grid, ``[n, c]``."""
    return b.op("Flatten", [b.op("GlobalAveragePool", [x])])


def _average_pool(b: Builder, x: str, shape: Shape, strides: int) -> str:
    if strides == 1:
        return x
    ends = [-side % strides for side in shape[:2]]
    return b.op("AveragePool", [x], kernel_shape=[strides] * 2, strides=[strides] * 2, pads=[0, 0, *ends])


def _kernels(b: Builder, kernels: str, channels: int) -> str:
    """One kernel an image, ``[n, c * k * k]``, as a factor of :meth:`Builder.window_sum`."""
    return b.reshaped(kernels, channels, 1, -1, 1)


# Per image.


def _mixed_depthwise(b: Builder, module: CondConv | DyConvDW, params: Params, routes: str, x: str, shape: Shape) -> str:
    channels, experts = shape[2], params["kernel"]
    flat = experts.reshape(len(experts), -1, channels).swapaxes(1, 2).reshape(len(experts), -1)
    kernels = _kernels(b, b.op("MatMul", [routes, b.constant(flat)]), channels)
    y = b.window_sum(x, shape, kernels, side=module.kernel_size, strides=module.strides)
    if "bias" not in params:
        return y
    return b.op("Add", [y, b.reshaped(b.op("MatMul", [routes, b.constant(params["bias"])]), channels, 1, 1)])


def _condconv(b: Builder, module: CondConv, params: Params, x: str, shape: Shape) -> str:
    routes = b.op("Sigmoid", [_dense(b, _pooled(b, x), params["routing"])])
    return _mixed_depthwise(b, module, params["experts"], routes, x, shape)


def _shares(b: Builder, module: DyConvDW | DyConvPW, params: Params, x: str) -> str:
    hidden = b.op("Relu", [_dense(b, _pooled(b, x), params["squeeze"])])
    cooled = {name: array / np.float32(module.temperature) for name, array in params["logits"].items()}
    return b.op("Softmax", [_dense(b, hidden, cooled)], axis=-1)


def _dyconv_dw(b: Builder, module: DyConvDW, params: Params, x: str, shape: Shape) -> str:
    return _mixed_depthwise(b, module, params["experts"], _shares(b, module, params["attention"], x), x, shape)


def _dyconv_pw(b: Builder, module: DyConvPW, params: Params, x: str, shape: Shape) -> str:
    height, width, channels = shape
    experts = params["kernel"].swapaxes(1, 2).reshape(len(params["kernel"]), -1)
    matrices = b.op("MatMul", [_shares(b, module, params["attention"], x), b.constant(experts)])
    matrices = b.reshaped(matrices, module.features, channels)
    y = b.op("MatMul", [matrices, b.reshaped(x, channels, height * width)])
    return b.reshaped(y, module.features, height, width)


def _weightnet(b: Builder, module: WeightNet, params: Params, x: str, shape: Shape) -> str:
    channels, inputs = shape[2], module.inputs
    active = _dense(b, _dense(b, _pooled(b, x), params["reduce"]), params["activate"])
    active = b.reshaped(b.op("Sigmoid", [active]), inputs, channels, 1)
    each = params["kernel"].reshape(1, inputs, -1, channels).swapaxes(2, 3)
    kernels = b.op("ReduceSum", [b.op("Mul", [active, b.constant(each)]), b.integers(1)], keepdims=0)
    kernels = _kernels(b, kernels, channels)
    y = b.window_sum(x, shape, kernels, side=module.kernel_size, strides=module.strides)
    return b.op("Add", [y, b.constant(params["bias"][:, None, None])]) if "bias" in params else y


# Per pixel.


def _taps_last(params: Params, taps: int) -> Params:
    """A linear layer whose outputs are ``(taps, groups)``, with outputs ``(groups, taps)``."""
    return {
        name: array.reshape(*array.shape[:-1], taps, -1).swapaxes(-1, -2).reshape(array.shape)
        for name, array in params.items()
    }


def _involution(b: Builder, module: Involution, params: Params, x: str, shape: Shape) -> str:
    size = module.kernel_size**2
    groups = len(params["span"]["bias"]) // size
    seen, reduce = _average_pool(b, x, shape, module.strides), _normed(params["reduce"], params["norm"])
    reduced = b.op("Relu", [_pointwise(b, seen, reduce)])
    kernels = b.reshaped(_pointwise(b, reduced, _taps_last(params["span"], size)), groups, 1, size, -1)
    return b.window_sum(x, shape, kernels, side=module.kernel_size, strides=module.strides, groups=groups)


def _filter_norm(b: Builder, filters: str, axis: int, taps: int) -> str:
    centred = b.op("Sub", [filters, b.op("ReduceMean", [filters], axes=[axis])])
    squares = b.op("ReduceSum", [b.op("Mul", [centred, centred]), b.integers(axis)])
    variance = b.op("Div", [squares, b.constant(np.float32(taps - 1))])
    return b.op("Div", [centred, b.op("Sqrt", [b.op("Add", [variance, b.constant(np.float32(1e-10))])])])


def _ddf(b: Builder, module: DDF, params: Params, x: str, shape: Shape) -> str:
    channels, size = shape[2], module.kernel_size**2
    pixels = _filter_norm(b, _pointwise(b, x, params["pixels"], strides=module.strides), 1, size)
    pixels = b.op("Mul", [pixels, b.constant(np.float32(math.sqrt(2) / module.kernel_size))])
    hidden = b.op("Relu", [_dense(b, _pooled(b, x), params["squeeze"])])
    own = b.reshaped(_dense(b, hidden, _taps_last(params["channels"], size)), channels, size)
    own = b.op("Mul", [_filter_norm(b, own, 2, size), b.constant(params["scale"].T)])
    factors = (b.reshaped(pixels, 1, 1, size, -1), _kernels(b, own, channels))
    return b.window_sum(x, shape, *factors, side=module.kernel_size, strides=module.strides)


def _map_conv(b: Builder, maps: str, kernel: np.ndarray, padding: str) -> str:
    """Of the generator, ``[3, 3, a, ...]``, on ``[n, a, h, w]``."""
    weights = b.constant(kernel.reshape(*kernel.shape[:3], -1).transpose(3, 2, 0, 1))
    if padding == "edge":
        maps = b.op("Pad", [maps, b.integers(*[0, 0, 1, 1] * 2)], mode="edge")
    return b.op("Conv", [maps, weights], kernel_shape=[3, 3], pads=[int(padding == "zeros")] * 4)


def _generated(b: Builder, module: TVConvDynamic, params: Params, maps: str) -> str:
    """What a generator yields, its features joined with the last one slowest: ``[n, c * k * k, h, w]``."""
    padding = module.generator_padding
    for i in range(len(params) - 1):
        block = params[f"block_{i}"]
        norm = (b.constant(block[name].transpose(2, 0, 1)) for name in ("scale", "bias"))
        maps = _map_conv(b, maps, block["conv"]["kernel"], padding)
        maps = b.op("Relu", [b.op("LayerNormalization", [maps, *norm], axis=1, epsilon=1e-5)])
    kernel = params["out"]["kernel"]
    return _map_conv(b, maps, kernel.swapaxes(3, 4) if kernel.ndim == 5 else kernel, padding)


def _tvconv_dynamic(b: Builder, module: TVConvDynamic, params: Params, x: str, shape: Shape) -> str:
    suffix = GENERATOR_NAMES[module.generator_padding]
    maps = _pointwise(b, _average_pool(b, x, shape, module.strides), params["maps"])
    kernels = _generated(b, module, params[f"kernels_{suffix}"], maps)
    kernels = b.reshaped(kernels, shape[2], 1, module.kernel_size**2, -1)
    y = b.window_sum(x, shape, kernels, side=module.kernel_size, strides=module.strides)
    return b.op("Add", [y, _generated(b, module, params[f"biases_{suffix}"], maps)]) if module.use_bias else y


# Attention.


def _sasa(b: Builder, module: SASA, params: Params, x: str, shape: Shape) -> str:
    height, width, channels = shape
    heads, side, pixels = len(params["query"]), module.kernel_size, height * width
    size, window = channels // heads, side**2

    def project(name: str) -> str:
        kernel = params[name].swapaxes(1, 2).reshape(channels, size, 1, 1)
        return b.grouped(x, b.constant(kernel), 1, heads, 1)

    def seen(name: str) -> str:
        return b.reshaped(b.neighbours(project(name), channels, side), heads, size, window, pixels)

    rows, columns = np.repeat(params["rows"], side, 0), np.tile(params["columns"], (side, 1, 1))
    offsets = np.concatenate([rows, columns], -1).transpose(1, 2, 0)[None, ..., None]
    keys = b.op("Add", [seen("key"), b.constant(offsets)])
    query = b.reshaped(project("query"), heads, size, 1, pixels)
    logits = b.op("ReduceSum", [b.op("Mul", [keys, query]), b.integers(2)])
    masked = b.op("Add", [logits, b.constant(_outside(height, width, side))])
    shares = b.op("Softmax", [masked], axis=3)
    y = b.op("ReduceSum", [b.op("Mul", [seen("value"), shares]), b.integers(3)], keepdims=0)
    return _average_pool(b, b.reshaped(y, channels, height, width), shape, module.strides)


def _outside(height: int, width: int, side: int) -> np.ndarray:
    """Added to logits ``[k * k, h * w]``: 0, and minus infinity for what lies outside the picture."""
    margin = side // 2
    picture = np.pad(np.zeros((height, width), np.float32), margin, constant_values=-np.inf)
    return np.stack([picture[i : i + height, j : j + width].ravel() for i in range(side) for j in range(side)])


def _axis(b: Builder, params: Params, x: str, shape: Shape, *, axis: int, at_most: int) -> str:
    """Attention along the rows' axis, 1, or the columns', 2; in einsum ``b`` is the other one, as in the module.

    Norms cost nothing: that of the logits scales by head, and what it adds is no concern of a softmax; that of the
    output goes into the values, whose shares sum up to 1.
    """
    height, width, channels = shape
    heads = head_count(channels, at_most)
    size, length = channels // heads, shape[axis - 1]
    half = params["rq"].shape[1]
    content, by_query, by_key = np.split(factor_and_offset(params["norm_logits"])[0], 3)
    factor, offset = (np.split(values, 2) for values in factor_and_offset(params["norm_out"]))

    project = _normed(params["project"], params["norm_project"])
    project = {name: array.reshape(*array.shape[:-1], heads, -1) for name, array in project.items()}
    for array in project.values():
        array[..., 2 * half :] *= factor[0].reshape(heads, size)
    project["bias"][:, 2 * half :] += sum(offset).reshape(heads, size)
    project = {name: array.reshape(*array.shape[:-2], -1) for name, array in project.items()}

    parts = b.reshaped(_pointwise(b, x, project), heads, 2 * half + size, height, width)
    # [n, heads, d, h, w] -> [n, other axis, this axis, heads, d]
    lines = b.op("Transpose", [parts], perm=[0, 4, 3, 1, 2] if axis == 1 else [0, 3, 4, 1, 2])
    bounds = [(0, half), (half, 2 * half), (2 * half, 2 * half + size)]
    query, key, value = (b.op("Slice", [lines, *map(b.integers, (*bound, 4))]) for bound in bounds)
    position = np.arange(length)
    offsets = position[None] - position[:, None] + length - 1
    scales = {"rq": by_query[:, None], "rk": by_key[:, None], "rv": factor[1].reshape(heads, size)}
    tables = (params[name][offsets] * scale[:, None, None] for name, scale in scales.items())  # [heads, o, p, d]
    rq, rk, rv = map(b.constant, tables)
    logits = b.op("Einsum", [query, key], equation="nbomd,nbpmd->nbmop")
    logits = b.op("Mul", [logits, b.constant(content[:, None, None])])
    logits = b.op("Add", [logits, b.op("Einsum", [query, rq], equation="nbomd,mopd->nbmop")])
    logits = b.op("Add", [logits, b.op("Einsum", [key, rk], equation="nbpmd,mopd->nbmop")])
    shares = b.op("Softmax", [logits], axis=-1)
    y = b.op("Einsum", [shares, value], equation="nbmop,nbpmd->nbomd")
    y = b.op("Add", [y, b.op("Einsum", [shares, rv], equation="nbmop,mopd->nbomd")])
    y = b.op("Transpose", [y], perm=[0, 3, 4, 2, 1] if axis == 1 else [0, 3, 4, 1, 2])
    return b.reshaped(y, channels, height, width)


def _axial(b: Builder, module: Axial, params: Params, x: str, shape: Shape) -> str:
    for axis, name in ((1, "along_h"), (2, "along_w")):
        x = _axis(b, params[name], x, shape, axis=axis, at_most=module.heads)
    return _average_pool(b, x, shape, module.strides)


# MLP-Mixer.


def _layer_norm(b: Builder, params: Params, tokens: str, epsilon: float) -> str:
    """Over the last axis."""
    weights = (b.constant(params[name]) for name in ("scale", "bias"))
    return b.op("LayerNormalization", [tokens, *weights], axis=-1, epsilon=epsilon)


def _mlp(b: Builder, params: Params, x: str) -> str:
    """Over the last axis; GELU by its tanh form, which is ``x * sigmoid(2 u)``."""
    linear = lambda x, p: b.op("Add", [b.op("MatMul", [x, b.constant(p["kernel"])]), b.constant(p["bias"])])  # noqa: E731
    y = linear(x, params["expand"])
    cubic = b.op("Mul", [b.op("Mul", [y, y]), b.constant(np.float32(0.044715))])
    inner = b.op("Mul", [b.op("Add", [cubic, b.constant(np.float32(1))]), y])
    inner = b.op("Mul", [inner, b.constant(np.float32(2 * math.sqrt(2 / math.pi)))])
    return linear(b.op("Mul", [y, b.op("Sigmoid", [inner])]), params["project"])


def _mixer_block(b: Builder, module: MixerBlock, params: Params, x: str, shape: Shape) -> str:
    height, width, channels = shape
    epsilon = nn.LayerNorm().epsilon
    swapped = lambda x: b.op("Transpose", [x], perm=[0, 2, 1])  # noqa: E731
    x = b.reshaped(x, channels, height * width)
    normed = swapped(_layer_norm(b, params["norm_positions"], swapped(x), epsilon))
    tokens = swapped(b.op("Add", [x, _mlp(b, params["positions"], normed)]))
    normed = _layer_norm(b, params["norm_channels"], tokens, epsilon)
    tokens = b.op("Add", [tokens, _mlp(b, params["channels"], normed)])
    return b.reshaped(swapped(tokens), channels, height, width)


def _channel_norm(b: Builder, module: nn.LayerNorm, params: Params, x: str, shape: Shape) -> str:
    normed = _layer_norm(b, params, b.op("Transpose", [x], perm=[0, 2, 3, 1]), module.epsilon)
    return b.op("Transpose", [normed], perm=[0, 3, 1, 2])


MODULES: dict[type[nn.Module], Callable[[Builder, Any, Params, str, Shape], str]] = {
    CondConv: _condconv,
    WeightNet: _weightnet,
    DyConvDW: _dyconv_dw,
    DyConvPW: _dyconv_pw,
    Involution: _involution,
    DDF: _ddf,
    TVConvDynamic: _tvconv_dynamic,
    SASA: _sasa,
    Axial: _axial,
    MixerBlock: _mixer_block,
    nn.LayerNorm: _channel_norm,
}
WINDOWS = (CondConv, WeightNet, DyConvDW, Involution, DDF, TVConvDynamic)  # kernels with a choice of lowerings
