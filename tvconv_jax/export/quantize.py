"""Quantization of weights: to float16, or to int8 with a scale per channel."""

from typing import Literal

import numpy as np

from tvconv_jax.export.graph import Graph, Node

Precision = Literal["float32", "float16", "int8"]
PRECISIONS = ("float32", "float16", "int8")

# Axes along which an array has a scale each: the output channel, and the term of low-rank kernels and gains.
SCALE_AXES = {"kernel": (-1,), "weights": (-1,), "kernels": (0, -1), "gains": (0, -1)}


def quantize(graph: Graph, precision: Precision) -> Graph:
    """Return the graph with quantized weights, still as float32; biases and arrays of modules stay exact.

    Args:
        graph: The graph.
        precision: ``"float32"`` (no change), ``"float16"`` or ``"int8"``: symmetric, 255 steps a channel.

    Returns:
        A graph whose nodes also hold the scales, where there are any.
    """
    if precision == "float32":
        return graph
    return graph.map(lambda node: _quantized(node, precision))


def stored_size(graph: Graph, precision: Precision) -> int:
    """Return the bytes of a quantized graph's arrays and scales as files store them."""
    size = {"float32": 4, "float16": 2, "int8": 1}[precision]
    arrays = [(array, size if name in SCALE_AXES else 4) for node in graph.nodes for name, array in node.arrays.items()]
    scales = [(scale, 4) for node in graph.nodes for scale in node.scales.values()]
    return sum(array.size * width for array, width in arrays + scales)


def stored(array: np.ndarray, scale: np.ndarray | None, precision: Precision) -> np.ndarray:
    """Return what a file stores of a quantized array; times the scale, if there is one, it is the array again."""
    values = array if scale is None else array / scale
    return values.astype(np.float16) if precision == "float16" else np.rint(values).astype(np.int8)


def _quantized(node: Node, precision: Precision) -> Node:
    arrays, scales = dict(node.arrays), {}
    for name in SCALE_AXES.keys() & arrays.keys():
        array = arrays[name]
        kept = [axis % array.ndim for axis in SCALE_AXES[name]]
        largest = np.abs(array).max(axis=tuple(set(range(array.ndim)) - set(kept)), keepdims=True)
        if precision == "float16":
            # Float16 ends at 65504; kernels of a nearly dead channel are larger and get a power of two.
            scale = np.exp2(np.maximum(np.ceil(np.log2(np.maximum(largest, 1))) - 15, 0)).astype(np.float32)
            arrays[name] = (array / scale).astype(np.float16).astype(np.float32) * scale
        else:
            scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
            arrays[name] = np.rint(array / scale) * scale
        if precision == "int8" or np.any(scale > 1):
            scales[name] = scale
    return node._replace(arrays=arrays, scales=scales)
