"""Scores of maps of labels: Dice, IoU and HD95 by class, their means and bootstrap intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tvconv_jax.metrics.segmentation import Definition, Empty, hd95, overlap

SCORES = ("dice", "iou", "hd95")
LEVEL = 95  # percent of an interval


def scores_by_class(
    pred: np.ndarray,
    true: np.ndarray,
    classes: int,
    *,
    ignore: int | None = None,
    distances: bool = True,
    definition: Definition = "pooled",
    empty: Empty = "diagonal",
) -> np.ndarray:
    """Compute Dice, IoU and HD95 in pixels of every class of one image.

    Args:
        pred: Predicted labels, integers ``[h, w]``.
        true: True labels, the same.
        classes: Number of classes; labels count from 0.
        ignore: True label of pixels that do not count; ``None``: all count.
        distances: Whether to compute HD95; NaN otherwise.
        definition: Of HD95, see :mod:`tvconv_jax.metrics.segmentation`.
        empty: HD95 of a class that only one of the two has, as there.

    Returns:
        ``float64 [classes, 3]``; NaN for a class that neither has.

    Raises:
        ValueError: If the shapes differ.
    """
    counted = np.ones(true.shape, bool) if ignore is None else true != ignore
    rows = np.full((classes, len(SCORES)), np.nan)
    for label in range(classes):
        masks = (pred == label) & counted, (true == label) & counted
        rows[label, :2] = overlap(*masks)
        if distances and not np.isnan(rows[label, 0]):
            rows[label, 2] = hd95(*_cropped(*masks, empty), definition=definition, empty=empty)
    return rows


def _cropped(pred: np.ndarray, true: np.ndarray, empty: Empty) -> tuple[np.ndarray, np.ndarray]:
    """Crop two masks to the pixels of both, which changes no outline; the diagonal of the image needs all of it."""
    if not (pred.any() and true.any()):
        return pred, true
    rows, columns = np.nonzero(pred | true)
    window = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return pred[window], true[window]


def summarize(
    scores: np.ndarray,
    classes: Sequence[str],
    foreground: Sequence[int],
    *,
    groups: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compute means over images by class and over the foreground, ready for JSON; a mean of nothing is ``None``.

    The 95 % intervals are those of a percentile bootstrap over images, or over groups, which are drawn whole.

    Args:
        scores: Of :func:`scores_by_class` for every image, ``[n, k, 3]``; NaN is left out.
        classes: ``k`` names.
        foreground: Labels of the classes over whose means the main figures are the mean.
        groups: ``n`` names of what images have in common, such as the person; ``None``: images are independent.
        bootstrap: Number of resamples; 0: no intervals.
        seed: Seed of the resamples.

    Returns:
        ``mean``, with ``dice``, ``iou``, ``hd95`` and their ``intervals``; ``per_class``, by name the same, and
        ``images``, the number of images that have the class.
    """
    units = np.arange(len(scores)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    figures = _figures(scores, foreground, np.ones((1, len(scores))))[0]
    samples = _figures(scores, foreground, _weights(units, bootstrap, seed)) if bootstrap and units.max() else None
    rows = []
    for row in range(len(classes) + 1):
        found: dict[str, Any] = {name: _json(figures[row, i]) for i, name in enumerate(SCORES)}
        found["intervals"] = {
            name: None if samples is None else _interval(samples[:, row, i]) for i, name in enumerate(SCORES)
        }
        rows.append(found)
    counts = np.sum(~np.isnan(scores[..., 0]), axis=0).tolist()
    per_class = {name: row | {"images": n} for name, row, n in zip(classes, rows[1:], counts, strict=True)}
    return {"mean": rows[0], "per_class": per_class}


def _weights(units: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return how often every image is drawn in each resample, ``[resamples, n]``."""
    random, count = np.random.default_rng(seed), int(units.max()) + 1
    drawn = [np.bincount(random.integers(count, size=count), minlength=count) for _ in range(resamples)]
    return np.array(drawn, np.float32)[:, units]


def _figures(scores: np.ndarray, foreground: Sequence[int], weights: np.ndarray) -> np.ndarray:
    """Return weighted means ``[b, 1 + k, 3]`` over the images: of the foreground, then of every class."""
    flat = scores.reshape(len(scores), -1)
    known = ~np.isnan(flat)
    with np.errstate(invalid="ignore", divide="ignore"):  # of a class that no image has
        means = (weights @ np.where(known, flat, 0)) / (weights @ known.astype(np.float64))
    means = means.reshape(len(weights), *scores.shape[1:])
    return np.concatenate([_nanmean(means[:, list(foreground)]), means], axis=1)


def _nanmean(values: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, values, 0).sum(axis=1, keepdims=True) / known.sum(axis=1, keepdims=True)


def _json(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _interval(values: np.ndarray) -> list[float] | None:
    values = values[~np.isnan(values)]
    return np.percentile(values, [50 - LEVEL / 2, 50 + LEVEL / 2]).tolist() if values.size else None
