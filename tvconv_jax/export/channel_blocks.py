"""Channels filled up with zeros to whole blocks, for runtimes that compute in blocks of channels.

onnxruntime on x86 keeps channels in blocks of 8 or, with AVX-512, of 16. A depthwise convolution whose channels make no
whole blocks it computes in a slow way, and what has fewer channels than a block it copies back and reads in a slow way.
Narrow models have both, and zeros are cheaper.
"""

import numpy as np

from tvconv_jax.export.graph import Graph, Node

BLOCK = 16
THROUGH = ("low_rank", "add", "max_pool", "mean")  # as many channels come out as go in


def in_blocks(graph: Graph, block: int = BLOCK) -> Graph:
    """The same model with more channels inside, those that are new always 0.

    Filled up is what convolutions over all channels make for others of them, or for the linear layer, to read; what is
    concatenated, sliced or resized, and what modules and exact per-pixel kernels read and write, keeps its channels:
    no runtime computes those in blocks.

    Args:
        graph: What to fill up.
        block: The multiple that channels should be.

    Returns:
        A graph with equal answers.
    """
    groups = _tied(graph)
    fixed = {groups[0], groups[-1]}
    for number, node in enumerate(graph.nodes, start=1):
        if not (_is_full(node) or _is_through(node)):
            fixed.add(groups[number])
            if node.kind != "linear":
                fixed |= {groups[i] for i in node.inputs}
    widths = [
        channels if group in fixed else -(-channels // block) * block
        for group, (_, _, channels) in zip(groups, graph.shapes, strict=True)
    ]
    filled = (_filled(node, widths[node.inputs[0]], width) for node, width in zip(graph.nodes, widths[1:], strict=True))
    return graph.map(lambda _: next(filled))


def _is_full(node: Node) -> bool:
    """Whether it is a convolution over all channels."""
    return node.kind == "conv" and node.fields["groups"] == 1


def _is_through(node: Node) -> bool:
    return node.kind in THROUGH or (node.kind == "conv" and 1 < node.fields["groups"] == node.arrays["kernel"].shape[3])


def _tied(graph: Graph) -> list[int]:
    """For every number in the graph one that stands for all that must have as many channels."""
    group = list(range(len(graph.shapes)))
    for number, node in enumerate(graph.nodes, start=1):
        if _is_through(node):
            tied = {group[i] for i in (number, *node.inputs)}
            group = [min(tied) if one in tied else one for one in group]
    return group


def _filled(node: Node, inputs: int, outputs: int) -> Node:
    """With so many channels of the input and of the output."""
    fields = {**node.fields, "groups": outputs} if node.kind == "conv" and not _is_full(node) else node.fields

    def more(name: str) -> list[tuple[int, int]]:
        sides = list(node.arrays[name].shape)
        if name == "kernel" and (node.kind == "linear" or _is_full(node)):
            sides[-2] = inputs
        if _is_full(node) or _is_through(node):
            sides[-1] = outputs
        return [(0, side - old) for old, side in zip(node.arrays[name].shape, sides, strict=True)]

    def of_scale(name: str) -> list[tuple[int, int]]:
        """None along axes that share a scale, for then the new channels do too."""
        return [(0, 0) if side == 1 else new for side, new in zip(node.scales[name].shape, more(name), strict=True)]

    return node._replace(
        arrays={name: np.pad(array, more(name)) for name, array in node.arrays.items()},
        scales={name: np.pad(scale, of_scale(name), constant_values=1) for name, scale in node.scales.items()},
        fields=fields,
    )
