"""Per-pixel kernels as a few depthwise convolutions, each times a gain at every pixel.

The kernels of a channel are a matrix of pixels by taps, which after training is nearly of rank 1 or 2 (see the
docs): ``W[pixel, tap] = sum_r gain_r[pixel] * kernel_r[tap]``, and every runtime has a fast depthwise convolution. Of
two terms or more the first has gain one, ``W = kernel_1[tap] + sum_r gain_r[pixel] * kernel_r[tap]``: one map less to
store and to multiply with. What is least is not the difference of the kernels but that of their answers, as far as
second moments of what the taps see can tell (:mod:`tvconv_jax.export.moments`): neighbors are nearly equal in
pictures, so a tap too much beside one too little does no harm, and a tap beyond the border has no say.

Without any gain a layer is a depthwise convolution, ``W = kernel[tap]``, which runtimes have at its fastest. Where a
shortcut goes around a layer the answers hardly tell (:mod:`tvconv_jax.export.plain_layers`).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tvconv_jax.export.graph import Graph, Node
from tvconv_jax.utils.errors import UserError

RIDGE = 1e-6  # of the moments' mean diagonal; without it a direction that no picture has would be free
ROUNDS = 8  # of alternating least squares, which has settled by then


class Rank(NamedTuple):
    """What is left of per-pixel kernels; written ``2`` or, with plain layers, ``2:10``.

    Attributes:
        terms: Depthwise convolutions in all, ``k * k`` for exact kernels.
        plain_layers: So many layers have one kernel for all pixels.
    """

    terms: int
    plain_layers: int = 0

    def __str__(self) -> str:
        return f"{self.terms}:{self.plain_layers}" if self.plain_layers else str(self.terms)


def parse_rank(text: str) -> Rank:
    """``"2"`` or ``"2:10"``.

    Raises:
        ValueError: If it is neither.
    """
    terms, colon, layers = text.partition(":")
    if not (terms.isdecimal() and int(terms) and (layers.isdecimal() or not colon)):
        raise ValueError(f"{text!r} must be a number of terms, 1, 2, ..., or with plain layers 1:10, 2:10, ...")
    return Rank(int(terms), int(layers or 0))


def truncate(
    graph: Graph, rank: Rank, moments: Sequence[np.ndarray] | None = None, order: Sequence[int] | None = None
) -> tuple[Graph, list[np.ndarray]]:
    """Replaces per-pixel kernels by an approximation of a rank.

    Args:
        graph: What to truncate.
        rank: Of the approximation.
        moments: Of every per-pixel layer, ``[ho, wo, k*k, k*k, c]``, as
            :func:`tvconv_jax.export.moments.second_moments` finds them; ``None``: the difference of the kernels
            themselves is least.
        order: In which per-pixel layers become plain, numbers from 0, as
            :func:`tvconv_jax.export.plain_layers.plain_distances` finds it; ``None``: as :func:`likely_order` guesses.

    Returns:
        The graph, and for every per-pixel layer the share of the energy that is kept in each channel: the sum of
        squares of its answers or, without moments, of its kernels.

    Raises:
        UserError: If fewer layers can be plain; one with a bias for every pixel cannot.
    """
    kept, of_layers = [], iter(moments or ())
    check_rank(graph, rank)
    plain = set((likely_order(graph) if order is None else order)[: rank.plain_layers])

    def change(node: Node) -> Node:
        if node.kind != "per_pixel":
            return node
        weights, metric = _weights_and_metric(node, None if moments is None else next(of_layers))
        if len(kept) in plain:
            changed, found = _plain(node, weights, metric)
        else:
            changed, found = _low_rank(node, rank.terms, weights, metric)
        lost, energy = (_energy(a, metric) for a in (weights - found, weights))
        kept.append(1 - lost / np.maximum(energy, np.finfo(float).tiny))
        return changed

    return graph.map(change), kept


def check_rank(graph: Graph, rank: Rank) -> None:
    """Raises a ``UserError`` if fewer of the exact graph's layers can be plain than the rank says."""
    if rank.plain_layers > (most := len(likely_order(graph))):
        raise UserError(
            f"rank {rank} has {rank.plain_layers} plain layers; of this model {most} can be: per-pixel ones, without a "
            f"bias for every pixel."
        )


def likely_order(graph: Graph) -> list[int]:
    """Per-pixel layers that can be plain, numbers from 0: those that a shortcut goes around, then others.

    So it is in trained MobileNetV2s. Late layers come before early ones, whose gains cost most: what is timed with
    random weights should be no faster than what was trained.
    """
    nodes = list(enumerate(graph.nodes, start=1))
    behind = {node.inputs[0]: number for number, node in nodes if node.kind == "conv"}
    added = {max(node.inputs) for _, node in nodes if node.kind == "add"}  # to a shortcut, which began before
    layers = [(number, node) for number, node in nodes if node.kind == "per_pixel"]
    can = [i for i, (_, node) in enumerate(layers) if node.arrays["bias"].ndim == 1]
    return sorted(reversed(can), key=lambda i: behind.get(layers[i][0]) not in added)


def plain_kernel(node: Node, moments: np.ndarray) -> np.ndarray:
    """The one kernel, ``[k*k, c]``, that is nearest to all of a per-pixel layer."""
    return _plain(node, *_weights_and_metric(node, moments))[1][:, 0].T


def _weights_and_metric(node: Node, moments: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Kernels ``[c, pixels, t]`` and what their differences count, ``[c, pixels or 1, t, t]``."""
    weights = node.arrays["weights"].astype(np.float64)
    _, _, taps, channels = weights.shape
    weights = weights.reshape(-1, taps, channels).transpose(2, 0, 1)
    if moments is None:
        return weights, np.broadcast_to(np.eye(taps), (channels, 1, taps, taps))
    metric = moments.reshape(-1, taps, taps, channels).transpose(3, 0, 1, 2).astype(np.float64)
    size = np.trace(metric.mean(1), axis1=1, axis2=2) / taps
    # A channel that is always 0 has no moments.
    return weights, metric + np.where(size > 0, RIDGE * size, 1.0)[:, None, None, None] * np.eye(taps)


def _plain(node: Node, weights: np.ndarray, metric: np.ndarray) -> tuple[Node, np.ndarray]:
    """The layer with one kernel for all pixels, and that kernel ``[c, 1, t]``."""
    channels, _, taps = weights.shape
    side = math.isqrt(taps)
    kernel = _solved(metric.mean(1), _answers(weights, metric).mean(1))
    arrays = {"kernel": kernel.T.reshape(side, side, 1, channels), "bias": node.arrays["bias"]}
    fields = {"padding": side // 2, "dilation": 1, "groups": channels}
    return Node("conv", node.inputs, arrays, node.fields | fields), kernel[:, None]


def _low_rank(node: Node, rank: int, weights: np.ndarray, metric: np.ndarray) -> tuple[Node, np.ndarray]:
    """The layer as a sum of terms, and its kernels ``[c, pixels, t]``."""
    height, width, taps, channels = node.arrays["weights"].shape
    rank, side = min(rank, *weights.shape[1:]), math.isqrt(taps)
    plain = int(1 < rank < min(weights.shape[1:]))  # all terms are exact without it
    gains, kernels = _decomposed(weights, rank, plain, np.linalg.cholesky(metric.mean(1)))
    if metric.shape[1] > 1 and rank < min(weights.shape[1:]):
        gains, kernels = _refined(weights, metric, gains, kernels, plain)
    gains, kernels = _balanced(gains, kernels, plain)
    arrays = {
        "kernels": kernels.transpose(1, 2, 0).reshape(rank, side, side, channels),
        "gains": gains[:, :, plain:].transpose(2, 1, 0).reshape(rank - plain, height, width, channels),
        "bias": node.arrays["bias"],
    }
    return Node("low_rank", node.inputs, arrays, node.fields), gains @ kernels


def _decomposed(weights: np.ndarray, rank: int, plain: int, root: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gains ``[c, pixels, r]`` and kernels ``[c, r, t]``, the best for one metric ``root root'`` at all pixels."""
    first = weights.mean(1, keepdims=True)[:, :plain]
    left, values, right = np.linalg.svd((weights - first.sum(1, keepdims=True)) @ root, full_matrices=False)
    terms = rank - plain
    gains = np.concatenate([np.ones_like(left[:, :, :plain]), left[:, :, :terms] * values[:, None, :terms]], axis=2)
    return gains, np.concatenate([first, right[:, :terms] @ np.linalg.inv(root)], axis=1)


def _refined(
    weights: np.ndarray, metric: np.ndarray, gains: np.ndarray, kernels: np.ndarray, plain: int
) -> tuple[np.ndarray, np.ndarray]:
    """Alternating least squares with a metric of its own at every pixel: gains for given kernels, and the reverse."""
    channels, pixels, taps = weights.shape
    rank, flat = kernels.shape[1], metric.reshape(channels, pixels, taps * taps)
    answers = _answers(weights, metric)
    for _ in range(ROUNDS):
        pairs = np.einsum("crt,csu->cturs", kernels, kernels).reshape(channels, taps * taps, rank * rank)
        squares = (flat @ pairs).reshape(channels, pixels, rank, rank)
        aims = answers @ kernels.transpose(0, 2, 1) - squares[..., :plain].sum(-1)
        gains[:, :, plain:] = _solved(squares[:, :, plain:, plain:], aims[:, :, plain:])
        pairs = np.einsum("cpr,cps->crsp", gains, gains).reshape(channels, rank * rank, pixels)
        squares = (pairs @ flat).reshape(channels, rank, rank, taps, taps).transpose(0, 1, 3, 2, 4)
        aims = (gains.transpose(0, 2, 1) @ answers).reshape(channels, rank * taps)
        kernels = _solved(squares.reshape(channels, rank * taps, rank * taps), aims).reshape(kernels.shape)
    return gains, kernels


def _solved(matrices: np.ndarray, aims: np.ndarray) -> np.ndarray:
    """``matrices x = aims`` for positive semidefinite matrices of any size; where they are zero so is ``x``."""
    scale = np.sqrt(np.maximum(np.einsum("...ii->...i", matrices), 1e-200))
    scaled = matrices / scale[..., :, None] / scale[..., None, :] + 1e-9 * np.eye(matrices.shape[-1])
    return np.linalg.solve(scaled, (aims / scale)[..., None])[..., 0] / scale


def _answers(kernels: np.ndarray, metric: np.ndarray) -> np.ndarray:
    return (metric @ kernels[..., None])[..., 0]


def _energy(kernels: np.ndarray, metric: np.ndarray) -> np.ndarray:
    return np.sum(_answers(kernels, metric) * kernels, axis=(1, 2))


def _balanced(gains: np.ndarray, kernels: np.ndarray, plain: int) -> tuple[np.ndarray, np.ndarray]:
    """Gains and their kernels of one size, which suits few bits better than kernels of unit length."""
    tiny = np.finfo(float).tiny
    half = np.sqrt(np.maximum(np.linalg.norm(gains, axis=1), tiny) / np.maximum(np.linalg.norm(kernels, axis=2), tiny))
    half[:, :plain] = 1
    return gains / half[:, None], kernels * half[:, :, None]
