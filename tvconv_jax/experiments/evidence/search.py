"""The choice of a learning rate: from coarse to fine, until the best one has worse ones on both sides."""

from collections.abc import Mapping, Sequence

# Exponents of half decades: -6 is 1e-3, -5 is 3.2e-3, -4 is 1e-2.
COARSE = (-6, -4, -2)
LOWEST, HIGHEST = -10, 2
Quality = tuple[float, float]  # score on the held-out part, and minus the loss there, which decides ties


def value(exponent: int) -> float:
    """Return the number of a half decade, to two digits."""
    return float(f"{10 ** (exponent / 2):.1e}")


def next_exponent(found: Mapping[int, Quality], coarse: Sequence[int] = COARSE) -> int | None:
    """Return the next exponent to try; ``None`` when both neighbors of the best one were tried."""
    for exponent in coarse:
        if exponent not in found:
            return exponent
    chosen = best(found)
    for exponent in (chosen - 1, chosen + 1):
        if exponent not in found and LOWEST <= exponent <= HIGHEST:
            return exponent
    return None


def best(found: Mapping[int, Quality]) -> int:
    """Return the exponent with the best score; of equal ones that with the smaller loss, then the smaller one."""
    return max(sorted(found), key=lambda exponent: found[exponent])
