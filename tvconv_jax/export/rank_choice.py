"""Choice of a rank by its accuracy: the cheapest whose loss is allowed, or is within its own standard error.

This is the one-standard-error rule (Breiman et al. 1984, "Classification and Regression Trees"), with an error that is
paired: two models are compared on the same verification pairs or test images, one by one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tvconv_jax.export.graph import Graph
from tvconv_jax.export.low_rank import Rank, likely_order
from tvconv_jax.export.quantize import Precision, quantize, stored_size
from tvconv_jax.metrics.paired import Comparison, Loss, paired_loss
from tvconv_jax.utils.errors import UserError

MAX_LOSS = 0.2  # default of --max-loss, percentage points
MAX_ERROR = 1.0  # percentage points that a standard error excuses at most
STEPS = 200  # default of --fine-tune for --rank=auto
MAX_TERMS = 4  # more are as large and as slow as exact kernels
SHARED = 10, 17  # layers that share their kernel, of all that can: in MobileNetV2 they cost little
LIKELY = 1.96  # standard errors to each side, 95 %


class Tried(NamedTuple):
    """A candidate that was compared with the exact model."""

    name: str  # the rank as --rank takes it
    rank: Rank | None  # None: exact kernels
    graph: Graph  # in its precision
    score: float  # mean accuracy or Dice, 0 to 1
    loss: Loss  # percentage points
    size: int  # bytes of the weights


class Choice(NamedTuple):
    """Candidates that were tried; the last one is taken."""

    exact: Tried  # in float32
    tried: tuple[Tried, ...]
    left: tuple[Rank | None, ...]  # not tried: larger or slower than the one taken
    comparison: Comparison
    max_loss: float  # percentage points
    steps: int  # of fine-tuning

    @property
    def taken(self) -> Tried:
        """The last candidate that was tried."""
        return self.tried[-1]

    @property
    def rows(self) -> list[Tried]:
        """The exact model, and what was compared with it."""
        return [self.exact, *(one for one in self.tried if one is not self.exact)]


def candidates(exact: Graph) -> list[Rank]:
    """Return the ranks that are tried, from small and fast to large and slow: 1:10, 2:10, 1, 2, 3, 4 of MobileNetV2.

    Another model shares the kernel of as large a part of its layers. The order is that of size, and of speed in
    onnxruntime (docs/appendix/export_speed.md).
    """
    taps = [node.arrays["weights"].shape[2] for node in exact.nodes if node.kind == "per_pixel"]
    can, of = SHARED
    shared = len(likely_order(exact)) * can // of
    terms = range(1, min(MAX_TERMS, max(taps) - 1) + 1) or [1]
    return [Rank(number, shared) for number in terms[:2] if shared] + [Rank(number) for number in terms]


def allowed_loss(error: float, max_loss: float) -> float:
    """Return the loss that is allowed beside a standard error, all in percentage points."""
    return max(max_loss, min(error, MAX_ERROR))


def check_comparison(exact: Graph, comparison: Comparison | None, max_loss: float) -> None:
    """Raise a ``UserError`` unless there are test items enough to tell the loss that is allowed."""
    hint = f"give a rank yourself, --rank={candidates(exact)[0]} --fine-tune={STEPS}"
    if comparison is None:
        raise UserError(f"--rank=auto judges by verification pairs or test images, and this run has none: {hint}.")
    if len(comparison.weights) < 2:
        raise UserError(f"--rank=auto needs two {comparison.items} or more to judge by: {hint}.")
    one = 100 * comparison.resolution
    if one > (most := max(max_loss, MAX_ERROR)):
        raise UserError(
            f"--rank=auto may lose {most:g} points, and one of the run's {len(comparison.weights)} {comparison.items} "
            f"is {one:.2g} points, too much to judge by; {hint}, or allow --max-loss={np.ceil(10 * one) / 10:g}."
        )


def choose(
    exact: Graph,
    of_rank: Callable[[Rank], Graph],
    score: Callable[[Graph], np.ndarray],
    comparison: Comparison,
    *,
    max_loss: float,
    steps: int,
    precision: Precision,
) -> Choice:
    """Compare candidates with the exact model, the cheapest first, and take the first whose loss is allowed.

    Args:
        exact: The exact graph.
        of_rank: Returns the fine-tuned graph of a rank.
        score: Returns a graph's scores on the items of ``comparison``.
        comparison: The items.
        max_loss: Percentage points that may be lost in any case.
        steps: Of fine-tuning, for the record.
        precision: Of the candidates' weights.

    Raises:
        UserError: If the exact kernels lose too much in that precision.
    """
    ranks, tried, expected = [*candidates(exact), None], [], score(exact)
    accuracy, size = float(comparison.weights @ expected), stored_size(exact, "float32")
    base = Tried("exact", None, exact, accuracy, Loss(0.0, 0.0), size)
    for rank in ranks:
        if rank is None and precision == "float32":
            tried.append(base)
        else:
            graph = quantize(of_rank(rank) if rank else exact, precision)
            tried.append(_compared(rank, graph, precision, expected, score(graph), comparison))
            loss, error = tried[-1].loss
            print(f"rank {tried[-1].name}: {loss:.2f} ± {error:.2f} points lost", flush=True)
        if tried[-1].loss.mean <= allowed_loss(tried[-1].loss.error, max_loss):
            return Choice(base, tuple(tried), tuple(ranks[len(tried) :]), comparison, max_loss, steps)
    raise UserError(
        f"--rank=auto: in {precision} even exact kernels lose {loss:.2f} ± {error:.2f} points, of {accuracy:.2%}; "
        f"allow a larger --max-loss, or choose another --precision."
    )


def _compared(
    rank: Rank | None,
    graph: Graph,
    precision: Precision,
    expected: np.ndarray,
    found: np.ndarray,
    comparison: Comparison,
) -> Tried:
    loss = paired_loss(100 * expected, 100 * found, comparison.weights, resolution=100 * comparison.resolution)
    name = str(rank) if rank else f"exact {precision}"
    return Tried(name, rank, graph, float(comparison.weights @ found), loss, stored_size(graph, precision))


def describe(choice: Choice, speeds: dict[str, float]) -> list[str]:
    """Return a table of the candidates and the reason for the one that was taken, in lines.

    Args:
        choice: From :func:`choose`.
        speeds: In onnxruntime, over exact kernels, by name of the candidate; empty if they were not measured.
    """
    items = f"{len(choice.comparison.weights):,} {choice.comparison.items}"
    tuned = f"after {choice.steps} steps of fine-tuning" if choice.steps else "without fine-tuning"
    speed = "; speed in onnxruntime here, batches 1 and 8 added" if speeds else ""
    lines = [f"--rank=auto compared on {items}, {tuned} (MB of weights{speed}):"]
    lines.append(
        f"  {'rank':<14}{choice.comparison.measure:>9}  {'points lost':<15}{'MB':>6}" + "   speed" * bool(speeds)
    )
    for one in choice.rows:
        lost = "" if one is choice.exact else f"{one.loss.mean:.2f} ± {one.loss.error:.2f}"
        row = f"  {one.name:<14}{one.score:>9.2%}  {lost:<15}{one.size / 1e6:>6.2f}"
        speed = f"{speeds[one.name]:>7.1f}x" if speeds else ""
        lines.append(row + speed + ("  taken" if one is choice.taken else ""))
    return lines + _reasons(choice, items)


def _reasons(choice: Choice, items: str) -> list[str]:
    if choice.taken is choice.exact:
        return ["every low rank loses more than is allowed: exact kernels are kept; --formats=native runs them fast"]
    loss, error = choice.taken.loss
    most = f"{allowed_loss(error, choice.max_loss):.2f} points: the larger of --max-loss, {choice.max_loss:g}, and its"
    lines = [f"{choice.taken.name} is the first in order of cost that loses at most {most} error, up to {MAX_ERROR:g}"]
    low, high, kind = loss - LIKELY * error, loss + LIKELY * error, choice.comparison.items
    lines.append(f"as far as {items} can tell, it loses {low:.2f} to {high:.2f} points (95 %, {kind} independent)")
    if error > MAX_ERROR:
        lines.append(f"that is too wide to rely on: {items} are few, so judge it on more before you deploy it")
    left = ", ".join(str(rank or "exact") for rank in choice.left)
    return [*lines, f"not tried, since larger or slower: {left}"] if left else lines


def record(choice: Choice, speeds: dict[str, float]) -> dict[str, Any]:
    """Return the same figures for an artifact's metadata."""
    rows = [
        {
            "rank": one.name,
            choice.comparison.measure: one.score,
            "points_lost": one.loss.mean,
            "standard_error": one.loss.error,
            "bytes": one.size,
            "relative_speed": speeds.get(one.name),
        }
        for one in choice.rows
    ]
    about = {"items": choice.comparison.items, "count": len(choice.comparison.weights), "max_loss": choice.max_loss}
    return {**about, "fine_tune_steps": choice.steps, "max_error": MAX_ERROR, "tried": rows}
