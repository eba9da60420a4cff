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
