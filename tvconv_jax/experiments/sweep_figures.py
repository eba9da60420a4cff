"""The paper's Figures 4 and 6 from sweeps: accuracy against multiply-accumulates.

Figure 4 has a panel for every family of models and a line for every operator, its points named by width. Figure 6 has
a point for every setting, named directly.
"""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from tvconv_jax.experiments.sweep_results import Outcome, over_seeds, read_sweeps
from tvconv_jax.report.plot_style import (
    STYLES,
    draw_points,
    label_axes,
    legend_above,
    name_points,
    new_figure,
    save,
)
from tvconv_jax.utils.errors import UserError

LOG_FROM = 4.0  # smallest ratio of the largest to the smallest MACs for a logarithmic axis


def envelope(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes that none with as few MACs equals or exceeds in accuracy, cheapest first.

    Of two with the same MACs and accuracy the first stays.
    """
    best: list[Outcome] = []
    for outcome in sorted(outcomes, key=lambda outcome: (outcome.macs, -outcome.mean)):
        if not best or outcome.mean > best[-1].mean:
            best.append(outcome)
    return best


def figure4(folders: Sequence[Path], out: Path) -> list[Path]:
    """Write ``figure4``: a line for every operator and family, as in a sweep of ``table1``.

    Raises:
        UserError: If the group of a setting does not end in a width, as ``MobileNetV2 x0.1`` does.
    """
    families: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in read_sweeps(folders):
        family, _, width = outcome.group.rpartition(" ")
        if not width.startswith("x"):
            raise UserError(
                f"setting {outcome.group} {outcome.label} names no width, as 'MobileNetV2 x0.1' does; figure6 draws it."
            )
        families[family].append(outcome)
    figure = new_figure()
    panels = figure.subplots(1, len(families), sharey=True, squeeze=False)[0]
    for axes, (family, members) in zip(panels, families.items(), strict=True):
        _draw_lines(axes, members)
        _label(axes, members, family)
        axes.margins(0.3, 0.1)
        axes.label_outer()
    legend_above(figure, panels)
    return save(figure, out, "figure4")


def _draw_lines(axes: Any, outcomes: Sequence[Outcome]) -> None:
    """Draw a line for every label, with the widths above the most accurate one."""
    _draw_envelope(axes, outcomes)
    lines: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in sorted(outcomes, key=lambda outcome: outcome.macs):
        lines[outcome.label].append(outcome)
    for style, (label, line) in zip(cycle(STYLES), lines.items(), strict=False):
        draw_points(axes, *zip(*((o.macs, o.mean, o.std) for o in line), strict=True), label=label, **style)
    for outcome in max(lines.values(), key=lambda line: statistics.fmean(outcome.mean for outcome in line)):
        width, place = outcome.group.rpartition(" ")[2], (outcome.macs, outcome.mean + outcome.std)
        axes.annotate(width, place, xytext=(-4, 4), textcoords="offset points", ha="right")  # the line rises rightward


def figure6(folders: Sequence[Path], out: Path) -> list[Path]:
    """Write ``figure6``: a point for every setting of any sweep."""
    outcomes = read_sweeps(folders)
    figure = new_figure(max(4.5, 0.9 + 0.26 * len(outcomes)))
    _draw_named(figure.subplots(), outcomes)
    return save(figure, out, "figure6")


def _draw_named(axes: Any, outcomes: Sequence[Outcome]) -> None:
    """Draw named points, black on the envelope.

    An outlier far below, such as a run that did not learn, would press the others together: it is a triangle on the
    lower edge, and its name holds its accuracy.
    """
    best = _draw_envelope(axes, outcomes)
    _label(axes, outcomes)
    lower, upper = np.percentile([outcome.mean for outcome in outcomes], [25, 75])
    floor = lower - 1.5 * (upper - lower)  # Tukey's rule for outliers
    ends = [o.mean + sign * o.std for o in outcomes if o.mean >= floor for sign in (-1, 1)]
    room = 0.06 * (max(ends) - min(ends)) or 1.0
    axes.set_ylim(min(ends) - room, max(ends) + room)
    order = sorted(outcomes, key=lambda outcome: outcome.mean)
    heights = [outcome.mean if outcome.mean >= floor else min(ends) - 0.5 * room for outcome in order]
    for number, (outcome, height) in enumerate(zip(order, heights, strict=True)):
        inside = outcome.mean >= floor
        style = {"color": "black", "marker": "o" if inside else "v", "linestyle": "none", "ecolor": "#777777"}
        style["markerfacecolor"] = "black" if outcome in best else "white"
        style["label"] = None if inside or number else "far below"
        draw_points(axes, [outcome.macs], [height], [outcome.std if inside else 0.0], **style)
    names = [f"{outcome.group} {outcome.label} {outcome.mean:.1f}".strip() for outcome in order]
    points = list(zip((outcome.macs for outcome in order), heights, names, strict=True))
    name_points(axes, points, bold=[outcome in best for outcome in order])
    legend_above(axes.figure, [axes])


def _draw_envelope(axes: Any, outcomes: Sequence[Outcome]) -> list[Outcome]:
    best = envelope(outcomes)
    xs, ys = [outcome.macs for outcome in best], [outcome.mean for outcome in best]
    style = {"linewidth": 9, "marker": "o", "markersize": 17, "solid_capstyle": "round"}
    axes.plot(xs, ys, color="#cccccc", zorder=0, label="envelope", **style)
    return best


def _label(axes: Any, outcomes: Sequence[Outcome], title: str = "") -> None:
    macs = [outcome.macs for outcome in outcomes]
    if max(macs) > LOG_FROM * min(macs):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
    label_axes(axes, "MACs, millions", f"accuracy, % ({over_seeds(outcomes)})", title)
