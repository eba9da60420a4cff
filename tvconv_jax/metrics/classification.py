"""Scores of a classifier with bootstrap intervals, and its temperature.

The scores are scikit-learn's; the expected calibration error, which it lacks, and the bootstrap are here.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

BINS = 15  # of the expected calibration error
MAIN = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "average_precision", "log_loss", "ece")
OF_CLASS = ("precision", "recall", "f1")
MAX_RANKED = 100  # classes up to which the AUROC, the slowest of the figures, has an interval
TEMPERATURES = (0.05, 20.0)  # least and largest

Figure = Callable[[np.ndarray], float]
Figures = Callable[[np.ndarray], np.ndarray]


def evaluate(
    probabilities: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    positive: str | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compute the scores of a classifier, ready for JSON: a score that is not defined is ``None``.

    Averages over classes leave out classes for which the score is not defined, as the recall of a class without images
    is. The AUROC of more than two classes is the mean over classes, each against the rest. The 95 % intervals are those
    of a percentile bootstrap over images, or over groups, which are drawn whole; there is none for a single one.

    Args:
        probabilities: ``[n, k]``, rows of sum 1.
        labels: ``[n]`` integers, the true classes.
        classes: ``k`` names.
        groups: ``n`` names of what images have in common, such as the person; ``None``: images are independent.
        positive: Of two classes the one that AUROC and average precision look for; default: the last one.
        bootstrap: Number of resamples; 0: no intervals.
        seed: Seed of the resamples.

    Returns:
        ``images``, ``groups`` (their number or ``None``), ``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``auroc``,
        ``log_loss`` (natural logarithm), ``ece``; of two classes ``positive`` and ``average_precision`` too;
        ``intervals``, by score ``[low, high]`` or ``None``; ``per_class``, by name ``precision``, ``recall``, ``f1``,
        ``count`` and ``intervals``; ``confusion``, by true class the counts of every predicted class.

    Raises:
        ValueError: If shapes, values or names do not fit together.
    """
    probabilities = _checked(probabilities, labels, classes, groups)
    if positive is not None and (len(classes) != 2 or positive not in classes):
        raise ValueError(f"positive={positive!r} must be one of two classes; the classes are {', '.join(classes)}.")
    looked_for = None if len(classes) != 2 else 1 if positive is None else list(classes).index(positive)
    main, of_class, confusion = _scores(probabilities, labels, looked_for)
    units = np.arange(len(labels)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    intervals = _intervals(_figures(probabilities, labels, looked_for), units, bootstrap, seed)
    names = [name for name in MAIN if name != "average_precision" or looked_for is not None]
    found: dict[str, Any] = {"images": len(labels), "groups": None if groups is None else int(units.max()) + 1}
    if looked_for is not None:
        found["positive"] = classes[looked_for]
    found |= {name: _json(main[name]) for name in names}
    found["intervals"] = {name: _pair(intervals[:, MAIN.index(name)]) for name in names}
    found["per_class"] = {}
    for c, name in enumerate(classes):
        scores = {key: _json(of_class[key][c]) for key in OF_CLASS} | {"count": int(np.sum(labels == c))}
        columns = {key: len(MAIN) + i * len(classes) + c for i, key in enumerate(OF_CLASS)}
        scores["intervals"] = {key: _pair(intervals[:, column]) for key, column in columns.items()}
        found["per_class"][name] = scores
    return found | {"confusion": confusion.tolist()}


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fit the temperature by which logits are divided before the softmax, on images that were not trained on.

    It minimizes the log loss, with one more image than there are whose class is unknown: so it stays moderate where all
    images are classified correctly. It lies between 0.05 and 20.

    Args:
        logits: ``[n, k]``.
        labels: ``[n]`` integers.

    Raises:
        ValueError: If shapes do not fit together, or a number is not finite.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017; the image more after Platt,
    "Probabilistic Outputs for Support Vector Machines", 1999.
    """
    from scipy import optimize, special  # late: the layers do not need it

    logits = np.asarray(logits, np.float64)
    _check_pairs("logits", logits, labels)
    unknown = 1 / (len(labels) + 1)
    wanted = (1 - unknown) * logits[np.arange(len(labels)), labels] + unknown * logits.mean(axis=1)

    def loss(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        return float(np.mean(special.logsumexp(logits / temperature, axis=1) - wanted / temperature))

    bounds = tuple(map(math.log, TEMPERATURES))
    return float(math.exp(optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))


def with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probabilities ``[n, k]`` of the same logits divided by a temperature more.

    A temperature of ``1 / T`` undoes one of ``T``.
    """
    from scipy import special

    with np.errstate(divide="ignore"):  # of a probability of 0, which stays 0
        return special.softmax(np.log(np.asarray(probabilities, np.float64)) / temperature, axis=1)


def calibration_bins(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the bins of the calibration error that hold images, by confidence, of 15 equally wide ones.

    Args:
        probabilities: ``[n, k]``; the confidence is the largest one of an image.
        labels: ``[n]`` integers.

    Returns:
        ``[bins, 3]``: mean confidence, share of correct images, number of images.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bins = _bins(confidence)
    counts = np.bincount(bins, minlength=BINS)
    sums = [np.bincount(bins, values, BINS) for values in (confidence, correct)]
    return np.stack([*(total[counts > 0] / counts[counts > 0] for total in sums), counts[counts > 0]], axis=1)


def ece(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Compute the expected calibration error: how far confidence is from accuracy, on average over images.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3, with 15 equally wide bins.
    """
    confidence, accuracy, counts = calibration_bins(probabilities, labels).T
    return float(np.sum(counts * np.abs(confidence - accuracy)) / np.sum(counts))


def _bins(confidence: np.ndarray) -> np.ndarray:
    """Return the number of the bin of each confidence; a bin holds its upper end."""
    return np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)


def _scores(
    probabilities: np.ndarray, labels: np.ndarray, positive: int | None
) -> tuple[dict[str, float], dict[str, np.ndarray], np.ndarray]:
    """Return scores of all images, scores ``[k]`` by class and the confusion matrix, all of scikit-learn."""
    from sklearn import metrics  # late: the layers do not need it

    numbers = np.arange(probabilities.shape[1])
    predicted = probabilities.argmax(axis=1)
    options = {"labels": numbers, "zero_division": np.nan}
    of_class = metrics.precision_recall_fscore_support(labels, predicted, **options)[:3]
    present = [c for c in numbers if 0 < np.sum(labels == c) < len(labels)]
    ranked = present if positive is None else [positive] if positive in present else []
    aurocs = [metrics.roc_auc_score(labels == c, probabilities[:, c]) for c in ranked]
    found = [] if positive is None else ranked
    precisions = [metrics.average_precision_score(labels == c, probabilities[:, c]) for c in found]
    main = {
        "accuracy": metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": metrics.recall_score(labels, predicted, average="macro", **options),
        "macro_f1": metrics.f1_score(labels, predicted, average="macro", **options),
        "auroc": np.mean(aurocs) if ranked else np.nan,
        "average_precision": np.mean(precisions) if found else np.nan,
        "log_loss": metrics.log_loss(labels, probabilities, labels=numbers),
        "ece": ece(probabilities, labels),
    }
    confusion = metrics.confusion_matrix(labels, predicted, labels=numbers)
    return main, dict(zip(OF_CLASS, of_class, strict=True)), confusion


def _figures(probabilities: np.ndarray, labels: np.ndarray, positive: int | None) -> Figures:
    """Return a function of how often each image is drawn, ``[n]``, to :data:`MAIN` and the scores of the classes.

    They are the scores of :func:`_scores` for images that are there several times or not at all; scikit-learn would
    sort the images anew for each resample.
    """
    count = probabilities.shape[1]
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    correct, bins = predicted == labels, _bins(confidence)
    gaps = confidence - correct
    least = np.finfo(np.float64).eps  # as scikit-learn has it
    losses = -np.log(np.clip(probabilities[np.arange(len(labels)), labels], least, 1 - least))
    numbers = range(count) if positive is None else [positive]
    areas = [_area(probabilities[:, c], labels == c) for c in numbers if count <= MAX_RANKED]
    precisions = [] if positive is None else [_precision(probabilities[:, positive], labels == positive)]

    def figures(drawn: np.ndarray) -> np.ndarray:
        total, drawn = drawn.sum(), drawn.astype(np.float64)
        there, named = (np.bincount(values, drawn, count) for values in (labels, predicted))
        hits = np.bincount(labels, drawn * correct, count)
        recall, f1 = hits / there, 2 * hits / (there + named)
        calibration = np.abs(np.bincount(bins, drawn * gaps, BINS)).sum() / total
        ranks = [np.array([figure(drawn) for figure in parts]) for parts in (areas, precisions)]
        main = [hits.sum() / total, *map(_mean, (recall, f1, *ranks)), drawn @ losses / total, calibration]
        return np.concatenate([main, hits / named, recall, f1])

    return figures


def _area(scores: np.ndarray, true: np.ndarray) -> Figure:
    """Return a function of how often each image is drawn to the AUROC, ``nan`` without both kinds of images."""
    others = np.flatnonzero(~true)[np.argsort(scores[~true], kind="stable")]
    found = np.flatnonzero(true)
    low, high = (np.searchsorted(scores[others], scores[found], side) for side in ("left", "right"))

    def area(drawn: np.ndarray) -> float:
        weights, below = drawn[found], np.append(0.0, np.cumsum(drawn[others]))
        return weights @ (below[low] + below[high]) / (2 * weights.sum() * below[-1])  # equal scores count half

    return area


def _precision(scores: np.ndarray, true: np.ndarray) -> Figure:
    """Return a function of how often each image is drawn to the average precision, ``nan`` without both kinds."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # of equal scores
    flags = true[order]

    def precision(drawn: np.ndarray) -> float:
        drawn = drawn[order]
        hits, seen = np.cumsum(drawn * flags)[last], np.cumsum(drawn)[last]
        found = np.sum(np.diff(hits, prepend=0.0) * hits / np.maximum(seen, 1)) / hits[-1]
        return found if seen[-1] > hits[-1] else np.nan

    return precision


def _intervals(figures: Figures, units: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return the 2.5th and 97.5th percentiles ``[2, scores]`` over resamples of units, ``[n]`` numbers from 0."""
    count, random = int(units.max()) + 1, np.random.default_rng(seed)
    with np.errstate(divide="ignore", invalid="ignore"):  # of classes that a resample lacks
        if count < 2 or resamples < 1:
            return np.full((2, len(figures(np.ones(len(units))))), np.nan)
        drawn = (np.bincount(random.integers(count, size=count), minlength=count)[units] for _ in range(resamples))
        values = np.array([figures(times) for times in drawn])
    found = np.full((2, values.shape[1]), np.nan)
    known = ~np.all(np.isnan(values), axis=0)
    found[:, known] = np.nanpercentile(values[:, known], [2.5, 97.5], axis=0)
    return found


def _mean(values: np.ndarray) -> float:
    """Return the mean of the values that are numbers; ``nan`` of none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else math.nan


def _json(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _pair(values: np.ndarray) -> list[float] | None:
    return None if np.isnan(values).any() else values.tolist()


def _checked(
    probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str], groups: Sequence[str] | None
) -> np.ndarray:
    """Return the probabilities as float64, with rows of sum 1 to its last digits; raise a ``ValueError`` for others."""
    probabilities = np.asarray(probabilities, np.float64)
    _check_pairs("probabilities", probabilities, labels)
    if len(classes) != probabilities.shape[1] or len(set(classes)) != len(classes):
        raise ValueError(f"{len(classes)} class names for {probabilities.shape[1]} columns; each needs its own name.")
    if groups is not None and len(groups) != len(labels):
        raise ValueError(f"{len(groups)} groups for {len(labels)} images; each image needs one.")
    sums = probabilities.sum(axis=1)
    if np.any(probabilities < 0) or np.any(np.abs(sums - 1) > 1e-3):
        raise ValueError("probabilities must not be negative, and the sum of a row must be 1; apply a softmax first.")
    return probabilities / sums[:, None]


def _check_pairs(name: str, values: np.ndarray, labels: np.ndarray) -> None:
    """Raise a ``ValueError`` unless there are finite values ``[n, k]`` of two classes or more, and labels ``[n]``."""
    if values.ndim != 2 or values.shape[1] < 2 or not len(values):
        raise ValueError(f"{name} are {values.shape}; they must be [n, k] with an image and two classes or more.")
    if not np.all(np.isfinite(values)):
        raise ValueError(f"{name} of {int(np.sum(~np.isfinite(values).all(axis=1)))} images are not finite.")
    if labels.shape != values.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(f"labels are {labels.dtype} {labels.shape}; they must be integers [{len(values)}].")
    if labels.min() < 0 or labels.max() >= values.shape[1]:
        raise ValueError(
            f"labels lie in {labels.min()} to {labels.max()}; they must lie in 0 to {values.shape[1] - 1}."
        )
