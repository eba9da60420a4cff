"""Channels padded with zeros to whole blocks, for runtimes that compute in blocks of channels.

onnxruntime on x86 keeps channels in blocks of 8 or, with AVX-512, of 16. It is slow at depthwise convolutions without
whole blocks, and at values with fewer channels than a block. Narrow models have both, and zeros are cheaper.
"""

import numpy as np

from tvconv_jax.export.graph import Graph, Node

BLOCK = 16
THROUGH = ("low_rank", "add", "max_pool", "mean", "global_depthwise")  # as many channels come out as go in


def in_blocks(graph: Graph, block: int = BLOCK) -> Graph:
    """Return an equal graph with zero channels added.

    Values between convolutions over all channels, or before the linear layer, are padded to multiples of ``block``
    channels. Values that are concatenated, sliced or resized keep their channels, and so do those around modules and
    exact per-pixel kernels: no runtime computes these in blocks.
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
    """Return whether a node is a convolution over all channels."""
    return node.kind == "conv" and node.fields["groups"] == 1


def _is_through(node: Node) -> bool:
    return node.kind in THROUGH or (node.kind == "conv" and 1 < node.fields["groups"] == node.arrays["kernel"].shape[3])


def _tied(graph: Graph) -> list[int]:
    """Return a group for every value; values of a group have equally many channels."""
    group = list(range(len(graph.shapes)))
    for number, node in enumerate(graph.nodes, start=1):
        if _is_through(node):
            tied = {group[i] for i in (number, *node.inputs)}
            group = [min(tied) if one in tied else one for one in group]
    return group


def _filled(node: Node, inputs: int, outputs: int) -> Node:
    """Return the node with that many input and output channels."""
    fields = {**node.fields, "groups": outputs} if node.kind == "conv" and not _is_full(node) else node.fields

    def more(name: str) -> list[tuple[int, int]]:
        shape = list(node.arrays[name].shape)
        if name == "kernel" and (node.kind == "linear" or _is_full(node)):
            shape[-2] = inputs
        if _is_full(node) or _is_through(node):
            shape[-1] = outputs
        return [(0, size - old) for old, size in zip(node.arrays[name].shape, shape, strict=True)]

    def of_scale(name: str) -> list[tuple[int, int]]:
        # An axis of size 1 shares a scale, with the new channels too.
        return [(0, 0) if size == 1 else new for size, new in zip(node.scales[name].shape, more(name), strict=True)]

    return node._replace(
        arrays={name: np.pad(array, more(name)) for name, array in node.arrays.items()},
        scales={name: np.pad(scale, of_scale(name), constant_values=1) for name, scale in node.scales.items()},
        fields=fields,
    )
