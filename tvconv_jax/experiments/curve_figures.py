"""Accuracy of operators from sweeps, a panel for every group of settings and a line for every operator.

Figure 10 of the paper has a panel for every transformation of the training images. The figure of drawn boards is
against the number of training images and how far boards move, those of small faces against learning rates and steps;
:mod:`tvconv_jax.experiments.lead_figures` draws leads.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from tvconv_jax.experiments.sweep_results import Outcome, over_seeds, read_sweeps
from tvconv_jax.report.plot_style import (
    LABEL_SIZE,
    STYLES,
    draw_points,
    label_axes,
    legend_above,
    new_figure,
    save,
)
from tvconv_jax.utils.errors import UserError

# As in tvconv_jax.data.augment.
UNITS = {"rotation": ", degrees", "shear": ", degrees", "scale": ", share", "translation": ", share"}
# By group of a sweep: name of the x axis. Groups of other names are not drawn.
BOARDS = {"images": "training images", "moved": "shift, % and rotation, degrees"}
RATES = {"sgd": "learning rate, SGD", "adamw": "learning rate, AdamW"}
STEPS, COUNTED = "training steps", ("images ", "identities ")  # x axis and begin of the groups of a sweep of steps
LOGARITHMIC = ("training images", STEPS, *RATES.values())
# The setting of boards' first group that is also one of the second: with so many images boards move so far.
SHARED = ("images", 3000.0, "moved", 1.0)
Curves = dict[str, dict[str, list[tuple[float, Outcome]]]]


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


def grouped(outcomes: Sequence[Outcome], axes: Mapping[str, str]) -> Curves:
    """Return values and outcomes by group, of those in ``axes``, then operator, in the order of the values.

    Raises:
        UserError: If no setting is of such a group, or a label of these does not end in a number.
    """
    found: Curves = defaultdict(lambda: defaultdict(list))
    for outcome in outcomes:
        if outcome.group in axes:
            operator, value = _split(outcome, "no number, as 'tvconv 10' does")
            found[outcome.group][operator].append((value, outcome))
            if (outcome.group, value) == SHARED[:2] and SHARED[2] in axes:
                found[SHARED[2]][operator].append((SHARED[3], outcome))
    if not found:
        raise UserError(f"no setting is of the groups {', '.join(axes)}; give a sweep that has them.")
    return _sorted({group: found[group] for group in axes if group in found})


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
    """Write ``boards``: accuracy on drawn boards.

    Raises:
        UserError: If a folder is not a sweep's, or the sweep's settings are others.
    """
    return _draw_groups(read_sweeps(folders), BOARDS, out, "boards")


def rates(folders: Sequence[Path], out: Path) -> list[Path]:
    """Write ``rates``: accuracy against the learning rate.

    Raises:
        UserError: If a folder is not a sweep's, or the sweep's settings are others.
    """
    return _draw_groups(read_sweeps(folders), RATES, out, "rates")


def steps(folders: Sequence[Path], out: Path) -> list[Path]:
    """Write ``steps``: accuracy against steps, a panel for every number of images.

    Raises:
        UserError: If a folder is not a sweep's, or the sweep's settings are others.
    """
    outcomes = read_sweeps(folders)
    return _draw_groups(outcomes, axes_of_steps(outcomes), out, "steps")


def axes_of_steps(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Return the name of the x axis by group, of the groups of a sweep of steps: one for every number of images."""
    groups = dict.fromkeys(outcome.group for outcome in outcomes if outcome.group.startswith(COUNTED))
    return dict.fromkeys(groups, STEPS) or {f"{COUNTED[0]}N": STEPS}


def name_group(group: str) -> str:
    """Return what a group of a sweep of steps is: ``6,000 images`` for ``images 6000``."""
    kind, _, count = group.partition(" ")
    return f"{int(count):,} {kind}" if count.isdecimal() else f"{count} {kind} in every step"


def _draw_groups(outcomes: Sequence[Outcome], axes: Mapping[str, str], out: Path, name: str) -> list[Path]:
    """Draw a panel for every group in ``axes``."""
    found = grouped(outcomes, axes)
    count = len(found)
    figure = new_figure(4.0, width=4.0 * count if count < 3 else 3.2 * count)
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    drawn = [outcome for lines in found.values() for points in lines.values() for _, outcome in points]
    for panel, group in zip(panels, found, strict=True):
        title = name_group(group) if axes[group] == STEPS else ""
        label_axes(panel, axes[group], "" if panel is not panels[0] else f"accuracy, %\n({over_seeds(drawn)})", title)
        if axes[group] in LOGARITHMIC:
            logarithmic(panel)
    _draw_curves(panels, found)
    legend_above(figure, panels)
    return save(figure, out, name)


def logarithmic(panel: Any) -> None:
    """Make the x axis logarithmic, without ticks between the values."""
    panel.set_xscale("log")
    panel.minorticks_off()


def _draw_curves(panels: Sequence[Any], found: Curves) -> None:
    """Draw a panel for every group, with a line for every operator."""
    operators = dict.fromkeys(operator for lines in found.values() for operator in lines)
    styles = dict(zip(operators, cycle(STYLES), strict=False))
    for axes, lines in zip(panels, found.values(), strict=False):
        for operator, points in lines.items():
            xs, ys, errors = zip(*((x, outcome.mean, outcome.std) for x, outcome in points), strict=True)
            draw_points(axes, xs, ys, errors, label=operator, **styles[operator])
        name_ticks(axes, [x for points in lines.values() for x, _ in points])


def name_ticks(axes: Any, values: Sequence[float]) -> None:
    """Write a number at every value of the x axis, and nowhere else."""
    ticks = sorted(set(values))
    if axes.get_xscale() == "log" and ticks:  # for one value alone the limits would be far off
        margin = 1.1 * (ticks[-1] / ticks[0]) ** 0.03
        axes.set_xlim(ticks[0] / margin, ticks[-1] * margin)
    axes.set_xticks(ticks, [f"{x:,g}" for x in ticks])
