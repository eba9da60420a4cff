"""The report of a sweep: cost and accuracy of its settings, and a link to the report of every run."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from tvconv_jax.report.html import NAME, Figure, Html, Section, code_block, joined, markup, page, paragraphs, table, tag
from tvconv_jax.report.plots import Labels, Point, scatter
from tvconv_jax.utils.environment import command_line
from tvconv_jax.utils.files import write_text

MEAN = "mean accuracy %"
CAPTION = "Accuracies in %, mean ± standard deviation over seeds; a seed links to its report; img/s in training"


class Entry(NamedTuple):
    """A run of a sweep."""

    setting: str
    seed: int
    workdir: Path
    results: Mapping[str, Any] | None  # results.json; None: it has not ended
    error: str | None = None  # of this call


class Cells(NamedTuple):
    """The table of a sweep, besides settings and seeds: titles of columns, and as many cells by setting."""

    columns: Sequence[str]
    rows: Mapping[str, Sequence[str]]


def write_sweep_report(out: Path, title: str, note: str, entries: Sequence[Entry], cells: Cells) -> None:
    """Write ``OUT/report.html``; the entries are all runs of the sweep, in the order of its settings."""
    settings: dict[str, list[Entry]] = {}
    for entry in entries:
        settings.setdefault(entry.setting, []).append(entry)
    ended = {name: done for name, runs in settings.items() if (done := [run for run in runs if run.results])}
    done = [entry for entry in entries if entry.results]
    missing = [entry for runs in settings.values() for entry in runs if not entry.results]
    seeds = ", ".join(map(str, sorted({entry.seed for entry in entries})))
    lead = f"{len(settings)} settings with seeds {seeds}; {len(done)} of {len(entries)} runs ended."
    figures = [Figure(f"{len(done)} of {len(entries)}", "runs ended")]
    sections = []
    if done:
        best = max(ended, key=lambda name: _accuracies(ended[name]).mean())
        figures.append(Figure(f"{_accuracies(ended[best]).mean():.2f} %", f"best mean accuracy: {best}"))
        notes = [text for text in (note, several_devices(entry.results for entry in done)) if text]
        body = [paragraphs(*notes), _table(out, settings, cells), _plot(ended)]
        sections = [Section("results", "Results", joined(body))]
    if missing:
        sections.append(Section("missing", "Runs that have not ended", _missing(out, missing)))
    if command := command_line(without=("--show", "--markdown")):
        text = paragraphs("Runs that ended are not repeated; those that failed or were stopped resume.")
        sections.append(Section("rerun", "How to run it again", joined([code_block(command), text])))
    write_text(out / NAME, page(title, lead, figures, sections))  # by whichever job of an array ends last


def spread(values: Sequence[float]) -> str:
    """Return mean ± standard deviation over seeds: the mean alone of one value, a dash for none."""
    if not values:
        return "-"
    return f"{np.mean(values):.2f}" + (f" ± {np.std(values):.2f}" if len(values) > 1 else "")


def cost_cells(cost: Mapping[str, int]) -> list[str]:
    """Return MACs in millions, and parameters, frozen and in training, in thousands."""
    return [f"{cost['macs'] / 1e6:.2f}", f"{cost['params'] / 1e3:,.0f}", f"{cost['train_params'] / 1e3:,.0f}"]


def several_devices(results: Iterable[Mapping[str, Any]]) -> str:
    """Return a remark if runs are of more than one device, where results of a seed differ; else an empty text."""
    found = Counter(result.get("device", "a device not recorded") for result in results)
    if len(found) < 2:
        return ""
    counted = "; ".join(f"{device}, {count} run{'s' if count > 1 else ''}" for device, count in found.most_common())
    return f"Made on more than one device, where results of a seed and speeds differ: {counted}."


def _accuracies(runs: Sequence[Entry]) -> np.ndarray:
    return np.array([100 * run.results["mean_accuracy"] for run in runs])


def _table(out: Path, settings: Mapping[str, Sequence[Entry]], cells: Cells) -> Html:
    order = sorted(range(len(cells.columns)), key=lambda i: cells.columns[i] != MEAN)  # first on a phone
    rows = []
    for name, runs in settings.items():
        links = joined([_link(out, run) for run in runs], ", ")
        rows.append([name, links, *(cells.rows[name][i] for i in order)])
    return table(CAPTION, ["setting", "seeds", *(cells.columns[i] for i in order)], rows, words=(0, 1))


def _link(out: Path, run: Entry) -> Html:
    """Return a link to the run's own report, where it has one."""
    report = run.workdir / NAME
    if not report.exists():
        return markup(run.seed) if run.results else tag("span", f"{run.seed} not ended", class_="failed")
    return tag("a", str(run.seed), href=quote(str(report.relative_to(out))), aria_label=f"report of seed {run.seed}")


def _plot(ended: Mapping[str, Sequence[Entry]]) -> Html:
    points = []
    for name, runs in ended.items():
        accuracies = _accuracies(runs)
        macs = runs[0].results["complexity"]["macs"] / 1e6
        points.append(Point(name, macs, float(accuracies.mean()), float(accuracies.std())))
    labels = Labels("Accuracy against cost", "MACs, millions", "mean accuracy, %", "Bars: ± standard deviation.")
    return tag("div", scatter(points, labels), class_="wide")


def _missing(out: Path, runs: Sequence[Entry]) -> Html:
    rows = []
    for run in runs:
        log = run.workdir / "log.txt"
        lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        state = run.error or (f"last line of its log: {lines[-1]}" if lines else "not started")
        rows.append([run.setting, run.seed, tag("code", state), tag("code", str(run.workdir.relative_to(out)))])
    return table("Runs without results", ["setting", "seed", "state", "folder"], rows, words=(0, 2, 3))
