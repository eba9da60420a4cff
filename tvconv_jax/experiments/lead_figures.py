"""TVConv's lead over the depthwise convolution on small faces: against steps, against width, with one thing changed.

The sweep is ``configs/sweeps/lead.py``. A lead is of the same seeds of two settings.
"""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from tvconv_jax.experiments.curve_figures import (
    RATES,
    STEPS,
    axes_of_steps,
    logarithmic,
    name_group,
    name_ticks,
)
from tvconv_jax.experiments.paper import ACCURACIES
from tvconv_jax.experiments.sweep_results import Outcome, read_sweeps
from tvconv_jax.report.plot_style import STYLES, draw_points, label_axes, new_figure, save
from tvconv_jax.report.sweep import spread
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import announce_overwrite, write_text

WIDTH = "width"
CHANGED = ("pool", "start")  # groups whose labels say what is changed; the first has a setting without a change
Compared = dict[tuple[str, str], tuple[Outcome, Outcome]]  # TVConv's setting and the depthwise one, by group and change
BASE, OTHER = "depthwise", "tvconv"
UNCHANGED = "mean"  # the pooling that the starts have
NAMES = {  # of changes, in the figure
    UNCHANGED: "nothing",
    "gdc": "a learned pooling",
    "S5 to S7": "in S5 to S7 alone",
    "edge padding and maps of noise": "both of these",
}


def lead(folders: Sequence[Path], out: Path) -> list[Path]:
    """Write ``lead``, and ``lead.md``, the same as a table.

    Raises:
        UserError: If a folder is not a sweep's, or the sweep's settings are others.
    """
    outcomes = read_sweeps(folders)
    pairs = compared(outcomes)
    groups = {group for group, _ in pairs}
    for panel, wanted in (("steps", [*axes_of_steps(outcomes)]), ("width", [WIDTH]), ("changes", CHANGED)):
        if not groups.intersection(wanted):
            raise UserError(f"no setting is of the groups {', '.join(wanted)}, for the panel of {panel}; let them end.")
    figure = new_figure(4.6, width=14.0)
    steps, width, changes = figure.subplots(1, 3, width_ratios=(1.1, 1, 1.1))
    _draw_steps(steps, {group: _leads(pairs, group) for group in axes_of_steps(outcomes)})
    _draw_width(width, _leads(pairs, WIDTH))
    _draw_changes(changes, {change: seed_leads(*pairs[g, change]) for of in CHANGED for g, change in pairs if g == of})
    files, text = save(figure, out, "lead"), out / "lead.md"
    announce_overwrite(text)
    write_text(text, table(pairs))
    return [*files, text]


def seed_leads(first: Outcome, second: Outcome) -> list[float]:
    """Return the first setting's accuracy minus the second's, for every seed that both have, in points."""
    return [first.by_seed[seed] - second.by_seed[seed] for seed in sorted(first.by_seed.keys() & second.by_seed.keys())]


def interval(values: Sequence[float]) -> float:
    """Return half the 95 % interval of a mean by Student's t; 0 for one value, which has none."""
    count = len(values)
    return float(stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / count**0.5) if count > 1 else 0.0


def compared(outcomes: Sequence[Outcome]) -> Compared:
    """Return TVConv's settings, each with the depthwise one that it is compared with, by group and change.

    That is the one of the same change, or where there is none, as for the starts, the one with nothing changed. Rates
    are not compared: one rate for both operators is fair to neither.
    """
    found = {(o.group, o.label): o for o in outcomes if o.group not in RATES}
    unchanged = found.get((CHANGED[0], f"{BASE} {UNCHANGED}"))
    pairs = {}
    for (group, label), outcome in found.items():
        operator, _, change = label.partition(" ")
        base = found.get((group, f"{BASE} {change}".strip()), unchanged if group in CHANGED else None)
        if operator == OTHER and base and outcome.by_seed.keys() & base.by_seed.keys():
            pairs[group, change] = outcome, base
    return pairs


def table(pairs: Compared) -> str:
    """Return accuracies, lead, difference to the unchanged setting and training losses of both operators, as Markdown.

    Leads and differences are in points, seed by seed, each with its 95 % interval; starts alone have a difference.
    """
    leads = ("lead", "interval", "minus unchanged", "interval")
    head = ("group", "setting", "TVConv", "depthwise", *leads, "training loss")
    unchanged, rows = pairs.get((CHANGED[0], UNCHANGED)), []
    for (group, change), (first, base) in pairs.items():
        accuracies = [spread(list(o.by_seed.values())) for o in (first, base)]
        starts = seed_leads(first, unchanged[0]) if group == CHANGED[1] and unchanged else []
        losses = ", ".join("-" if o.train_loss is None else f"{o.train_loss:.2f}" for o in (first, base))
        rows.append((group, change or "-", *accuracies, *_cells(seed_leads(first, base)), *_cells(starts), losses))
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)) + "\n"


def _cells(values: Sequence[float]) -> tuple[str, str]:
    """Return differences seed by seed and the interval of their mean, dashes where there are none."""
    if not values:
        return "-", "-"
    mean, half = float(np.mean(values)), interval(values)
    limits = f"{mean - half:+.1f} to {mean + half:+.1f}" if len(values) > 1 else "-"
    return ", ".join(f"{value:+.1f}" for value in values), limits


def _leads(pairs: Compared, group: str) -> list[tuple[float, float, float]]:
    """Return value, mean lead and half its interval, for every value of a group, in their order."""
    values = {float(change): seed_leads(*pair) for (of, change), pair in pairs.items() if of == group}
    return [(x, float(np.mean(found)), interval(found)) for x, found in sorted(values.items())]


def _draw_steps(panel: Any, found: dict[str, list[tuple[float, float, float]]]) -> None:
    label_axes(panel, STEPS, "TVConv's lead in points, 95 % interval", "steps and images")
    logarithmic(panel)
    for i, (style, (group, points)) in enumerate(zip(cycle(STYLES), found.items(), strict=False)):
        if points:
            xs, ys, errors = zip(*points, strict=True)
            beside = [x * 1.06 ** (i - (len(found) - 1) / 2) for x in xs]  # bars at the same step stay apart
            draw_points(panel, beside, ys, errors, label=name_group(group), **style)
    _finish(panel, [x for points in found.values() for x, _, _ in points])


def _draw_width(panel: Any, points: list[tuple[float, float, float]]) -> None:
    label_axes(panel, "width of the model", "", "width")
    logarithmic(panel)
    draw_points(panel, *zip(*points, strict=True), label="here", **STYLES[0])
    paper = {width: second - first for (model, width), (first, second) in ACCURACIES.items() if model == "mobilenetv2"}
    draw_points(panel, list(paper), list(paper.values()), [0.0], label="paper, 24,000 steps", **STYLES[1])
    _finish(panel, [*paper, *(x for x, _, _ in points)])


def _finish(panel: Any, values: Sequence[float]) -> None:
    panel.axhline(0, color="#777777", linewidth=0.8)
    low, high = panel.get_ylim()
    panel.set_ylim(low, high + 0.09 * len(panel.get_legend_handles_labels()[0]) * (high - low))  # the legend is above
    panel.legend(fontsize="small", loc="upper right")
    name_ticks(panel, values)


def _draw_changes(panel: Any, leads: dict[str, list[float]]) -> None:
    label_axes(panel, "lead in points, 95 % interval", "", "one thing changed")
    panel.axvline(0, color="#777777", linewidth=0.8)
    means, rows = [np.mean(values) for values in leads.values()], range(len(leads), 0, -1)
    errors = [interval(values) for values in leads.values()]
    panel.errorbar(means, rows, xerr=errors if any(errors) else None, **STYLES[0] | {"linestyle": ""})
    panel.set_yticks(rows, [NAMES.get(name, name) for name in leads])
