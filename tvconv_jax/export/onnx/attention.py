"""Attention in stock ONNX operations; see :mod:`tvconv_jax.export.onnx.modules`."""

import numpy as np

from tvconv_jax.export.onnx.builder import Builder
from tvconv_jax.export.onnx.parts import Params, Shape, average_pool, normed, pointwise
from tvconv_jax.nn.norm import factor_and_offset
from tvconv_jax.nn.operators.axial import Axial
from tvconv_jax.nn.operators.dynamic import head_count
from tvconv_jax.nn.operators.sasa import SASA


def sasa(b: Builder, module: SASA, params: Params, x: str, shape: Shape) -> str:
    height, width, channels = shape
    heads, side, pixels = len(params["query"]), module.kernel_size, height * width
    size, window = channels // heads, side**2

    def project(name: str) -> str:
        kernel = params[name].swapaxes(1, 2).reshape(channels, size, 1, 1)
        return b.grouped(x, b.constant(kernel), 1, heads, 1)

    def seen(name: str) -> str:
        return b.reshaped(b.unfold(project(name), channels, side), heads, size, window, pixels)

    rows, columns = np.repeat(params["rows"], side, 0), np.tile(params["columns"], (side, 1, 1))
    offsets = np.concatenate([rows, columns], -1).transpose(1, 2, 0)[None, ..., None]
    keys = b.op("Add", [seen("key"), b.constant(offsets)])
    query = b.reshaped(project("query"), heads, size, 1, pixels)
    logits = b.op("ReduceSum", [b.op("Mul", [keys, query]), b.integers(2)])
    masked = b.op("Add", [logits, b.constant(_outside(height, width, side))])
    shares = b.op("Softmax", [masked], axis=3)
    y = b.op("ReduceSum", [b.op("Mul", [seen("value"), shares]), b.integers(3)], keepdims=0)
    return average_pool(b, b.reshaped(y, channels, height, width), shape, module.strides)


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

    project = normed(params["project"], params["norm_project"])
    project = {name: array.reshape(*array.shape[:-1], heads, -1) for name, array in project.items()}
    for array in project.values():
        array[..., 2 * half :] *= factor[0].reshape(heads, size)
    project["bias"][:, 2 * half :] += sum(offset).reshape(heads, size)
    project = {name: array.reshape(*array.shape[:-2], -1) for name, array in project.items()}

    parts = b.reshaped(pointwise(b, x, project), heads, 2 * half + size, height, width)
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


def axial(b: Builder, module: Axial, params: Params, x: str, shape: Shape) -> str:
    for axis, name in ((1, "along_h"), (2, "along_w")):
        x = _axis(b, params[name], x, shape, axis=axis, at_most=module.heads)
    return average_pool(b, x, shape, module.strides)
