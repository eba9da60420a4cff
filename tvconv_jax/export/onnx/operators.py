"""Modules of a graph in stock ONNX operations: operators with kernels made from the image, attention, MLP-Mixer.

Each function of ``MODULES`` writes one linen module. It takes the builder, the module, its parameters as a tree (with a
norm's running statistics), the input ``[n, c, h, w]`` and its ``(h, w, c)``; it returns the output ``[n, d, ho, wo]``.
Equations and sources stand in the modules' own files.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import numpy as np
from flax.traverse_util import unflatten_dict

from tvconv_jax.export.onnx.builder import Builder, Params, Shape
from tvconv_jax.nn.norm import factor_and_offset
from tvconv_jax.nn.operators.dynamic import head_count
from tvconv_jax.ops.generator import GENERATOR_NAMES
from tvconv_jax.utils.errors import UserError


def write(builder: Builder, module: nn.Module, arrays: Mapping[str, np.ndarray], x: str, shape: Shape) -> str:
    """Write a module with the arrays of its node.

    Raises:
        UserError: If there is no row for it in ``MODULES``.
    """
    name = type(module).__name__
    if name not in MODULES:
        raise UserError(f"{name} has no ONNX form; what has: {', '.join(MODULES)}; add a row to MODULES.")
    params = unflatten_dict({path.partition("/")[2]: array for path, array in arrays.items()}, sep="/")
    return MODULES[name](builder, module, params, x, shape)


def with_norm(params: Params, norm: Params) -> Params:
    """Fold the norm behind a linear layer into it."""
    factor, offset = factor_and_offset(norm)
    return {"kernel": params["kernel"] * factor, "bias": offset + params.get("bias", 0) * factor}


def _kernels(b: Builder, kernels: str, channels: int) -> str:
    """Reshape a kernel per image, ``[n, c * k * k]``, to a factor of :meth:`Builder.window_sum`."""
    return b.reshape(kernels, channels, 1, -1, 1)


# Per image.


def _mixed_depthwise(b: Builder, module: nn.Module, params: Params, routes: str, x: str, shape: Shape) -> str:
    channels, experts = shape[2], params["kernel"]
    flat = experts.reshape(len(experts), -1, channels).swapaxes(1, 2).reshape(len(experts), -1)
    kernels = _kernels(b, b.op("MatMul", [routes, b.constant(flat)]), channels)
    y = b.window_sum(x, shape, kernels, size=module.kernel_size, strides=module.strides)
    if "bias" not in params:
        return y
    return b.op("Add", [y, b.reshape(b.op("MatMul", [routes, b.constant(params["bias"])]), channels, 1, 1)])


def condconv(b: Builder, module: nn.Module, params: Params, x: str, shape: Shape) -> str:
    routes = b.op("Sigmoid", [b.dense(b.global_pool(x), params["routing"])])
    return _mixed_depthwise(b, module, params["experts"], routes, x, shape)


def _shares(b: Builder, module: nn.Module, params: Params, x: str) -> str:
    hidden = b.op("Relu", [b.dense(b.global_pool(x), params["squeeze"])])
    cooled = {name: array / np.float32(module.temperature) for name, array in params["logits"].items()}
    return b.op("Softmax", [b.dense(hidden, cooled)], axis=-1)


def dyconv_dw(b: Builder, module: nn.Module, params: Params, x: str, shape: Shape) -> str:
    return _mixed_depthwise(b, module, params["experts"], _shares(b, module, params["attention"], x), x, shape)


def dyconv_pw(b: Builder, module: nn.Module, params: Params, x: str, shape: Shape) -> str:
    height, width, channels = shape
    experts = params["kernel"].swapaxes(1, 2).reshape(len(params["kernel"]), -1)
    matrices = b.op("MatMul", [_shares(b, module, params["attention"], x), b.constant(experts)])
    matrices = b.reshape(matrices, module.features, channels)
    y = b.op("MatMul", [matrices, b.reshape(x, channels, height * width)])
    return b.reshape(y, module.features, height, width)


def weightnet(b: Builder, module: nn.Module, params: Params, x: str, shape: Shape) -> str:
    channels, inputs = shape[2], module.inputs
    active = b.dense(b.dense(b.global_pool(x), params["reduce"]), params["activate"])
    active = b.reshape(b.op("Sigmoid", [active]), inputs, channels, 1)
    each = params["kernel"].reshape(1, inputs, -1, channels).swapaxes(2, 3)
    kernels = b.op("ReduceSum", [b.op("Mul", [active, b.constant(each)]), b.integers(1)], keepdims=0)
    kernels = _kernels(b, kernels, channels)
    y = b.window_sum(x, shape, kernels, size=module.kernel_size, strides=module.strides)
    return b.op("Add", [y, b.constant(params["bias"][:, None, None])]) if "bias" in params else y


# Per pixel.


def _taps_last(params: Params, taps: int) -> Params:
    """Reorder the outputs of a linear layer from ``(taps, groups)`` to ``(groups, taps)``."""
    return {
        name: array.reshape(*array.shape[:-1], taps, -1).swapaxes(-1, -2).reshape(array.shape)
        for name, array in params.items()
    }


def involution(b: Builder, module: nn.Module, params: Params, x: str, shape: Shape) -> str:
    size = module.kernel_size**2
    groups = len(params["span"]["bias"]) // size
    pooled, reduce = b.average_pool(x, shape, module.strides), with_norm(params["reduce"], params["norm"])
    reduced = b.op("Relu", [b.pointwise(pooled, reduce)])
    kernels = b.reshape(b.pointwise(reduced, _taps_last(params["span"], size)), groups, 1, size, -1)
    return b.window_sum(x, shape, kernels, size=module.kernel_size, strides=module.strides, groups=groups)


def _filter_norm(b: Builder, filters: str, axis: int, taps: int) -> str:
    centered = b.op("Sub", [filters, b.op("ReduceMean", [filters], axes=[axis])])
    squares = b.op("ReduceSum", [b.op("Mul", [centered, centered]), b.integers(axis)])
    variance = b.op("Div", [squares, b.constant(np.float32(taps - 1))])
    return b.op("Div", [centered, b.op("Sqrt", [b.op("Add", [variance, b.constant(np.float32(1e-10))])])])


def ddf(b: Builder, module: nn.Module, params: Params, x: str, shape: Shape) -> str:
    channels, size = shape[2], module.kernel_size**2
    pixels = _filter_norm(b, b.pointwise(x, params["pixels"], strides=module.strides), 1, size)
    pixels = b.op("Mul", [pixels, b.constant(np.float32(math.sqrt(2) / module.kernel_size))])
    hidden = b.op("Relu", [b.dense(b.global_pool(x), params["squeeze"])])
    own = b.reshape(b.dense(hidden, _taps_last(params["channels"], size)), channels, size)
    own = b.op("Mul", [_filter_norm(b, own, 2, size), b.constant(params["scale"].T)])
    factors = (b.reshape(pixels, 1, 1, size, -1), _kernels(b, own, channels))
    return b.window_sum(x, shape, *factors, size=module.kernel_size, strides=module.strides)


def _map_conv(b: Builder, maps: str, kernel: np.ndarray, padding: str) -> str:
    """Append a convolution of the generator, kernel ``[3, 3, a, ...]``, on ``[n, a, h, w]``."""
    weights = b.constant(kernel.reshape(*kernel.shape[:3], -1).transpose(3, 2, 0, 1))
    if padding == "edge":
        maps = b.op("Pad", [maps, b.integers(*[0, 0, 1, 1] * 2)], mode="edge")
    return b.op("Conv", [maps, weights], kernel_shape=[3, 3], pads=[int(padding == "zeros")] * 4)


def _generated(b: Builder, module: nn.Module, params: Params, maps: str) -> str:
    """Append a generator; its features are joined with the last one slowest: ``[n, c * k * k, h, w]``."""
    padding = module.generator_padding
    for i in range(len(params) - 1):
        block = params[f"block_{i}"]
        norm = (b.constant(block[name].transpose(2, 0, 1)) for name in ("scale", "bias"))
        maps = _map_conv(b, maps, block["conv"]["kernel"], padding)
        maps = b.op("Relu", [b.op("LayerNormalization", [maps, *norm], axis=1, epsilon=1e-5)])
    kernel = params["out"]["kernel"]
    return _map_conv(b, maps, kernel.swapaxes(3, 4) if kernel.ndim == 5 else kernel, padding)


def tvconv_dynamic(b: Builder, module: nn.Module, params: Params, x: str, shape: Shape) -> str:
    suffix = GENERATOR_NAMES[module.generator_padding]
    maps = b.pointwise(b.average_pool(x, shape, module.strides), params["maps"])
    kernels = _generated(b, module, params[f"kernels_{suffix}"], maps)
    kernels = b.reshape(kernels, shape[2], 1, module.kernel_size**2, -1)
    y = b.window_sum(x, shape, kernels, size=module.kernel_size, strides=module.strides)
    return b.op("Add", [y, _generated(b, module, params[f"biases_{suffix}"], maps)]) if module.use_bias else y


# Attention.


def sasa(b: Builder, module: nn.Module, params: Params, x: str, shape: Shape) -> str:
    height, width, channels = shape
    heads, kernel_size, pixels = len(params["query"]), module.kernel_size, height * width
    size, taps = channels // heads, kernel_size**2

    def project(name: str) -> str:
        kernel = params[name].swapaxes(1, 2).reshape(channels, size, 1, 1)
        return b.grouped_conv(x, b.constant(kernel), 1, heads, 1)

    def patches(name: str) -> str:
        return b.reshape(b.unfold(project(name), channels, kernel_size), heads, size, taps, pixels)

    rows, columns = np.repeat(params["rows"], kernel_size, 0), np.tile(params["columns"], (kernel_size, 1, 1))
    offsets = np.concatenate([rows, columns], -1).transpose(1, 2, 0)[None, ..., None]
    keys = b.op("Add", [patches("key"), b.constant(offsets)])
    query = b.reshape(project("query"), heads, size, 1, pixels)
    logits = b.op("ReduceSum", [b.op("Mul", [keys, query]), b.integers(2)])
    masked = b.op("Add", [logits, b.constant(_outside(height, width, kernel_size))])
    shares = b.op("Softmax", [masked], axis=3)
    y = b.op("ReduceSum", [b.op("Mul", [patches("value"), shares]), b.integers(3)], keepdims=0)
    return b.average_pool(b.reshape(y, channels, height, width), shape, module.strides)


def _outside(height: int, width: int, size: int) -> np.ndarray:
    """Return the mask added to logits, ``[k * k, h * w]``: 0 inside the image and minus infinity outside."""
    mask = np.pad(np.zeros((height, width), np.float32), size // 2, constant_values=-np.inf)
    return np.stack([mask[i : i + height, j : j + width].ravel() for i in range(size) for j in range(size)])


def _axis(b: Builder, params: Params, x: str, shape: Shape, *, axis: int, max_heads: int) -> str:
    """Append attention along the rows' axis, 1, or the columns', 2; in einsum ``b`` is the other axis.

    Norms are folded. The logits' norm becomes a scale per head, since a softmax ignores its offset. The output's norm
    goes into the values, since the attention weights sum to 1.
    """
    height, width, channels = shape
    heads = head_count(channels, max_heads)
    size, length = channels // heads, shape[axis - 1]
    half = params["rq"].shape[1]
    content, by_query, by_key = np.split(factor_and_offset(params["norm_logits"])[0], 3)
    factor, offset = (np.split(values, 2) for values in factor_and_offset(params["norm_out"]))

    project = with_norm(params["project"], params["norm_project"])
    project = {name: array.reshape(*array.shape[:-1], heads, -1) for name, array in project.items()}
    for array in project.values():
        array[..., 2 * half :] *= factor[0].reshape(heads, size)
    project["bias"][:, 2 * half :] += sum(offset).reshape(heads, size)
    project = {name: array.reshape(*array.shape[:-2], -1) for name, array in project.items()}

    parts = b.reshape(b.pointwise(x, project), heads, 2 * half + size, height, width)
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
    return b.reshape(y, channels, height, width)


def axial(b: Builder, module: nn.Module, params: Params, x: str, shape: Shape) -> str:
    for axis, name in ((1, "along_h"), (2, "along_w")):
        x = _axis(b, params[name], x, shape, axis=axis, max_heads=module.heads)
    return b.average_pool(x, shape, module.strides)


# MLP-Mixer.


def _layer_norm(b: Builder, params: Params, tokens: str, epsilon: float) -> str:
    """Normalize over the last axis."""
    weights = (b.constant(params[name]) for name in ("scale", "bias"))
    return b.op("LayerNormalization", [tokens, *weights], axis=-1, epsilon=epsilon)


def _mlp(b: Builder, params: Params, x: str) -> str:
    """Append an MLP over the last axis; GELU in its tanh form, ``x * sigmoid(2 u)``."""
    linear = lambda x, p: b.op("Add", [b.op("MatMul", [x, b.constant(p["kernel"])]), b.constant(p["bias"])])  # noqa: E731
    y = linear(x, params["expand"])
    cubic = b.op("Mul", [b.op("Mul", [y, y]), b.constant(np.float32(0.044715))])
    inner = b.op("Mul", [b.op("Add", [cubic, b.constant(np.float32(1))]), y])
    inner = b.op("Mul", [inner, b.constant(np.float32(2 * math.sqrt(2 / math.pi)))])
    return linear(b.op("Mul", [y, b.op("Sigmoid", [inner])]), params["project"])


def mixer_block(b: Builder, module: nn.Module, params: Params, x: str, shape: Shape) -> str:
    height, width, channels = shape
    epsilon = nn.LayerNorm().epsilon
    swapped = lambda x: b.op("Transpose", [x], perm=[0, 2, 1])  # noqa: E731
    x = b.reshape(x, channels, height * width)
    normed = swapped(_layer_norm(b, params["norm_positions"], swapped(x), epsilon))
    tokens = swapped(b.op("Add", [x, _mlp(b, params["positions"], normed)]))
    normed = _layer_norm(b, params["norm_channels"], tokens, epsilon)
    tokens = b.op("Add", [tokens, _mlp(b, params["channels"], normed)])
    return b.reshape(swapped(tokens), channels, height, width)


def channel_norm(b: Builder, module: nn.Module, params: Params, x: str, shape: Shape) -> str:
    normed = _layer_norm(b, params, b.op("Transpose", [x], perm=[0, 2, 3, 1]), module.epsilon)
    return b.op("Transpose", [normed], perm=[0, 3, 1, 2])


MODULES: dict[str, Callable[[Builder, Any, Params, str, Shape], str]] = {
    "CondConv": condconv,
    "WeightNet": weightnet,
    "DyConvDW": dyconv_dw,
    "DyConvPW": dyconv_pw,
    "Involution": involution,
    "DDF": ddf,
    "TVConvDynamic": tvconv_dynamic,
    "SASA": sasa,
    "Axial": axial,
    "MixerBlock": mixer_block,
    "LayerNorm": channel_norm,
}
WINDOWS = ("CondConv", "WeightNet", "DyConvDW", "Involution", "DDF", "TVConvDynamic")  # with a choice of lowerings
