"""Weights stored in fewer bits: rounded to float16, or to int8 steps of a scale per channel."""

from typing import Literal

import numpy as np

from tvconv_jax.export.graph import Graph, Node

Precision = Literal["float32", "float16", "int8"]
PRECISIONS = ("float32", "float16", "int8")

# Axes of an array that have a scale each: the output channel, and which of a few kernels or gains it is.
OWN_SCALE = {"kernel": (-1,), "weights": (-1,), "kernels": (0, -1), "gains": (0, -1)}


def rounded(graph: Graph, precision: Precision) -> Graph:
    """The graph with every weight as its precision keeps it; biases, and all that modules hold, stay float32.

    Args:
        graph: What to round.
        precision: ``"float32"`` (nothing), ``"float16"`` or ``"int8"``: symmetric, 255 steps a channel.

    Returns:
        Float32 values that are exactly what is stored; with the scales that they are stored by, where there are any.
    """
    if precision == "float32":
        return graph
    return graph.map(_half if precision == "float16" else _steps)


def in_bits(array: np.ndarray, scale: np.ndarray | None, precision: Precision) -> np.ndarray:
    """What a file stores of a rounded array; times the scale, if there is one, it is the array again."""
    few = array if scale is None else array / scale
    return few.astype(np.float16) if precision == "float16" else np.rint(few).astype(np.int8)


def _half(node: Node) -> Node:
    """Float16 ends at 65504, and the kernels of a channel that is nearly dead are larger: it gets a power of two."""
    arrays, scales = dict(node.arrays), {}
    for name in OWN_SCALE.keys() & arrays.keys():
        scale = np.exp2(np.maximum(np.ceil(np.log2(np.maximum(_largest(arrays[name], name), 1))) - 15, 0))
        if np.any(scale > 1):
            scales[name] = scale.astype(np.float32)
        arrays[name] = (arrays[name] / scale).astype(np.float16).astype(np.float32) * scale.astype(np.float32)
    return node._replace(arrays=arrays, scales=scales)


def _largest(array: np.ndarray, name: str) -> np.ndarray:
    """Of each channel, shaped to be multiplied with the array."""
    own = [axis % array.ndim for axis in OWN_SCALE[name]]
    return np.abs(array).max(axis=tuple(axis for axis in range(array.ndim) if axis not in own), keepdims=True)


def _steps(node: Node) -> Node:
    arrays, scales = dict(node.arrays), {}
    for name in OWN_SCALE.keys() & arrays.keys():
        largest = _largest(arrays[name], name)
        scales[name] = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        arrays[name] = np.rint(arrays[name] / scales[name]) * scales[name]
    return node._replace(arrays=arrays, scales=scales)
