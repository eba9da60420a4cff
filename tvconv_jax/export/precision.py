"""Weights stored in fewer bits: rounded to float16, or to int8 steps of a scale per channel."""

from typing import Literal

import numpy as np

from tvconv_jax.export.graph import Graph, Node

Precision = Literal["float32", "float16", "int8"]
PRECISIONS = ("float32", "float16", "int8")

# Axes of an array that have a scale each: the output channel, and which of a few kernels or gains it is.
OWN_SCALE = {"kernel": (-1,), "weights": (-1,), "kernels": (0, -1), "gains": (0, -1)}


def rounded(graph: Graph, precision: Precision) -> Graph:
    """The graph with every weight as its precision keeps it; biases stay float32.

    Args:
        graph: What to round.
        precision: ``"float32"`` (nothing), ``"float16"`` or ``"int8"``: symmetric, 255 steps a channel.

    Returns:
        Float32 values that are exactly what is stored; with the scales, for int8.
    """
    if precision == "float32":
        return graph
    return graph.map(_half if precision == "float16" else _steps)


def _half(node: Node) -> Node:
    arrays = {
        name: a.astype(np.float16).astype(np.float32) if name in OWN_SCALE else a for name, a in node.arrays.items()
    }
    return node._replace(arrays=arrays)


def _steps(node: Node) -> Node:
    arrays, scales = dict(node.arrays), {}
    for name in OWN_SCALE.keys() & arrays.keys():
        array = arrays[name]
        own = [axis % array.ndim for axis in OWN_SCALE[name]]
        shared = tuple(axis for axis in range(array.ndim) if axis not in own)
        largest = np.abs(array).max(axis=shared, keepdims=True)
        scales[name] = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        arrays[name] = np.rint(array / scales[name]) * scales[name]
    return node._replace(arrays=arrays, scales=scales)
