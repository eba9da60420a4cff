"""The ROC curve of verification pairs, in NumPy."""

from typing import NamedTuple

import numpy as np


class Roc(NamedTuple):
    """An ROC curve from (0, 0), where no pair is accepted, to (1, 1), where all are."""

    false_accept: np.ndarray  # false accept rate (different identities), [p], 0..1
    true_accept: np.ndarray  # true accept rate (same identity), [p], 0..1
    area: float  # area under the curve, ties counted half
    equal_error: float  # equal error rate


def roc(scores: np.ndarray, same: np.ndarray) -> Roc:
    """Compute the ROC curve over all thresholds.

    Args:
        scores: ``[n]``, higher is more alike; finite.
        same: ``[n]`` boolean; both kinds must be there.

    Raises:
        ValueError: If all pairs are of one kind, ``same`` is not boolean, or a score not finite.

    Source: Fawcett, "An introduction to ROC analysis", Pattern Recognition Letters 2006, algorithms 1 and 2.
    """
    check_same(same, scores)
    check_both(same)
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # the last pair of each score
    true = np.concatenate([[0], np.cumsum(same[order])[last]]) / np.sum(same)
    false = np.concatenate([[0], np.cumsum(~same[order])[last]]) / np.sum(~same)
    return Roc(false, true, float(np.trapezoid(true, false)), _equal_error(false, true))


def check_same(same: np.ndarray, scores: np.ndarray | None = None) -> None:
    """Raise a ``ValueError`` for flags that are not boolean, or scores that are not finite."""
    if scores is not None and not np.all(np.isfinite(scores)):
        raise ValueError(f"{int(np.sum(~np.isfinite(scores)))} scores of {len(scores)} are not finite; all must be.")
    if same.dtype != bool:
        raise ValueError(f"same is {same.dtype}; it must be bool. Flags of 1 and -1 become so by flags == 1.")


def check_both(same: np.ndarray) -> None:
    """Raise a ``ValueError`` if all pairs are of one kind."""
    if np.all(same) or not np.any(same):
        raise ValueError(f"same is {bool(np.any(same))} throughout; both kinds of pairs must be there.")


def _equal_error(false: np.ndarray, true: np.ndarray) -> float:
    """Return the rate where the curve, linear between its points, meets ``false = 1 - true``."""
    excess = false + true - 1  # grows from -1 to 1
    after = int(np.argmax(excess >= 0))
    share = -excess[after - 1] / (excess[after] - excess[after - 1])
    return float(false[after - 1] + share * (false[after] - false[after - 1]))


def accepted_at(curve: Roc, false_accept: np.ndarray | float) -> np.ndarray:
    """Return the true accept rate at false accept rates of any shape, both 0..1; nothing is interpolated."""
    rounding = 1e-12  # 0.3 is less than 3 / 10
    last = np.searchsorted(curve.false_accept, np.asarray(false_accept) + rounding, side="right") - 1
    return curve.true_accept[last]
