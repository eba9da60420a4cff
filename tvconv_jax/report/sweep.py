"""The report of a sweep: what its settings cost and reach, and a link to every run's own report."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from tvconv_jax.report.common import command_block
from tvconv_jax.report.html import Html, joined, markup, table, tag
from tvconv_jax.report.page import Figure, Section, page, paragraphs
from tvconv_jax.report.plots import Labels, Point, scatter
from tvconv_jax.report.run import NAME
from tvconv_jax.training.provenance import command_line
from tvconv_jax.utils.files import write_text

MEAN = "mean accuracy %"


class Entry(NamedTuple):
    """A run of a sweep.

    Attributes:
        setting: What it is called.
        seed: Of the run.
        workdir: Inside of the sweep's folder.
        results: Its ``results.json``; ``None``: it has not ended.
        fault: What went wrong just now, if anything did.
    """

    setting: str
    seed: int
    workdir: Path
    results: Mapping[str, Any] | None
    fault: str | None = None


class Cells(NamedTuple):
    """The table of a sweep, besides settings and seeds.

    Attributes:
        columns: Titles.
        rows: As many cells, by setting.
    """

    columns: Sequence[str]
    rows: Mapping[str, Sequence[str]]


def write_sweep_report(out: Path, title: str, note: str, entries: Sequence[Entry], cells: Cells) -> None:
    """Writes ``OUT/report.html``.

    Args:
        out: Folder of the sweep.
        title: Of the sweep.
        note: What to know when reading.
        entries: All its runs, in the order of its settings.
        cells: What is printed of them.
    """
    settings: dict[str, list[Entry]] = {}
    for entry in entries:
        settings.setdefault(entry.setting, []).append(entry)
    ended = {name: [entry for entry in runs if entry.results] for name, runs in settings.items()}
    done = [entry for entry in entries if entry.results]
    missing = [entry for runs in settings.values() for entry in runs if not entry.results]
    best = max((name for name, runs in ended.items() if runs), key=lambda name: _mean(ended[name]), default=None)
    seeds = sorted({entry.seed for entry in entries})
    lead = (
        f"{len(settings)} settings with seeds {', '.join(map(str, seeds))}; {len(done)} of {len(entries)} runs ended."
    )
    figures = [Figure(f"{len(done)} of {len(entries)}", "runs ended")]
    if best is not None:
        figures.append(Figure(f"{100 * _mean(ended[best]):.2f} %", f"best mean accuracy: {best}"))
    sections = []
    if done:
        notes = [text for text in (note, several_devices(entry.results for entry in done)) if text]
        body = [*map(paragraphs, notes), _table(out, settings, cells), _plot(ended)]
        sections = [Section("results", "Results", joined(body))]
    if missing:
        sections.append(Section("missing", "Runs that have not ended", _missing(out, missing)))
    if command := command_line(without=("--show", "--markdown")):
        text = paragraphs("Runs that ended are not repeated; those that failed or were stopped go on.")
        sections.append(Section("rerun", "How to run it again", joined([command_block(command), text])))
    write_text(out / NAME, page(title, lead, figures, sections))  # by whichever job of an array ends last


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds; the mean alone where there is one, a dash where there is none."""
    if not values:
        return "-"
    return f"{np.mean(values):.2f}" + (f" ± {np.std(values):.2f}" if len(values) > 1 else "")


def several_devices(results: Iterable[Mapping[str, Any]]) -> str:
    """Says of what devices the runs are, where they are of more than one: elsewhere a seed ends otherwise."""
    found = Counter(result.get("device", "a device not recorded") for result in results)
    if len(found) < 2:
        return ""
    counted = "; ".join(f"{device}, {count} run{'s' if count > 1 else ''}" for device, count in found.most_common())
    return f"Made on more than one device, where the same seed ends otherwise and speeds differ: {counted}."


def _mean(runs: Sequence[Entry]) -> float:
    return float(np.mean([run.results["mean_accuracy"] for run in runs]))


def _table(out: Path, settings: Mapping[str, Sequence[Entry]], cells: Cells) -> Html:
    order = sorted(range(len(cells.columns)), key=lambda i: cells.columns[i] != MEAN)  # on a phone it is seen first
    rows = []
    for name, runs in settings.items():
        links = joined([_link(out, run) for run in runs], ", ")
        rows.append([name, links, *(cells.rows[name][i] for i in order)])
    head = ["setting", "seeds", *(cells.columns[i] for i in order)]
    caption = "Accuracies in %, mean ± standard deviation over seeds; a seed leads to its report; speed in training"
    return table(caption, head, rows, words=(0, 1))


def _link(out: Path, run: Entry) -> Html:
    """To the run's own report, where it has one."""
    report = run.workdir / NAME
    if not report.exists():
        return markup(run.seed) if run.results else tag("span", f"{run.seed} not ended", class_="failed")
    return tag("a", str(run.seed), href=quote(str(report.relative_to(out))), aria_label=f"report of seed {run.seed}")


def _plot(ended: Mapping[str, Sequence[Entry]]) -> Html:
    points = []
    for name, runs in ended.items():
        if runs:
            accuracies = [100 * run.results["mean_accuracy"] for run in runs]
            macs = runs[0].results["complexity"]["macs"] / 1e6
            points.append(Point(name, macs, float(np.mean(accuracies)), float(np.std(accuracies))))
    labels = Labels("Accuracy against cost", "MACs, millions", "mean accuracy, %", "Bars are ± a standard deviation.")
    return tag("div", scatter(points, labels), class_="wide")


def _missing(out: Path, runs: Sequence[Entry]) -> Html:
    rows = []
    for run in runs:
        log = run.workdir / "log.txt"
        lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        what = run.fault or (f"last line of its log: {lines[-1]}" if lines else "not begun")
        rows.append([run.setting, run.seed, tag("code", what), tag("code", str(run.workdir.relative_to(out)))])
    return table("Runs without results", ["setting", "seed", "what is known", "folder"], rows, words=(0, 2, 3))
