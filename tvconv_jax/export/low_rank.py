"""Low-rank approximation of per-pixel kernels: a few depthwise convolutions, each times a gain at every pixel.

The kernels of a channel are a matrix of pixels by taps, after training nearly of rank 1 or 2 (see the docs):
``W[pixel, tap] = sum_r gain_r[pixel] * kernel_r[tap]``. Every runtime has a fast depthwise convolution. With two terms
or more the first gain is one, which saves a map. Without any gain a layer has a shared kernel, ``W = kernel[tap]``.

The approximation minimizes the difference of the outputs, not of the kernels, by the second moments of the patches
(:mod:`tvconv_jax.export.rank_search`). Neighbors are nearly equal in images, so errors of opposite sign at two
neighboring taps cancel, and taps beyond the border do not matter.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tvconv_jax.export.graph import Graph, Node
from tvconv_jax.utils.errors import UserError

RIDGE = 1e-6  # of the moments' mean diagonal; without it a direction that no image has would be free
ROUNDS = 8  # of alternating least squares, which has settled by then


class Rank(NamedTuple):
    """Rank of an approximation; written ``2`` or, with layers that share their kernel, ``2:10``.

    Attributes:
        terms: Depthwise convolutions a layer; ``k * k`` terms are exact.
        shared: Number of layers with one kernel shared by all pixels.
    """

    terms: int
    shared: int = 0

    def __str__(self) -> str:
        return f"{self.terms}:{self.shared}" if self.shared else str(self.terms)


def parse_rank(text: str) -> Rank:
    """Parse ``"2"`` or ``"2:10"``.

    Raises:
        ValueError: If it is neither.
    """
    terms, colon, shared = text.partition(":")
    if not (terms.isdecimal() and int(terms) and (shared.isdecimal() or not colon)):
        raise ValueError(f"{text!r} must be a rank, 1, 2, ..., or with shared-kernel layers 1:10, 2:10, ...")
    return Rank(int(terms), int(shared or 0))


def truncate(
    graph: Graph, rank: Rank, moments: Sequence[np.ndarray] | None = None, order: Sequence[int] | None = None
) -> tuple[Graph, list[np.ndarray]]:
    """Replace per-pixel kernels by an approximation.

    Args:
        graph: The exact graph.
        rank: Rank of the approximation.
        moments: Of every per-pixel layer, ``[ho, wo, k*k, k*k, c]``, as
            :func:`tvconv_jax.export.rank_search.second_moments` finds them; ``None``: minimize the difference of the
            kernels themselves.
        order: Per-pixel layers, numbers from 0, in the order in which they share their kernel, as
            :func:`tvconv_jax.export.rank_search.shared_distances` finds it; ``None``: that of :func:`likely_order`.

    Returns:
        The graph, and for every per-pixel layer the share of the energy kept in each channel: of the sum of squares of
        its outputs or, without moments, of its kernels.

    Raises:
        UserError: If fewer layers can share their kernel; a layer with a bias at every pixel cannot.
    """
    check_rank(graph, rank)
    kept, remaining = [], iter(moments or ())
    shared = set((likely_order(graph) if order is None else order)[: rank.shared])

    def change(node: Node) -> Node:
        if node.kind != "per_pixel":
            return node
        weights, metric = _weights_and_metric(node, None if moments is None else next(remaining))
        if len(kept) in shared:
            changed, found = _shared(node, weights, metric)
        else:
            changed, found = _low_rank(node, rank.terms, weights, metric)
        lost, energy = (_energy(a, metric) for a in (weights - found, weights))
        kept.append(1 - lost / np.maximum(energy, np.finfo(float).tiny))
        return changed

    return graph.map(change), kept


def check_rank(graph: Graph, rank: Rank) -> None:
    """Raise a ``UserError`` if fewer of the exact graph's layers can share their kernel than the rank says."""
    if rank.shared > (limit := len(likely_order(graph))):
        raise UserError(
            f"rank {rank} has {rank.shared} shared-kernel layers; of this model {limit} can be: per-pixel layers "
            f"without a bias at every pixel."
        )


def likely_order(graph: Graph) -> list[int]:
    """Return the per-pixel layers that can share their kernel, numbers from 0: those inside a shortcut, then others.

    This is the order in trained MobileNetV2s. Late layers come before early ones, whose gains cost most, so that a
    model timed with random weights is as slow as a trained one.
    """
    nodes = list(enumerate(graph.nodes, start=1))
    behind = {node.inputs[0]: number for number, node in nodes if node.kind == "conv"}
    added = {max(node.inputs) for _, node in nodes if node.kind == "add"}  # to a shortcut, which began before
    layers = [(number, node) for number, node in nodes if node.kind == "per_pixel"]
    can = [i for i, (_, node) in enumerate(layers) if node.arrays["bias"].ndim == 1]
    return sorted(reversed(can), key=lambda i: behind.get(layers[i][0]) not in added)


def shared_kernel(node: Node, moments: np.ndarray) -> np.ndarray:
    """Return the kernel ``[k*k, c]`` that is nearest to those of all pixels of a layer."""
    return _shared(node, *_weights_and_metric(node, moments))[1][:, 0].T


def _weights_and_metric(node: Node, moments: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return kernels ``[c, pixels, t]`` and the metric of their differences, ``[c, pixels or 1, t, t]``."""
    weights = node.arrays["weights"].astype(np.float64)
    _, _, taps, channels = weights.shape
    weights = weights.reshape(-1, taps, channels).transpose(2, 0, 1)
    if moments is None:
        return weights, np.broadcast_to(np.eye(taps), (channels, 1, taps, taps))
    metric = moments.reshape(-1, taps, taps, channels).transpose(3, 0, 1, 2).astype(np.float64)
    size = np.trace(metric.mean(1), axis1=1, axis2=2) / taps
    # A channel that is always 0 has no moments.
    return weights, metric + np.where(size > 0, RIDGE * size, 1.0)[:, None, None, None] * np.eye(taps)


def _shared(node: Node, weights: np.ndarray, metric: np.ndarray) -> tuple[Node, np.ndarray]:
    """Return the layer with a shared kernel, and that kernel ``[c, 1, t]``."""
    channels, _, taps = weights.shape
    size = math.isqrt(taps)
    kernel = _solve(metric.mean(1), _apply(metric, weights).mean(1))
    arrays = {"kernel": kernel.T.reshape(size, size, 1, channels), "bias": node.arrays["bias"]}
    fields = {"padding": size // 2, "dilation": 1, "groups": channels}
    return Node("conv", node.inputs, arrays, node.fields | fields), kernel[:, None]


def _low_rank(node: Node, rank: int, weights: np.ndarray, metric: np.ndarray) -> tuple[Node, np.ndarray]:
    """Return the layer as a sum of terms, and its kernels ``[c, pixels, t]``."""
    height, width, taps, channels = node.arrays["weights"].shape
    rank, size = min(rank, *weights.shape[1:]), math.isqrt(taps)
    ungained = int(1 < rank < min(weights.shape[1:]))  # all terms are exact without it
    gains, kernels = _decompose(weights, rank, ungained, np.linalg.cholesky(metric.mean(1)))
    if metric.shape[1] > 1 and rank < min(weights.shape[1:]):
        gains, kernels = _refine(weights, metric, gains, kernels, ungained)
    gains, kernels = _balance(gains, kernels, ungained)
    arrays = {
        "kernels": kernels.transpose(1, 2, 0).reshape(rank, size, size, channels),
        "gains": gains[:, :, ungained:].transpose(2, 1, 0).reshape(rank - ungained, height, width, channels),
        "bias": node.arrays["bias"],
    }
    return Node("low_rank", node.inputs, arrays, node.fields), gains @ kernels


def _decompose(weights: np.ndarray, rank: int, ungained: int, root: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return gains ``[c, pixels, r]`` and kernels ``[c, r, t]``, best for the metric ``root root'`` at all pixels."""
    first = weights.mean(1, keepdims=True)[:, :ungained]
    left, values, right = np.linalg.svd((weights - first.sum(1, keepdims=True)) @ root, full_matrices=False)
    terms = rank - ungained
    gains = np.concatenate([np.ones_like(left[:, :, :ungained]), left[:, :, :terms] * values[:, None, :terms]], axis=2)
    return gains, np.concatenate([first, right[:, :terms] @ np.linalg.inv(root)], axis=1)


def _refine(
    weights: np.ndarray, metric: np.ndarray, gains: np.ndarray, kernels: np.ndarray, ungained: int
) -> tuple[np.ndarray, np.ndarray]:
    """Solve alternating least squares with a metric per pixel: gains for given kernels, and the reverse."""
    channels, pixels, taps = weights.shape
    rank, flat = kernels.shape[1], metric.reshape(channels, pixels, taps * taps)
    targets = _apply(metric, weights)
    for _ in range(ROUNDS):
        pairs = np.einsum("crt,csu->cturs", kernels, kernels).reshape(channels, taps * taps, rank * rank)
        squares = (flat @ pairs).reshape(channels, pixels, rank, rank)
        aims = targets @ kernels.transpose(0, 2, 1) - squares[..., :ungained].sum(-1)
        gains[:, :, ungained:] = _solve(squares[:, :, ungained:, ungained:], aims[:, :, ungained:])
        pairs = np.einsum("cpr,cps->crsp", gains, gains).reshape(channels, rank * rank, pixels)
        squares = (pairs @ flat).reshape(channels, rank, rank, taps, taps).transpose(0, 1, 3, 2, 4)
        aims = (gains.transpose(0, 2, 1) @ targets).reshape(channels, rank * taps)
        kernels = _solve(squares.reshape(channels, rank * taps, rank * taps), aims).reshape(kernels.shape)
    return gains, kernels


def _solve(matrices: np.ndarray, aims: np.ndarray) -> np.ndarray:
    """Solve ``matrices x = aims`` for positive semidefinite matrices of any size; ``x`` is 0 where they are 0."""
    scale = np.sqrt(np.maximum(np.einsum("...ii->...i", matrices), 1e-200))
    scaled = matrices / scale[..., :, None] / scale[..., None, :] + 1e-9 * np.eye(matrices.shape[-1])
    return np.linalg.solve(scaled, (aims / scale)[..., None])[..., 0] / scale


def _apply(metric: np.ndarray, kernels: np.ndarray) -> np.ndarray:
    return (metric @ kernels[..., None])[..., 0]


def _energy(kernels: np.ndarray, metric: np.ndarray) -> np.ndarray:
    return np.sum(_apply(metric, kernels) * kernels, axis=(1, 2))


def _balance(gains: np.ndarray, kernels: np.ndarray, ungained: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale gains and their kernels to one size, which quantizes better than kernels of unit length."""
    tiny = np.finfo(float).tiny
    half = np.sqrt(np.maximum(np.linalg.norm(gains, axis=1), tiny) / np.maximum(np.linalg.norm(kernels, axis=2), tiny))
    half[:, :ungained] = 1
    return gains / half[:, None], kernels * half[:, :, None]
