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
    Curves,
    axes_of_steps,
    grouped,
    logarithmic,
    name_group,
    name_ticks,
)
from tvconv_jax.experiments.sweep_results import Outcome, read_sweeps
from tvconv_jax.report.plot_style import STYLES, draw_points, label_axes, new_figure, save
from tvconv_jax.report.sweep import spread
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import announce_overwrite, write_text

# Chen et al. 2022, Table 1: MobileNetV2 by width, mean over four sets, 329,000 images, 24,000 steps of 512.
PAPER = {0.1: 4.21, 0.2: 2.20, 0.3: 1.71, 0.5: 1.22, 1.0: 0.85}
WIDTH = {"width": "width of the model"}
CHANGED = ("pool", "start")  # groups whose labels say what is changed; the first has a setting without a change
Compared = dict[tuple[str, str], tuple[Outcome, Outcome]]
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
    of_steps, of_width = grouped(outcomes, axes_of_steps(outcomes)), grouped(outcomes, WIDTH)
    pairs = compared(outcomes)
    if not any(group in CHANGED for group, _ in pairs):
        raise UserError(f"no setting is of the groups {', '.join(CHANGED)}; give a sweep that has them.")
    figure = new_figure(4.6, width=14.0)
    steps, width, rows = figure.subplots(1, 3, width_ratios=(1.1, 1, 1.1))
    _draw_steps(steps, of_steps)
    _draw_width(width, of_width)
    _draw_changed(
        rows, {change: seed_leads(*pairs[g, change]) for group in CHANGED for g, change in pairs if g == group}
    )
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
    """Return both accuracies, the lead seed by seed with its interval, and both training losses, as Markdown."""
    head = ("group", "setting", "TVConv", "depthwise", "lead, seed by seed", "95 % interval", "training loss")
    rows = []
    for (group, change), (first, base) in pairs.items():
        values = seed_leads(first, base)
        mean, half = float(np.mean(values)), interval(values)
        limits = f"{mean - half:+.1f} to {mean + half:+.1f}" if len(values) > 1 else "-"
        losses = [f"{o.train_loss:.2f}" if o.train_loss is not None else "-" for o in (first, base)]
        accuracies = [spread(list(o.by_seed.values())) for o in (first, base)]
        rows.append(
            (group, change or "-", *accuracies, ", ".join(f"{x:+.1f}" for x in values), limits, ", ".join(losses))
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)) + "\n"


def _leads_of(lines: Any) -> list[tuple[float, float, float]]:
    """Return value, mean lead and interval, for every value that both operators have."""
    base = dict(lines.get(BASE, ()))
    pairs = [(x, seed_leads(outcome, base[x])) for x, outcome in lines.get(OTHER, ()) if x in base]
    return [(x, float(np.mean(values)), interval(values)) for x, values in pairs if values]


def _draw_steps(panel: Any, found: Curves) -> None:
    label_axes(panel, STEPS, "TVConv's lead in points, 95 % interval", "steps and images")
    logarithmic(panel)
    every = []
    for i, (style, (group, lines)) in enumerate(zip(cycle(STYLES), found.items(), strict=False)):
        if points := _leads_of(lines):
            xs, ys, errors = zip(*points, strict=True)
            every += xs
            beside = [x * 1.06 ** (i - (len(found) - 1) / 2) for x in xs]  # bars at the same step stay apart
            draw_points(panel, beside, ys, errors, label=name_group(group), **style)
    _finish(panel, every)


def _draw_width(panel: Any, found: Curves) -> None:
    label_axes(panel, *WIDTH.values(), "", "width")
    logarithmic(panel)
    points = _leads_of(found["width"])
    draw_points(panel, *zip(*points, strict=True), label="here", **STYLES[0])
    draw_points(panel, list(PAPER), list(PAPER.values()), [0.0], label="paper, 24,000 steps", **STYLES[1])
    _finish(panel, [*PAPER, *(x for x, _, _ in points)])


def _finish(panel: Any, values: Sequence[float]) -> None:
    panel.axhline(0, color="#777777", linewidth=0.8)
    low, high = panel.get_ylim()
    panel.set_ylim(low, high + 0.09 * len(panel.get_legend_handles_labels()[0]) * (high - low))  # the legend is above
    panel.legend(fontsize="small", loc="upper right")
    name_ticks(panel, values)


def _draw_changed(panel: Any, leads: dict[str, list[float]]) -> None:
    label_axes(panel, "lead in points, 95 % interval", "", "one thing changed")
    panel.axvline(0, color="#777777", linewidth=0.8)
    means, rows = [np.mean(values) for values in leads.values()], range(len(leads), 0, -1)
    errors = [interval(values) for values in leads.values()]
    panel.errorbar(means, rows, xerr=errors if any(errors) else None, **STYLES[0] | {"linestyle": ""})
    panel.set_yticks(rows, [NAMES.get(name, name) for name in leads])
