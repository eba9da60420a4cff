"""The two plots of the evidence: score against learning rate, and lead against how fixed the layout is."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from tvconv_jax.experiments.evidence.record import Line, Record
from tvconv_jax.experiments.evidence.results import BASE, Cell, curve
from tvconv_jax.report.plot_style import STYLES, drawing, label_axes, legend_above, new_figure
from tvconv_jax.utils.files import announce_overwrite, replacing

PRETRAINED = "pretrained"  # has no learning rate
EXTRA = ({"color": "#6b4fa0", "marker": "X", "linestyle": (0, (2, 2))}, {"color": "#000000", "marker": "*"})
COLUMNS = 2


def draw(
    record: Record,
    sets: Sequence[Line],
    variants: Sequence[str],
    cells: Mapping[tuple[str, str], Cell | None],
    folder: Path,
) -> list[Path]:
    """Write ``evidence_rates.png`` and ``evidence_leads.png``; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    styles = dict(zip(variants, cycle((*STYLES, *EXTRA)), strict=False))
    with drawing():
        drawn = {"evidence_rates": _rates(record, sets, styles), "evidence_leads": _leads(sets, cells, styles)}
        files = []
        for name, figure in drawn.items():
            files.append(folder / f"{name}.png")
            with replacing(announce_overwrite(files[-1])) as part:
                figure.savefig(part, dpi=120)
    return files


def _rates(record: Record, sets: Sequence[Line], styles: Mapping[str, Mapping[str, Any]]) -> Any:
    """Draw a panel a set: score on the held-out training images against the learning rate, a line a variant."""
    rows = -(-len(sets) // COLUMNS)
    figure = new_figure(1.4 + 2.6 * rows, width=8.0)
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes, about in zip(panels, sets, strict=False):
        for variant, style in styles.items():
            found = curve(record, about["set"], variant)
            if found.rates and variant != PRETRAINED:
                axes.plot(found.rates, [100 * score for score in found.scores], label=variant, **style)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        label_axes(axes, title=about["set"])
    for axes in panels[len(sets) :]:
        axes.set_axis_off()
    figure.supxlabel("learning rate")
    figure.supylabel("score on held-out training images, %")
    legend_above(figure, panels[: len(sets)])
    return figure


def _leads(
    sets: Sequence[Line], cells: Mapping[tuple[str, str], Cell | None], styles: Mapping[str, Mapping[str, Any]]
) -> Any:
    """Draw the lead of every variant with its interval, sets in the order of what their mean image explains."""
    figure = new_figure(6.0, width=10.0)
    axes = figure.subplots()
    ordered = list(reversed(sets))
    shown = [variant for variant in styles if variant not in (BASE, PRETRAINED)]
    for number, variant in enumerate(shown):
        shift = 0.1 * (number - (len(shown) - 1) / 2)  # side by side
        found = [cells[about["set"], variant] for about in ordered]
        points = [(x + shift, *one.lead) for x, one in enumerate(found) if one and one.lead]
        if points:
            xs, means, lows, highs = (np.array(column) for column in zip(*points, strict=True))
            bars = 100 * np.stack([means - lows, highs - means])
            style = {**styles[variant], "linestyle": "none"}
            axes.errorbar(xs, 100 * means, bars, elinewidth=1.2, markersize=6, capsize=2, label=variant, **style)
    axes.axhline(0, color="black", linewidth=1)
    names = [f"{about['set']}\n{about['explained']:.2f}" for about in ordered]
    axes.set_xticks(range(len(ordered)), names)
    label_axes(axes, "share of pixel variance that the mean image explains", "lead over depthwise, points")
    legend_above(figure, [axes])
    return figure
