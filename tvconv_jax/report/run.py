"""The report of a run: what every job has, and what its own kind adds."""

import json
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from tvconv_jax.data.faces import FaceData
from tvconv_jax.report import common, curves, face, others
from tvconv_jax.report.html import joined
from tvconv_jax.report.page import Figure, Section, page
from tvconv_jax.tasks.report_data import ReportData
from tvconv_jax.utils.files import write_text

NAME = "report.html"


class Own(NamedTuple):
    """What a kind of job says.

    Attributes:
        result: A sentence with what came out.
        figures: What stands large, first.
        sections: Results, and pictures of them.
    """

    result: str
    figures: list[Figure]
    sections: list[Section]


def shows_pictures(config: ConfigDict) -> bool:
    """Whether a report may hold pictures of the data: they were drawn by this package, or ``eval.report_pictures``.

    Pictures of real people get into a report only where somebody asked for that; reports are passed on.
    """
    return bool(config.eval.report_pictures) or config.data.source == "embedded"


def write_report(
    workdir: Path, config: ConfigDict, evidence: ReportData, *, pictures: bool = False, data: FaceData | None = None
) -> None:
    """Writes ``report.html`` from the files of a run that ended.

    Args:
        workdir: Of the run, with ``results.json`` and ``metrics.jsonl``.
        config: Of the run.
        evidence: The rest.
        pictures: Whether pictures of the data may stand in it, see :func:`shows_pictures`.
        data: Of a face run, for the worst pairs; ``None``: it is not at hand, and they are left out.
    """
    settings = json.loads(config.to_json())
    results = json.loads((workdir / "results.json").read_text())
    metrics = curves.read_metrics((workdir / "metrics.jsonl").read_text().splitlines())
    if settings["task"] == "face":
        own = Own(*face.describe(results, evidence, data, pictures=pictures))
    elif settings["task"] == "segmentation":
        own = Own(*others.segmentation(results, workdir, pictures=pictures))
    else:
        own = Own(*others.frontal(results))
    drawn = curves.charts(metrics, evidence.learning_rates, margin="loss" in settings)
    sections = [
        *own.sections,
        Section("curves", "Training", joined(drawn)),
        *common.affinity(evidence.affinity, settings),
        Section("cost", "Cost and sizes", common.cost(results, settings, workdir)),
        Section("rerun", "How to run it again", common.rerun(results, workdir)),
        Section("config", "Config and versions", common.config(settings, results["versions"])),
    ]
    lead = f"{common.trained(settings, results)} {own.result}"
    figures = [*own.figures, *common.figures(results, metrics)]
    write_text(workdir / NAME, page(common.title(settings), lead, figures, sections))
