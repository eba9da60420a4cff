"""MLP-Mixer's layers in stock ONNX operations; see :mod:`tvconv_jax.export.onnx.modules`."""

import math

import flax.linen as nn
import numpy as np

from tvconv_jax.export.onnx.builder import Builder
from tvconv_jax.export.onnx.parts import Params, Shape
from tvconv_jax.models.mlp_mixer import MixerBlock


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


def mixer_block(b: Builder, module: MixerBlock, params: Params, x: str, shape: Shape) -> str:
    height, width, channels = shape
    epsilon = nn.LayerNorm().epsilon
    swapped = lambda x: b.op("Transpose", [x], perm=[0, 2, 1])  # noqa: E731
    x = b.reshaped(x, channels, height * width)
    normed = swapped(_layer_norm(b, params["norm_positions"], swapped(x), epsilon))
    tokens = swapped(b.op("Add", [x, _mlp(b, params["positions"], normed)]))
    normed = _layer_norm(b, params["norm_channels"], tokens, epsilon)
    tokens = b.op("Add", [tokens, _mlp(b, params["channels"], normed)])
    return b.reshaped(swapped(tokens), channels, height, width)


def channel_norm(b: Builder, module: nn.LayerNorm, params: Params, x: str, shape: Shape) -> str:
    normed = _layer_norm(b, params, b.op("Transpose", [x], perm=[0, 2, 3, 1]), module.epsilon)
    return b.op("Transpose", [normed], perm=[0, 3, 1, 2])
