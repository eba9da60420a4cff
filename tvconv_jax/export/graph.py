"""Frozen, folded model as a list of nodes, from which every artifact is written.

A node reads earlier nodes by their number; number 0 is the image. Arrays are float32 in the layouts of this package
(``[n, h, w, c]``, kernels ``[k, k, c, d]``); writers convert them to their runtime's.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tvconv_jax.utils.sizes import Size, height_width


class Node(NamedTuple):
    """One operation."""

    kind: str  # of KINDS
    inputs: tuple[int, ...]  # numbers of the nodes it reads
    arrays: dict[str, np.ndarray]
    fields: dict[str, Any]  # "activation" is "identity", "relu" or "relu6"
    # Of arrays that a file stores divided by a scale: in int8 the value of a step, in float16 a power of two, for
    # numbers beyond it; 1 along every axis that shares it.
    scales: dict[str, np.ndarray] = {}


Shape = tuple[int, int, int]  # (h, w, c)


def _conv_shape(node: Node, shape: Shape) -> Shape:
    kernel, fields = node.arrays["kernel"], node.fields
    reach = fields["dilation"] * (len(kernel) - 1) - 2 * fields["padding"]
    height, width = ((size - reach - 1) // fields["strides"] + 1 for size in shape[:2])
    return height, width, kernel.shape[3]


def _low_rank_shape(node: Node, shape: Shape) -> Shape:
    return *node.arrays["gains"].shape[1:3], shape[2]


# Kinds of nodes: their arrays (None: any), their fields, and the shape they return, of the node and its inputs' shapes.
KINDS: dict[str, tuple[tuple[str, ...] | None, tuple[str, ...], Callable[..., Shape]]] = {
    # Kernel [k, k, c / groups, d], bias [d] or [ho, wo, d].
    "conv": (("kernel", "bias"), ("strides", "padding", "dilation", "groups", "activation"), _conv_shape),
    # Weights [ho, wo, k*k, c], bias [c] or [ho, wo, c].
    "per_pixel": (("weights", "bias"), ("strides", "activation"), lambda n, x: (*n.arrays["weights"].shape[:2], x[2])),
    # Kernels [r, k, k, c], the same bias, gains [r, ho, wo, c] or one less, and then the first kernel has gain 1.
    "low_rank": (("kernels", "gains", "bias"), ("strides", "activation"), _low_rank_shape),
    "linear": (("kernel", "bias"), (), lambda n, x: (1, 1, n.arrays["kernel"].shape[1])),  # kernel [c, d], bias [d]
    "affine": (("factor", "bias"), ("activation",), lambda n, x: x),  # both [c]
    # A linen module that cannot be frozen; its variables by path, "params/reduce/kernel".
    "module": (None, ("module", "shape"), lambda n, x: n.fields["shape"]),
    "add": ((), (), lambda n, x, *_: x),
    "concat": ((), (), lambda n, *xs: (*xs[0][:2], sum(x[2] for x in xs))),  # along channels
    "channels": ((), ("begin", "end"), lambda n, x: (*x[:2], n.fields["end"] - n.fields["begin"])),  # a slice of them
    "shuffle": ((), (), lambda n, x: x),  # the halves of the channels interleaved
    "max_pool": ((), (), lambda n, x: ((x[0] - 1) // 2 + 1, (x[1] - 1) // 2 + 1, x[2])),  # 3x3, strides 2
    "mean": ((), ("keep_grid",), lambda n, x: (1, 1, x[2])),  # over the grid
    # Sum over the grid of the values times their weights [h, w, 1, c].
    "global_depthwise": (("weights",), (), lambda n, x: (1, 1, x[2])),
    "flatten": ((), (), lambda n, x: (1, 1, math.prod(x))),  # in the order (h, w, c)
    "resize": ((), ("grid",), lambda n, x: (*n.fields["grid"], x[2])),  # bilinear
}


class Graph:
    """Nodes in the order in which they run; the last one is the output.

    Attributes:
        nodes: Node ``i + 1`` is ``nodes[i]``; 0 is the image.
        shapes: ``(h, w, c)`` of the image and of every node.
    """

    def __init__(self, size: Size) -> None:
        """Make an empty graph for images of a size."""
        self.nodes: list[Node] = []
        self.shapes: list[Shape] = [(*height_width(size), 3)]

    def add(self, kind: str, *inputs: int, arrays: dict[str, np.ndarray] | None = None, **fields: Any) -> int:
        """Append a node and return its number."""
        return self._append(Node(kind, inputs, arrays or {}, fields))

    def map(self, change: Callable[[Node], Node]) -> "Graph":
        """Return the graph with every node changed by a function."""
        graph = Graph(self.shapes[0][:2])
        for node in self.nodes:
            graph._append(change(node))
        return graph

    def _append(self, node: Node) -> int:
        names, fields, shape = KINDS[node.kind]
        if set(node.fields) != set(fields) or (names is not None and set(node.arrays) != set(names)):
            raise ValueError(f"a node {node.kind!r} takes the arrays {names} and the fields {fields}.")
        arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in node.arrays.items()}
        self.nodes.append(node._replace(arrays=arrays))
        self.shapes.append(shape(node, *(self.shapes[i] for i in node.inputs)))
        return len(self.nodes)
