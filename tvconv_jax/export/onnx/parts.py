"""Layers that modules are written of in stock ONNX operations.

Inputs are names of ``[n, c, h, w]`` or ``[n, c]``, and ``(h, w, c)``; each function returns the name of its output.
"""

from collections.abc import Mapping
from typing import Any

from tvconv_jax.export.onnx.builder import Builder
from tvconv_jax.nn.norm import factor_and_offset

Params = Mapping[str, Any]
Shape = tuple[int, int, int]


def dense(b: Builder, x: str, params: Params) -> str:
    """A linear layer, ``[n, c]`` -> ``[n, d]``."""
    return b.op("Gemm", [x, b.constant(params["kernel"]), b.constant(params["bias"])])


def pointwise(b: Builder, x: str, params: Params, *, strides: int = 1) -> str:
    """The same at every pixel, ``[n, c, h, w]`` -> ``[n, d, ho, wo]``."""
    weights = [b.constant(params["kernel"].T[:, :, None, None])]
    weights += [b.constant(params["bias"])] if "bias" in params else []
    return b.op("Conv", [x, *weights], kernel_shape=[1, 1], strides=[strides] * 2)


def normed(params: Params, norm: Params) -> Params:
    """A linear layer with the norm behind it."""
    factor, offset = factor_and_offset(norm)
    return {"kernel": params["kernel"] * factor, "bias": offset + params.get("bias", 0) * factor}


def pooled(b: Builder, x: str) -> str:
    """Average over the grid, ``[n, c]``."""
    return b.op("Flatten", [b.op("GlobalAveragePool", [x])])


def average_pool(b: Builder, x: str, shape: Shape, strides: int) -> str:
    """Of ``strides x strides`` pixels, fewer at an odd grid's end; see :mod:`tvconv_jax.nn.operators.dynamic`."""
    if strides == 1:
        return x
    ends = [-side % strides for side in shape[:2]]
    return b.op("AveragePool", [x], kernel_shape=[strides] * 2, strides=[strides] * 2, pads=[0, 0, *ends])
