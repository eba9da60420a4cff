"""Accuracy on drawn boards against the number of training images and against how far boards move, from a sweep."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from tvconv_jax.experiments.sweep_results import Outcome, over_seeds, read_sweeps
from tvconv_jax.report.plot_style import STYLES, draw_points, label_axes, legend_above, new_figure, save
from tvconv_jax.utils.errors import UserError

# Group of configs/sweeps/inspection.py: name of the x axis. Groups of other names, such as "rate", are not drawn.
PANELS = {"images": "training images", "moved": "shift, % and rotation, degrees"}
# The setting of the first group that is also one of the second: with so many images boards move so far.
SHARED = ("images", 3000.0, "moved", 1.0)

Curves = dict[str, dict[str, list[tuple[float, Outcome]]]]


def curves(outcomes: Sequence[Outcome]) -> Curves:
    """Return values and outcomes by group, then operator, in the order of the values.

    Raises:
        UserError: If no setting is of a group of ``PANELS``, or a label of these does not end in a number.
    """
    found: Curves = defaultdict(lambda: defaultdict(list))
    for outcome in outcomes:
        if outcome.group not in PANELS:
            continue
        operator, _, text = outcome.label.rpartition(" ")
        try:
            value = float(text)
        except ValueError:
            raise UserError(
                f"setting {outcome.group} {outcome.label} ends in no number; give a sweep of boards."
            ) from None
        found[outcome.group][operator].append((value, outcome))
        if (outcome.group, value) == SHARED[:2]:
            found[SHARED[2]][operator].append((SHARED[3], outcome))
    if not found:
        raise UserError(
            f"no setting is of the groups {', '.join(PANELS)}; give a sweep of configs/sweeps/inspection.py."
        )
    return {g: {o: sorted(p, key=lambda point: point[0]) for o, p in lines.items()} for g, lines in found.items()}


def boards(folders: Sequence[Path], out: Path) -> list[Path]:
    """Write ``boards``: a panel for each group, a line for each operator.

    Raises:
        UserError: If a folder is not a sweep's, or the sweep's settings are others.
    """
    outcomes = read_sweeps(folders)
    found = curves(outcomes)
    figure = new_figure(3.6, width=8.0)
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    styles = dict(zip(dict.fromkeys(o for lines in found.values() for o in lines), cycle(STYLES), strict=False))
    for axes, (group, lines) in zip(panels, found.items(), strict=True):
        _draw(axes, group, lines, styles)
    label_axes(panels[0], PANELS[next(iter(found))], f"accuracy, % ({over_seeds(outcomes)})")
    legend_above(figure, panels)
    return save(figure, out, "boards")


def _draw(axes: Any, group: str, lines: dict[str, list[tuple[float, Outcome]]], styles: dict[str, Any]) -> None:
    for operator, points in lines.items():
        xs, ys, errors = zip(*((x, outcome.mean, outcome.std) for x, outcome in points), strict=True)
        draw_points(axes, xs, ys, errors, label=operator, **styles[operator])
    values = sorted({x for points in lines.values() for x, _ in points})
    if group == "images":
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(values, [f"{x:,g}" for x in values])
    label_axes(axes, PANELS[group])
