"""Per-pixel kernels as a few depthwise convolutions, each times a gain at every pixel.

The kernels of a channel are a matrix of pixels by taps. After training it is nearly of rank 1 or 2 (see the README), so
its first singular vectors, ``W[pixel, tap] = sum_r gain_r[pixel] * kernel_r[tap]``, are as good as the whole, and
every runtime has a fast depthwise convolution.
"""

import math

import numpy as np

from tvconv_jax.export.graph import Graph, Node


def truncate(graph: Graph, rank: int) -> tuple[Graph, list[np.ndarray]]:
    """Replaces per-pixel kernels by their best approximation of a rank.

    Args:
        graph: What to truncate.
        rank: Terms; ``k * k`` is exact.

    Returns:
        The graph, and for every per-pixel layer the share of the energy (sum of squares) kept in each channel.
    """
    kept = []

    def change(node: Node) -> Node:
        if node.kind != "per_pixel":
            return node
        changed, share = _truncated(node, rank)
        kept.append(share)
        return changed

    return graph.map(change), kept


def _truncated(node: Node, rank: int) -> tuple[Node, np.ndarray]:
    weights = node.arrays["weights"].astype(np.float64)
    height, width, taps, channels = weights.shape
    left, values, right = np.linalg.svd(weights.reshape(-1, taps, channels).transpose(2, 0, 1), full_matrices=False)
    rank, side = min(rank, values.shape[1]), math.isqrt(taps)
    # Kernels of unit length would leave all size to the gains; halves of it suit few bits better.
    root = np.sqrt(values[:, None, :rank])
    gains = (left[:, :, :rank] * root).transpose(2, 1, 0).reshape(rank, height, width, channels)
    kernels = (right[:, :rank].transpose(0, 2, 1) * root).transpose(2, 1, 0).reshape(rank, side, side, channels)
    energy = np.square(values)
    share = energy[:, :rank].sum(1) / np.maximum(energy.sum(1), np.finfo(np.float64).tiny)
    arrays = {"kernels": kernels, "gains": gains, "bias": node.arrays["bias"]}
    return Node("low_rank", node.inputs, arrays, node.fields), share
