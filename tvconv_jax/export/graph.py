"""Frozen, folded model as a list of nodes, from which every artifact is written.

A node reads earlier nodes by their number; number 0 is the image. Arrays are float32 in the layouts of this package
(``[n, h, w, c]``, kernels ``[k, k, c, d]``); writers convert them to their runtime's.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# Kinds of nodes with their arrays (None: any) and their fields.
KINDS = {
    "conv": (("kernel", "bias"), ("strides", "padding", "dilation", "groups", "activation")),
    "per_pixel": (("weights", "bias"), ("strides", "activation")),
    "low_rank": (("kernels", "gains", "bias"), ("strides", "activation")),
    "linear": (("kernel", "bias"), ()),
    "affine": (("factor", "bias"), ("activation",)),
    "module": (None, ("module", "shape")),
    "add": ((), ()),
    "concat": ((), ()),
    "channels": ((), ("begin", "end")),
    "shuffle": ((), ()),
    "max_pool": ((), ()),
    "mean": ((), ("keep_grid",)),
    "resize": ((), ("grid",)),
}


class Node(NamedTuple):
    """One operation.

    Attributes:
        kind: ``conv``: kernel ``[k, k, c / groups, d]``, bias ``[d]``. ``per_pixel``: weights ``[ho, wo, k*k, c]``,
            bias ``[c]`` or ``[ho, wo, c]``. ``low_rank``: kernels ``[r, k, k, c]``, bias, gains
            ``[r, ho, wo, c]`` or one less, and then the first kernel has gain 1.
            ``linear``: kernel ``[c, d]``, bias ``[d]``. ``affine``: factor and bias ``[c]``. ``module``: a linen
            module that cannot be frozen; its variables by path, ``"params/reduce/kernel"``. ``add``; ``concat`` along
            channels; ``channels``, a slice of them; ``shuffle``, the halves of the channels interleaved; ``max_pool``,
            3x3 with strides 2; ``mean`` over the grid; ``resize``, bilinear.
        inputs: Numbers of the nodes it reads.
        arrays: By name.
        fields: By name; ``activation`` is ``"identity"``, ``"relu"`` or ``"relu6"``.
        scales: Of arrays that a file stores divided by a scale, by name, 1 along every axis that shares it: in int8
            the value of a step, in float16 a power of two for numbers beyond it.
    """

    kind: str
    inputs: tuple[int, ...]
    arrays: dict[str, np.ndarray]
    fields: dict[str, Any]
    scales: dict[str, np.ndarray] = {}


class Graph:
    """Nodes in the order in which they run; the last one is the output.

    Attributes:
        nodes: Node ``i + 1`` is ``nodes[i]``; 0 is the image.
        shapes: ``(h, w, c)`` of the image and of every node.
    """

    def __init__(self, size: int) -> None:
        """Make an empty graph for images of that height and width."""
        self.nodes: list[Node] = []
        self.shapes: list[tuple[int, int, int]] = [(size, size, 3)]

    def add(self, kind: str, *inputs: int, arrays: dict[str, np.ndarray] | None = None, **fields: Any) -> int:
        """Append a node and return its number."""
        return self._append(Node(kind, inputs, arrays or {}, fields))

    def map(self, change: Callable[[Node], Node]) -> "Graph":
        """Return the graph with every node changed by a function."""
        graph = Graph(self.shapes[0][0])
        graph.shapes = self.shapes[:1]
        for node in self.nodes:
            graph._append(change(node))
        return graph

    def _append(self, node: Node) -> int:
        arrays, fields = KINDS[node.kind]
        if set(node.fields) != set(fields) or (arrays is not None and set(node.arrays) != set(arrays)):
            raise ValueError(f"a node {node.kind!r} takes the arrays {arrays} and the fields {fields}.")
        arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in node.arrays.items()}
        self.nodes.append(node._replace(arrays=arrays))
        self.shapes.append(_shape(node, [self.shapes[i] for i in node.inputs]))
        return len(self.nodes)


def _shape(node: Node, inputs: list[tuple[int, int, int]]) -> tuple[int, int, int]:
    (height, width, channels), fields, arrays = inputs[0], node.fields, node.arrays

    def conv() -> tuple[int, int, int]:
        reach = fields["dilation"] * (len(arrays["kernel"]) - 1) - 2 * fields["padding"]
        grid = ((size - reach - 1) // fields["strides"] + 1 for size in (height, width))
        return (*grid, arrays["kernel"].shape[3])

    return {
        "conv": conv,
        "per_pixel": lambda: (*arrays["weights"].shape[:2], channels),
        "low_rank": lambda: (*arrays["gains"].shape[1:3], channels),
        "module": lambda: fields["shape"],
        "max_pool": lambda: ((height - 1) // 2 + 1, (width - 1) // 2 + 1, channels),
        "linear": lambda: (1, 1, arrays["kernel"].shape[1]),
        "concat": lambda: (height, width, sum(shape[2] for shape in inputs)),
        "channels": lambda: (height, width, fields["end"] - fields["begin"]),
        "mean": lambda: (1, 1, channels),
        "resize": lambda: (*fields["grid"], channels),
    }.get(node.kind, lambda: (height, width, channels))()
