"""Ten-fold verification of pairs of embeddings, in NumPy."""

import dataclasses
from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np

from tvconv_jax.metrics.roc import check_both, check_same

Protocol = Literal["reference", "standard"]

FOLDS = 10
# The reference's thresholds on the squared distance: -3, -2.9997, ..., 3.
REFERENCE_THRESHOLDS = np.arange(-10_000, 10_001) * 3.0 / 10_000
# TAR is taken at one false accept in this many pairs of different identities.
FALSE_ACCEPTS_ONE_IN = 1000


@dataclasses.dataclass(frozen=True)
class Verification:
    """Result of :func:`ten_fold`."""

    accuracy: float  #: Mean of ``folds``, 0..1.
    std: float  #: Standard deviation of ``folds`` (of the ten as the whole population).
    threshold: float  #: Mean of ``thresholds``.
    tar: float  #: True accept rate at a false accept rate of 1e-3 over all pairs, see :func:`true_accept_rate`.
    folds: tuple[float, ...]  #: Accuracy on each fold, 0..1.
    #: Threshold chosen for each fold on the nine others. ``"reference"``: squared distance, same if below.
    #: ``"standard"``: cosine, same if above.
    thresholds: tuple[float, ...]
    protocol: Protocol  #: The arithmetic.


def ten_fold(
    left: np.ndarray, right: np.ndarray, same: np.ndarray, folds: np.ndarray, *, protocol: Protocol = "reference"
) -> Verification:
    """Compute the verification accuracy, with the threshold of each fold chosen on the nine others.

    ``"reference"`` is the arithmetic of the TVConv reference, bit for bit, in float32: each fold subtracts the mean
    embedding of the nine others and normalizes again, and the subtractions accumulate over the folds; distances are
    squared; the threshold is the mean of the best of 20,001 in [-3, 3]. Embeddings are normalized first.

    ``"standard"`` takes the cosine. Candidates are the midpoints between neighboring scores of the nine folds and one
    beyond each end; of several best ones the middle is taken (the lower of two). Average each embedding with that of
    the mirrored image before, as is usual.

    Args:
        left: Embeddings of each pair's first image, ``[n, d]``, floating.
        right: Embeddings of the second, same shape.
        same: ``[n]`` boolean, whether the pair shows one identity.
        folds: Fold of each pair, ``[n]`` integers 0..9, none empty.
        protocol: ``"reference"`` or ``"standard"``.

    Raises:
        ValueError: If a shape, dtype, fold or protocol does not fit, or an embedding is not finite.

    Source: github.com/JierunChen/TVConv (609d4bf), face_recognition/utils; ten folds as in Huang et al. 2007,
    "Labeled Faces in the Wild".
    """
    if protocol not in get_args(Protocol):
        raise ValueError(f"protocol={protocol!r} is unknown; there are: {', '.join(get_args(Protocol))}.")
    left, right, same, folds = (np.asarray(a) for a in (left, right, same, folds))
    _check(left, right, same, folds)
    # numpy sums in an order that depends on the memory layout: fix it.
    left, right = (_unit(np.ascontiguousarray(a, dtype=np.float32)) for a in (left, right))
    run = _reference_folds if protocol == "reference" else _standard_folds
    accuracies, thresholds = (np.array(column) for column in zip(*run(left, right, same, folds), strict=True))
    return Verification(
        accuracy=float(np.mean(accuracies)),
        std=float(np.std(accuracies)),
        threshold=float(np.mean(thresholds)),
        tar=true_accept_rate(_cosines(left, right), same),
        folds=tuple(accuracies.tolist()),
        thresholds=tuple(thresholds.tolist()),
        protocol=protocol,
    )


def true_accept_rate(scores: np.ndarray, same: np.ndarray) -> float:
    """Compute the true accept rate at a false accept rate of 1e-3.

    Nothing is interpolated: of ``m`` pairs of different identities ``m // 1000`` may be accepted (none if there are
    fewer than 1000). The threshold is the highest score of the others; a pair is accepted if its score is above it.

    Args:
        scores: ``[n]``, higher is more similar (:func:`ten_fold` passes cosines under both protocols).
        same: ``[n]`` boolean, with both values.

    Raises:
        ValueError: If ``same`` is not boolean, or a score not finite.
    """
    check_same(same, scores)
    different = np.sort(scores[~same])[::-1]
    return float(np.mean(scores[same] > different[len(different) // FALSE_ACCEPTS_ONE_IN]))


def cosine_scores(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Compute the cosine of each pair of embeddings ``[n, d]``, float64 ``[n]``, as :func:`ten_fold` does."""
    return _cosines(*(_unit(np.ascontiguousarray(a, dtype=np.float32)) for a in (left, right)))


def correct_pairs(scores: np.ndarray, same: np.ndarray, folds: np.ndarray, thresholds: tuple[float, ...]) -> np.ndarray:
    """Return whether each pair is correct, boolean ``[n]``, as :func:`ten_fold` counts it under ``"standard"``.

    Args:
        scores: Cosines ``[n]``, from :func:`cosine_scores`.
        same: ``[n]`` boolean.
        folds: ``[n]`` integers 0..9.
        thresholds: Of the ten folds, from :func:`ten_fold`.
    """
    return (scores > np.asarray(thresholds)[folds]) == same


def pair_weights(folds: np.ndarray) -> np.ndarray:
    """Return the share of each pair in :func:`ten_fold`'s accuracy, ``[n]``: folds count equally."""
    return 1 / (FOLDS * np.bincount(folds, minlength=FOLDS)[folds])


def _reference_folds(
    left: np.ndarray, right: np.ndarray, same: np.ndarray, folds: np.ndarray
) -> Iterator[tuple[float, float]]:
    """Yield the accuracy and the threshold of each fold."""
    for fold in range(FOLDS):
        held_out = folds == fold
        mean = np.mean(np.concatenate([left[~held_out], right[~held_out]]), axis=0)
        left, right = _recentered(left, mean), _recentered(right, mean)
        scores = np.sum(np.square(left - right), axis=1)
        best = _correct(scores[~held_out], same[~held_out], REFERENCE_THRESHOLDS)
        threshold = np.mean(REFERENCE_THRESHOLDS[best == np.max(best)])
        correct = _correct(scores[held_out], same[held_out], threshold)
        yield correct / np.sum(held_out), threshold


def _recentered(x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return ``x - mean`` with rows of unit length."""
    x = x - mean
    # A row equal to the mean becomes nan, which counts as wrong whatever the threshold, as in the reference.
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.divide(x, np.sqrt(np.sum(np.square(x), axis=1, keepdims=True)), out=x)


def _correct(distances: np.ndarray, same: np.ndarray, thresholds: np.ndarray | float) -> np.ndarray:
    """Count the correct pairs for each threshold: same below it, different above it; equal is neither."""
    # float64 holds float32 exactly, and the thresholds are float64. Not a number is neither below nor above.
    same_scores, different_scores = (
        np.sort(distances[kind & ~np.isnan(distances)].astype(np.float64)) for kind in (same, ~same)
    )
    below = np.searchsorted(same_scores, thresholds, side="left")
    above = len(different_scores) - np.searchsorted(different_scores, thresholds, side="right")
    return below + above


def _standard_folds(
    left: np.ndarray, right: np.ndarray, same: np.ndarray, folds: np.ndarray
) -> Iterator[tuple[float, float]]:
    """Yield the accuracy and the threshold of each fold."""
    scores = _cosines(left, right)
    for fold in range(FOLDS):
        held_out = folds == fold
        # Midpoints between neighboring distinct scores, and one beyond each end, ascending.
        distinct = np.unique(scores[~held_out])
        candidates = np.concatenate([distinct[:1] - 1, (distinct[:-1] + distinct[1:]) / 2, distinct[-1:] + 1])
        correct = _correct(-scores[~held_out], same[~held_out], -candidates)
        best = np.flatnonzero(correct == np.max(correct))
        threshold = candidates[best[(len(best) - 1) // 2]]
        yield np.mean((scores[held_out] > threshold) == same[held_out]), threshold


def _cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the cosine of each pair of unit rows, in float64 so that ties are exact."""
    return np.einsum("nd,nd->n", left, right, dtype=np.float64)


def _unit(x: np.ndarray) -> np.ndarray:
    """Return ``x`` with rows of unit length; if all have it already, their bits stay."""
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.sqrt(np.sum(np.square(x), axis=1, keepdims=True))
    if bad := int(np.sum(~np.isfinite(lengths))):  # divided by an infinite length, a row would be zeros
        raise ValueError(f"{bad} rows of {len(x)} embeddings are not finite, or too long for float32; all must fit.")
    if np.all(np.abs(lengths - 1) < 1e-5):
        return x
    return x / np.maximum(lengths, np.finfo(np.float32).tiny)


def _check(left: np.ndarray, right: np.ndarray, same: np.ndarray, folds: np.ndarray) -> None:
    if left.ndim != 2 or left.shape != right.shape:
        raise ValueError(f"left and right have shapes {left.shape} and {right.shape}; both must be [n, d].")
    for name, value in (("same", same), ("folds", folds)):
        if value.shape != left.shape[:1]:
            raise ValueError(f"{name} has shape {value.shape}; it must be [n], here ({len(left)},).")
    for name, value in (("left", left), ("right", right)):
        if not np.issubdtype(value.dtype, np.floating):
            raise ValueError(f"{name} is {value.dtype}; it must be floating.")
        bad = int(np.sum(~np.all(np.isfinite(value), axis=1)))
        if bad:
            raise ValueError(f"{name} has {bad} rows of {len(value)} that are not finite; all must be.")
    check_same(same)
    check_both(same)
    if not np.issubdtype(folds.dtype, np.integer) or not np.array_equal(np.unique(folds), np.arange(FOLDS)):
        raise ValueError(f"folds are {np.unique(folds).tolist()[:12]}; they must be 0 to 9, each with pairs.")
