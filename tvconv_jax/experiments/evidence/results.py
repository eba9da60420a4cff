"""Results from the lines of the evidence: scores over seeds, leads with intervals, chosen learning rates."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tvconv_jax.experiments.evidence.record import Line, Record, unpack, unpack_groups
from tvconv_jax.metrics.paired import Interval, bootstrap_lead

BASE = "depthwise"
FAILED = 0.1  # a seed so far below the best one of its cell hardly learned


class Cell(NamedTuple):
    """A variant on a set."""

    scores: tuple[float, ...]  # of the seeds, 0 to 1
    lead: Interval | None  # over the depthwise convolution; None of itself, or if that has no run
    rate: float  # chosen learning rate
    macs: int
    params: int

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))

    @property
    def std(self) -> float:
        """Standard deviation of a sample of seeds; 0 of one seed."""
        return float(np.std(self.scores, ddof=1)) if len(self.scores) > 1 else 0.0

    @property
    def failed(self) -> int:
        """Number of seeds that are at least :data:`FAILED` below the best one."""
        return sum(score <= max(self.scores) - FAILED for score in self.scores)


class Curve(NamedTuple):
    """Scores on the held-out part, by learning rate."""

    rates: Sequence[float]
    scores: Sequence[float]


def sets_of(record: Record) -> list[Line]:
    """Return the lines of the sets that have runs, the most fixed layout first."""
    used = {line["set"] for kind in ("rate", "final") for line in record.lines[kind].values()}
    found = [line for line in record.lines["set"].values() if line["set"] in used]
    return sorted(found, key=lambda line: -line["explained"])


def variants_in(record: Record) -> list[str]:
    """Return the variants that have runs, in the order of their first one."""
    lines = [line for kind in ("rate", "final") for line in record.lines[kind].values()]
    return list(dict.fromkeys(line["variant"] for line in lines))


def curve(record: Record, name: str, variant: str) -> Curve:
    """Return the scores of the runs that chose the learning rate, means over the seeds that were tried."""
    found = {}
    for by_seed in record.rates(name, variant).values():
        lines = list(by_seed.values())
        found[lines[0]["rate"]] = float(np.mean([line["score"] for line in lines]))
    return Curve(sorted(found), [found[rate] for rate in sorted(found)])


def cell(record: Record, about: Line, variant: str) -> Cell | None:
    """Return the outcome of a variant on a set; ``None`` if no final run ended."""
    lines = list(record.finals(about["set"], variant).values())
    if not lines:
        return None
    scores, base = _scores(lines, about), list(record.finals(about["set"], BASE).values())
    lead = None
    if base and variant != BASE:
        lead = bootstrap_lead(scores, _scores(base, about), unpack_groups(about["groups"], about["items"]))
    numbers = (lines[0]["rate"], lines[0]["macs"], lines[0]["params"])
    return Cell(tuple(map(float, scores.mean(axis=1))), lead, *numbers)


def _scores(lines: Sequence[Line], about: Line) -> np.ndarray:
    return np.stack([unpack(line["items"], about["items"]) for line in lines])
