"""Operators whose kernels come from the picture, in stock ONNX; see :mod:`tvconv_jax.export.onnx.modules`."""

import math

import numpy as np

from tvconv_jax.export.onnx.builder import Builder
from tvconv_jax.export.onnx.parts import Params, Shape, average_pool, dense, normed, pointwise, pooled
from tvconv_jax.nn.layers import GENERATOR_NAMES
from tvconv_jax.nn.operators.condconv import CondConv
from tvconv_jax.nn.operators.ddf import DDF
from tvconv_jax.nn.operators.dyconv_dw import DyConvDW
from tvconv_jax.nn.operators.dyconv_pw import DyConvPW
from tvconv_jax.nn.operators.involution import Involution
from tvconv_jax.nn.operators.tvconv_dynamic import TVConvDynamic
from tvconv_jax.nn.operators.weightnet import WeightNet


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


def condconv(b: Builder, module: CondConv, params: Params, x: str, shape: Shape) -> str:
    routes = b.op("Sigmoid", [dense(b, pooled(b, x), params["routing"])])
    return _mixed_depthwise(b, module, params["experts"], routes, x, shape)


def _shares(b: Builder, module: DyConvDW | DyConvPW, params: Params, x: str) -> str:
    hidden = b.op("Relu", [dense(b, pooled(b, x), params["squeeze"])])
    cooled = {name: array / np.float32(module.temperature) for name, array in params["logits"].items()}
    return b.op("Softmax", [dense(b, hidden, cooled)], axis=-1)


def dyconv_dw(b: Builder, module: DyConvDW, params: Params, x: str, shape: Shape) -> str:
    return _mixed_depthwise(b, module, params["experts"], _shares(b, module, params["attention"], x), x, shape)


def dyconv_pw(b: Builder, module: DyConvPW, params: Params, x: str, shape: Shape) -> str:
    height, width, channels = shape
    experts = params["kernel"].swapaxes(1, 2).reshape(len(params["kernel"]), -1)
    matrices = b.op("MatMul", [_shares(b, module, params["attention"], x), b.constant(experts)])
    matrices = b.reshaped(matrices, module.features, channels)
    y = b.op("MatMul", [matrices, b.reshaped(x, channels, height * width)])
    return b.reshaped(y, module.features, height, width)


def weightnet(b: Builder, module: WeightNet, params: Params, x: str, shape: Shape) -> str:
    channels, inputs = shape[2], module.inputs
    active = dense(b, dense(b, pooled(b, x), params["reduce"]), params["activate"])
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


def involution(b: Builder, module: Involution, params: Params, x: str, shape: Shape) -> str:
    size = module.kernel_size**2
    groups = len(params["span"]["bias"]) // size
    seen, reduce = average_pool(b, x, shape, module.strides), normed(params["reduce"], params["norm"])
    reduced = b.op("Relu", [pointwise(b, seen, reduce)])
    kernels = b.reshaped(pointwise(b, reduced, _taps_last(params["span"], size)), groups, 1, size, -1)
    return b.window_sum(x, shape, kernels, side=module.kernel_size, strides=module.strides, groups=groups)


def _filter_norm(b: Builder, filters: str, axis: int, taps: int) -> str:
    centered = b.op("Sub", [filters, b.op("ReduceMean", [filters], axes=[axis])])
    squares = b.op("ReduceSum", [b.op("Mul", [centered, centered]), b.integers(axis)])
    variance = b.op("Div", [squares, b.constant(np.float32(taps - 1))])
    return b.op("Div", [centered, b.op("Sqrt", [b.op("Add", [variance, b.constant(np.float32(1e-10))])])])


def ddf(b: Builder, module: DDF, params: Params, x: str, shape: Shape) -> str:
    channels, size = shape[2], module.kernel_size**2
    pixels = _filter_norm(b, pointwise(b, x, params["pixels"], strides=module.strides), 1, size)
    pixels = b.op("Mul", [pixels, b.constant(np.float32(math.sqrt(2) / module.kernel_size))])
    hidden = b.op("Relu", [dense(b, pooled(b, x), params["squeeze"])])
    own = b.reshaped(dense(b, hidden, _taps_last(params["channels"], size)), channels, size)
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


def tvconv_dynamic(b: Builder, module: TVConvDynamic, params: Params, x: str, shape: Shape) -> str:
    suffix = GENERATOR_NAMES[module.generator_padding]
    maps = pointwise(b, average_pool(b, x, shape, module.strides), params["maps"])
    kernels = _generated(b, module, params[f"kernels_{suffix}"], maps)
    kernels = b.reshaped(kernels, shape[2], 1, module.kernel_size**2, -1)
    y = b.window_sum(x, shape, kernels, side=module.kernel_size, strides=module.strides)
    return b.op("Add", [y, _generated(b, module, params[f"biases_{suffix}"], maps)]) if module.use_bias else y
