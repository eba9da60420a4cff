"""Comparison of two models on the same test items, in NumPy."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Comparison(NamedTuple):
    """Test items on which two models are compared, one by one."""

    scores: Callable[[Callable], np.ndarray]  # of a function of uint8 images, [n], 0 to 1: a pair is correct, or Dice
    weights: np.ndarray  # [n], of sum 1
    items: str  # "pairs" or "images"
    measure: str  # what the weighted mean of the scores is: "accuracy" or "Dice"
    resolution: float  # least standard error that is believed: of pairs the weight of one


class Loss(NamedTuple):
    """Mean score that a model loses to another one, and its standard error."""

    mean: float
    error: float


def paired_loss(exact: np.ndarray, other: np.ndarray, weights: np.ndarray, *, resolution: float = 0.0) -> Loss:
    """Compute the weighted mean of the differences of two models' scores, item by item, and its standard error.

    Items on which the models agree add nothing to the error. With equal weights it is the standard deviation of the
    ``n`` differences (of a sample: ``n - 1``) over the root of ``n``. Items count as independent.

    Args:
        exact: Scores ``[n]`` of the model that is compared with; of pairs 1 is correct and 0 wrong.
        other: Scores ``[n]`` of the other model, of the same items.
        weights: ``[n]``, of sum 1.
        resolution: The least error; of pairs the weight of one, since no change among ``n`` pairs does not mean that
            there is none.

    Raises:
        ValueError: If there are fewer than two items, or numbers of items differ.
    """
    exact, other, weights = (np.asarray(a, np.float64) for a in (exact, other, weights))
    if not exact.shape == other.shape == weights.shape or exact.ndim != 1 or len(exact) < 2:
        raise ValueError(f"scores and weights {exact.shape}, {other.shape}, {weights.shape} must be [n], n at least 2.")
    differences = exact - other
    mean = float(weights @ differences)
    variance = np.sum(np.square(weights * (differences - mean))) * len(exact) / (len(exact) - 1)
    return Loss(mean, max(float(np.sqrt(variance)), resolution))


class Interval(NamedTuple):
    """Mean difference of two models and its 95 % interval."""

    mean: float
    low: float
    high: float


def bootstrap_lead(
    scores: np.ndarray, base: np.ndarray, groups: np.ndarray, *, draws: int = 2000, seed: int = 0
) -> Interval:
    """Compute the mean lead of a model over another one on the same test items, and its 95 % bootstrap interval.

    Every draw takes as many groups as there are, with replacement: the same ones for both models, so what is hard for
    both adds nothing. It also takes as many seeds of each model as there are, with replacement. A few seeds drawn so
    vary too little, by the root of ``(seeds - 1) / seeds``, so their deviations are divided by that.

    Args:
        scores: Of the model, ``[seeds, n]``, 0 to 1: an image is correct, or its Dice.
        base: Of the model that it is compared with, ``[other seeds, n]``.
        groups: Group of every item, ``[n]`` integers; the items of a person belong together.
        draws: Number of draws.
        seed: Of the random numbers.

    Raises:
        ValueError: If the shapes do not fit.

    Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3 (percentiles), over clusters.
    """
    scores, base, groups = np.asarray(scores, np.float64), np.asarray(base, np.float64), np.asarray(groups)
    if scores.ndim != 2 or base.ndim != 2 or not scores.shape[1:] == base.shape[1:] == groups.shape or not groups.size:
        raise ValueError(f"scores {scores.shape}, {base.shape} and groups {groups.shape} must be [seeds, n] and [n].")
    numbers = np.unique(groups, return_inverse=True)[1]
    sums = np.stack([np.bincount(numbers, row) for row in (*scores, *base, np.ones(len(groups)))])  # last: sizes
    # Groups with the same sums are drawn together: of images that are right or wrong there are few kinds.
    kinds, counts = np.unique(sums.T, axis=0, return_counts=True)
    random = np.random.default_rng(seed)
    drawn = random.multinomial(counts.sum(), counts / counts.sum(), size=draws) @ kinds  # [draws, seeds + others + 1]
    means = drawn[:, :-1] / drawn[:, -1:]
    ours, others = (_over_seeds(random, part) for part in np.split(means, [len(scores)], axis=1))
    low, high = np.quantile(ours - others, (0.025, 0.975))
    return Interval(float(scores.mean() - base.mean()), float(low), float(high))


def _over_seeds(random: np.random.Generator, by_seed: np.ndarray) -> np.ndarray:
    """Return the mean over drawn seeds of ``[draws, seeds]``."""
    seeds, mean = by_seed.shape[1], by_seed.mean(axis=1)
    if seeds == 1:
        return mean
    chosen = np.take_along_axis(by_seed, random.integers(seeds, size=by_seed.shape), axis=1).mean(axis=1)
    return mean + (chosen - mean) * np.sqrt(seeds / (seeds - 1))
