"""The paper's Figures 4, 6 and 10 from sweeps: accuracy against multiply-accumulates, and against transformed images.

Figure 4 has a panel for every family of models and a line for every operator, its points named by width. Figure 6 has
a point for every setting, named directly. Figure 10 has a panel for every transformation of the training images, and a
line for every operator. So has the figure of drawn boards, against the number of training images and how far boards
move.
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
    LABEL_SIZE,
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
# As in tvconv_jax.data.augment.
UNITS = {"rotation": ", degrees", "shear": ", degrees", "scale": ", share", "translation": ", share"}
# Group of configs/sweeps/inspection.py: name of the x axis. Groups of other names, such as "rate", are not drawn.
BOARDS = {"images": "training images", "moved": "shift, % and rotation, degrees"}
# The setting of the first group that is also one of the second: with so many images boards move so far.
SHARED = ("images", 3000.0, "moved", 1.0)
Curves = dict[str, dict[str, list[tuple[float, Outcome]]]]


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


def curves(outcomes: Sequence[Outcome]) -> Curves:
    """Return magnitudes and outcomes by transformation, then operator, in the order of magnitude.

    A label is an operator and a magnitude, ``tvconv 10``; the group is the transformation. With magnitude 0 all
    transformations are the same, so that setting starts every curve.

    Raises:
        UserError: If a label does not end in a number.
    """
    found: Curves = defaultdict(lambda: defaultdict(list))
    start = defaultdict(list)
    for outcome in outcomes:
        operator, magnitude = _split(outcome, "no magnitude, as 'tvconv 10' does; give a sweep of figure10")
        (found[outcome.group] if magnitude else start)[operator].append((magnitude, outcome))
    return _sorted({g: {name: start[name] + points for name, points in lines.items()} for g, lines in found.items()})


def board_curves(outcomes: Sequence[Outcome]) -> Curves:
    """Return values and outcomes by group of :data:`BOARDS`, then operator, in the order of the values.

    Raises:
        UserError: If no setting is of such a group, or a label of these does not end in a number.
    """
    found: Curves = defaultdict(lambda: defaultdict(list))
    for outcome in outcomes:
        if outcome.group in BOARDS:
            operator, value = _split(outcome, "no number; give a sweep of boards")
            found[outcome.group][operator].append((value, outcome))
            if (outcome.group, value) == SHARED[:2]:
                found[SHARED[2]][operator].append((SHARED[3], outcome))
    if not found:
        groups = ", ".join(BOARDS)
        raise UserError(f"no setting is of the groups {groups}; give a sweep of configs/sweeps/inspection.py.")
    return _sorted(found)


def _split(outcome: Outcome, rule: str) -> tuple[str, float]:
    """Return the operator and the number of a label; the rule ends the message if there is no number."""
    operator, _, text = outcome.label.rpartition(" ")
    try:
        return operator, float(text)
    except ValueError:
        raise UserError(f"setting {outcome.group} {outcome.label} ends in {rule}.") from None


def _sorted(found: Curves) -> Curves:
    return {g: {o: sorted(p, key=lambda point: point[0]) for o, p in lines.items()} for g, lines in found.items()}


def figure10(folders: Sequence[Path], out: Path) -> list[Path]:
    """Write ``figure10``.

    Raises:
        UserError: If a folder is not a sweep's, or the sweep's settings are others.
    """
    outcomes = read_sweeps(folders)
    found = curves(outcomes)
    if not found:
        raise UserError(f"{folders[0]} holds no transformed training yet, only magnitude 0; let more of its runs end.")
    columns = min(2, len(found))
    rows = -(-len(found) // columns)
    figure = new_figure(0.9 + 2.4 * rows)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    _draw_curves(panels, found)
    for axes, group in zip(panels, found, strict=False):
        label_axes(axes, title=f"{group}{UNITS.get(group, '')}")
    for axes in panels[len(found) :]:
        axes.set_axis_off()
    figure.supylabel(f"accuracy, % ({over_seeds(outcomes)})", fontsize=LABEL_SIZE)
    figure.supxlabel("magnitude", fontsize=LABEL_SIZE)
    legend_above(figure, panels[: len(found)])
    return save(figure, out, "figure10")


def boards(folders: Sequence[Path], out: Path) -> list[Path]:
    """Write ``boards``: accuracy on drawn boards, with a panel for each group.

    Raises:
        UserError: If a folder is not a sweep's, or the sweep's settings are others.
    """
    outcomes = read_sweeps(folders)
    found = board_curves(outcomes)
    figure = new_figure(3.6, width=8.0)
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, group in zip(panels, found, strict=True):
        label_axes(axes, BOARDS[group], "" if axes is not panels[0] else f"accuracy, % ({over_seeds(outcomes)})")
        if group == "images":
            axes.set_xscale("log")
            axes.minorticks_off()
    _draw_curves(panels, found)
    legend_above(figure, panels)
    return save(figure, out, "boards")


def _draw_curves(panels: Sequence[Any], found: Curves) -> None:
    """Draw a panel for every group, with a line for every operator."""
    operators = dict.fromkeys(operator for lines in found.values() for operator in lines)
    styles = dict(zip(operators, cycle(STYLES), strict=False))
    for axes, lines in zip(panels, found.values(), strict=False):
        for operator, points in lines.items():
            xs, ys, errors = zip(*((x, outcome.mean, outcome.std) for x, outcome in points), strict=True)
            draw_points(axes, xs, ys, errors, label=operator, **styles[operator])
        values = sorted({x for points in lines.values() for x, _ in points})
        axes.set_xticks(values, [f"{x:,g}" for x in values])
