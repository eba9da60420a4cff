"""The choice of a learning rate: from coarse to fine, until the best one has worse ones on both sides.

A rate at the edge of what trains may score well with one seed and fail with the next one. So the best rate is scored
with :data:`SEEDS` seeds before it is chosen, and the mean decides.
"""

from collections.abc import Mapping, Sequence

import numpy as np

# Exponents of half decades: -6 is 1e-3, -5 is 3.2e-3, -4 is 1e-2.
COARSE = (-6, -4, -2)
LOWEST, HIGHEST = -10, 2
SEEDS = 3
Quality = tuple[float, float]  # score on the held-out part, and minus the loss there, which decides ties
Found = Mapping[int, Mapping[int, Quality]]  # by exponent and seed


def value(exponent: int) -> float:
    """Return the number of a half decade, to two digits."""
    return float(f"{10 ** (exponent / 2):.1e}")


def next_run(found: Found, coarse: Sequence[int] = COARSE, seeds: int = 1) -> tuple[int, int] | None:
    """Return the exponent and the seed to try next; ``None`` if the best one is known.

    It is when both of its neighbors were tried, and it was itself with so many seeds.
    """
    for exponent in coarse:
        if exponent not in found:
            return exponent, 0
    chosen = best(found)
    for exponent in (chosen - 1, chosen + 1):
        if exponent not in found and LOWEST <= exponent <= HIGHEST:
            return exponent, 0
    missing = [seed for seed in range(seeds) if seed not in found[chosen]]
    return (chosen, missing[0]) if missing else None


def best(found: Found) -> int:
    """Return the exponent with the best mean score; of equal ones that with the smaller loss, then the smaller one."""
    return max(sorted(found), key=lambda exponent: tuple(np.mean(list(found[exponent].values()), axis=0)))
