"""The two plots of the evidence: score against learning rate, and lead against how fixed the layout is."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from tvconv_jax.experiments.evidence.record import Line, Record
from tvconv_jax.experiments.evidence.results import BASE, Cell, curve
from tvconv_jax.report.plot_style import STYLES, drawing, label_axes, legend_above, new_figure
from tvconv_jax.utils.files import replacing

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
            with replacing(files[-1]) as part:
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
    """Draw the lead of every variant, with its interval, against the share that the mean image explains."""
    figure = new_figure(6.0, width=9.0)
    axes = figure.subplots()
    shown = [variant for variant in styles if variant not in (BASE, PRETRAINED)]
    for place, variant in enumerate(shown):
        points = []
        for about in sets:
            found = cells[about["set"], variant]
            if found and found.lead:
                shift = 0.006 * (place - (len(shown) - 1) / 2)  # side by side, to be distinguished
                points.append((about["explained"] + shift, *(100 * number for number in found.lead)))
        if points:
            xs, means, lows, highs = (list(column) for column in zip(*points, strict=True))
            bars = [
                [m - low for m, low in zip(means, lows, strict=True)],
                [h - m for m, h in zip(means, highs, strict=True)],
            ]
            style = {**styles[variant], "linestyle": "none"}
            axes.errorbar(xs, means, bars, elinewidth=1.2, markersize=6, label=variant, **style)
    axes.axhline(0, color="black", linewidth=1)
    for about in sets:
        axes.annotate(about["set"], (about["explained"], 1.0), xycoords=("data", "axes fraction"), rotation=40)
    label_axes(axes, "share of pixel variance that the mean image explains", "lead over depthwise, points")
    legend_above(figure, [axes])
    return figure
