"""The choice of a learning rate: from coarse to fine, until the best one has worse ones on both sides.

A large rate may score well with one seed and fail with the next one. So the best rate is scored with :data:`SEEDS`
seeds, and of rates that are equal within one standard error of its score the smallest is chosen, with as many seeds. It
is the rule of one standard error (Breiman et al. 1984, "Classification and Regression Trees", section 3.4.3).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

# Exponents of half decades: -6 is 1e-3, -5 is 3.2e-3, -4 is 1e-2.
COARSE = (-6, -4, -2)
LOWEST, HIGHEST = -10, 2
SEEDS = 3


class Quality(NamedTuple):
    """A run's outcome on the held-out part."""

    score: float
    loss: float  # the smaller one decides between equal scores
    error: float  # standard error of the score, over items


Found = Mapping[int, Mapping[int, Quality]]  # by exponent and seed


def value(exponent: int) -> float:
    """Return the number of a half decade, to two digits."""
    return float(f"{10 ** (exponent / 2):.1e}")


def next_run(found: Found, coarse: Sequence[int] = COARSE, seeds: int = 1) -> tuple[int, int] | None:
    """Return the exponent and the seed to try next; ``None`` if :func:`choose` can choose."""
    for exponent in coarse:
        if exponent not in found:
            return exponent, 0
    top = best(found)
    for exponent in (top - 1, top + 1):
        if exponent not in found and LOWEST <= exponent <= HIGHEST:
            return exponent, 0
    for exponent in (top, choose(found)):
        for seed in range(seeds):
            if seed not in found[exponent]:
                return exponent, seed
    return None


def best(found: Found) -> int:
    """Return the exponent with the best mean score; of equal ones that with the smaller loss, then the smaller one."""

    def quality(exponent: int) -> tuple[float, float]:
        score, loss, _ = _mean(found[exponent])
        return score, -loss

    return max(sorted(found), key=quality)


def choose(found: Found) -> int:
    """Return the smallest exponent whose mean score is within one standard error of the best one."""
    score, _, error = _mean(found[best(found)])
    return min(exponent for exponent in found if _mean(found[exponent])[0] >= score - error)


def _mean(runs: Mapping[int, Quality]) -> np.ndarray:
    return np.mean(list(runs.values()), axis=0)
