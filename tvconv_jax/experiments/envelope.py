"""The paper's Figures 4 and 6: accuracy against multiply-accumulates, and the envelope of what is best.

Figure 4 has a panel for every family of models and a line for every operator, its points named by width; Figure 6 a
point for every setting, named directly.
"""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from tvconv_jax.experiments.drawing import AXIS, GRID, STYLES, TEXT, draw_points, legend_above, new_figure, save
from tvconv_jax.experiments.sweep_results import Outcome, over_seeds, read_sweeps
from tvconv_jax.utils.errors import UserError

LOG_FROM = 4.0  # the axis of MACs is logarithmic where the largest are so many times the smallest


def envelope(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Those of which no other is as accurate or more with as few MACs or fewer, cheapest first.

    Of two with the same MACs and accuracy the first stays.
    """
    best: list[Outcome] = []
    for one in sorted(outcomes, key=lambda one: (one.macs, -one.mean)):
        if not best or one.mean > best[-1].mean:
            best.append(one)
    return best


def figure4(folders: Sequence[Path], out: Path) -> list[Path]:
    """Writes ``figure4``: a line for every operator and family, as in a sweep of ``table1``.

    Raises:
        UserError: If a setting has no group that ends in a width, as ``MobileNetV2 x0.1`` does.
    """
    outcomes = read_sweeps(folders)
    for one in outcomes:
        if not one.group.rpartition(" ")[2].startswith("x"):
            raise UserError(
                f"setting {one.group} {one.label} names no width, as 'MobileNetV2 x0.1' does; figure6 draws it."
            )
    families: dict[str, list[Outcome]] = defaultdict(list)
    for one in outcomes:
        families[one.group.rpartition(" ")[0]].append(one)
    figure = new_figure()
    panels = figure.subplots(1, len(families), sharey=True, squeeze=False)[0]
    for axes, (family, members) in zip(panels, families.items(), strict=True):
        _draw_lines(axes, members)
        _finish(axes, members)
        axes.margins(0.3, 0.1)
        axes.set_title(family, fontsize=AXIS)
        axes.label_outer()
    legend_above(figure, panels)
    return save(figure, out, "figure4")


def _draw_lines(axes: Any, outcomes: Sequence[Outcome]) -> None:
    """A line a label; the widths stand above the most accurate one."""
    _draw_envelope(axes, outcomes)
    lines: dict[str, list[Outcome]] = defaultdict(list)
    for one in sorted(outcomes, key=lambda one: one.macs):
        lines[one.label].append(one)
    for style, (label, line) in zip(cycle(STYLES), lines.items(), strict=False):
        draw_points(axes, *_columns(line), label=label, **style)
    for one in max(lines.values(), key=lambda line: statistics.fmean(one.mean for one in line)):
        axes.annotate(
            one.group.rpartition(" ")[2],
            (one.macs, one.mean + one.std),
            xytext=(-4, 4),  # the line rises to the right
            textcoords="offset points",
            ha="right",
            fontsize=TEXT,
        )


def figure6(folders: Sequence[Path], out: Path) -> list[Path]:
    """Writes ``figure6``: a point for every setting of any sweep."""
    outcomes = read_sweeps(folders)
    figure = new_figure(max(4.5, 0.9 + 0.26 * len(outcomes)))
    axes = figure.subplots()
    _draw_named(axes, outcomes)
    return save(figure, out, "figure6")


def _draw_named(axes: Any, outcomes: Sequence[Outcome]) -> None:
    """Points, black on the envelope; names in a column on the right, with a thin line to each.

    What is far below all others, as a run that did not learn, would press them together: it stands as a triangle on
    the lower edge, with its figure beside its name.
    """
    best = _draw_envelope(axes, outcomes)
    _finish(axes, outcomes)
    floor = _floor([one.mean for one in outcomes])
    ends = [one.mean + sign * one.std for one in outcomes if one.mean >= floor for sign in (-1, 1)]
    low, high = min(ends), max(ends)
    room = 0.06 * (high - low) or 1.0
    axes.set_ylim(low - room, high + room)
    order = sorted(outcomes, key=lambda one: one.mean)
    heights = [one.mean if one.mean >= floor else low - 0.5 * room for one in order]
    wanted = [(height - low + room) / (high - low + 2 * room) for height in heights]
    places = apart(wanted, min(0.055, 1 / max(1, len(order) - 1)))
    for number, (one, height, y) in enumerate(zip(order, heights, places, strict=True)):
        inside = one.mean >= floor
        style = {"color": "black", "marker": "o" if inside else "v", "linestyle": "none", "ecolor": "#777777"}
        style["markerfacecolor"] = "black" if one in best else "white"
        style["label"] = None if inside or number else "far below"
        draw_points(axes, [one.macs], [height], [one.std if inside else 0.0], **style)
        axes.annotate(
            f"{one.group} {one.label} {one.mean:.1f}".strip(),
            (one.macs, height),
            xytext=(1.06, y),
            textcoords="axes fraction",
            va="center",
            fontsize=TEXT,
            fontweight="bold" if one in best else "normal",
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.8, "shrinkB": 5, "relpos": (0, 0.5)},
        )
    legend_above(axes.figure, [axes])


def _floor(means: Sequence[float]) -> float:
    """Where the axis may end: 1.5 times the middle half's width below that half (Tukey's rule for outliers)."""
    lower, upper = np.percentile(means, [25, 75])
    return lower - 1.5 * (upper - lower)


def apart(wanted: Sequence[float], distance: float) -> list[float]:
    """Places in 0 to 1, ascending and at least ``distance`` apart, near those wanted.

    Args:
        wanted: Ascending.
        distance: At most ``1 / (len(wanted) - 1)``.
    """
    places = np.clip(wanted, 0, 1)
    for i in range(1, len(places)):  # up, where they are too close
        places[i] = max(places[i], places[i - 1] + distance)
    for i in reversed(range(len(places))):  # and down again, from the upper end
        limit = 1.0 if i == len(places) - 1 else places[i + 1] - distance
        places[i] = min(places[i], limit)
    return places.tolist()


def _draw_envelope(axes: Any, outcomes: Sequence[Outcome]) -> list[Outcome]:
    best = envelope(outcomes)
    xs, ys = [one.macs for one in best], [one.mean for one in best]
    wide = {"linewidth": 9, "marker": "o", "markersize": 17, "solid_capstyle": "round"}
    axes.plot(xs, ys, color="#cccccc", zorder=0, label="envelope", **wide)
    return best


def _columns(line: Sequence[Outcome]) -> tuple[list[float], list[float], list[float]]:
    return [one.macs for one in line], [one.mean for one in line], [one.std for one in line]


def _finish(axes: Any, outcomes: Sequence[Outcome]) -> None:
    macs = [one.macs for one in outcomes]
    if max(macs) > LOG_FROM * min(macs):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("MACs, millions", fontsize=AXIS)
    axes.set_ylabel(f"accuracy, % ({over_seeds(outcomes)})", fontsize=AXIS)
    axes.tick_params(labelsize=TEXT)
    axes.grid(color=GRID)
