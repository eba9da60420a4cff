"""The paper's Figures 7 and 8 from measurements on a device: accuracy against throughput, and against peak memory.

    python -m tvconv_jax.experiments.figures figure7 runs/pi/*.json --out=runs/pi

The files are what ``python -m tvconv_jax.edge.benchmark --json`` wrote. A point is one artifact at its best batch and
threads, a line an operator, a label a width; artifacts that differ in nothing else, as by seed, are one point.
"""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

from tvconv_jax.experiments.drawing import AXIS, GRID, STYLES, TEXT, new_figure, save
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.plain_files import parse_json

FIGURES = {
    "figure7": ("images_per_second", "throughput, images/s (more is better)"),
    "figure8": ("peak_mb", "peak memory at batch {batch}, MB (less is better)"),
}

# What may differ beside operator and width; it is named in a line's label where it does.
KEYS = ("name", "machine", "runtime", "rank", "precision", "image_size")
LABELS = {"rank": "rank {}", "image_size": "{0}x{0}"}


class Point(NamedTuple):
    """One artifact on one machine.

    Attributes:
        series: What its line is called.
        width: Of the model.
        accuracy: Percent.
        images_per_second: At the best batch and number of threads.
        peak_mb: Peak memory of the process, 10^6 bytes.
        batch: Images that it held at that peak.
    """

    series: str
    width: float
    accuracy: float
    images_per_second: float
    peak_mb: float
    batch: int


def read_points(files: Sequence[Path]) -> list[Point]:
    """One point per model and series; over repeats such as seeds, means.

    Raises:
        UserError: If a file is not of the benchmark, or an artifact in it has no accuracy.
    """
    artifacts = [artifact for file in files for artifact in _read(file)]
    varying = [key for key in KEYS if len({one[key] for one in artifacts}) > 1]
    groups: dict[Any, list[Point]] = defaultdict(list)
    for one in artifacts:
        about = (LABELS.get(key, "{}").format(one[key]) for key in varying if one[key] != "exact")
        point = Point(", ".join((one["operator"], *about)), *one["figures"])
        groups[point.series, point.width, point.batch].append(point)
    return [
        Point(series, width, *(statistics.fmean(values) for values in list(zip(*same, strict=True))[2:5]), batch)
        for (series, width, batch), same in sorted(groups.items())
    ]


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        results = parse_json(file.read_text())
        machine = results["machine"]["model"] or results["machine"]["processor"]
        results["artifacts"][0]  # one at least
        return [_artifact(file, machine, artifact) for artifact in results["artifacts"]]
    except FileNotFoundError:
        raise UserError(f"{file} is not there; tvconv_jax.edge.benchmark --json={file} writes it.") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise UserError(
            f"{file} is no file of figures; tvconv_jax.edge.benchmark --json={file} writes one, without --check-only."
        ) from None


def _artifact(file: Path, machine: str, artifact: dict[str, Any]) -> dict[str, Any]:
    about, memory = artifact["metadata"], artifact["memory"]
    if not about.get("accuracy"):
        raise UserError(
            f"{file}: {artifact['file']} carries no accuracy; export a run of faces whose data has verification sets."
        )
    numbers = about["width"], 100 * about["accuracy"]["mean"], artifact["best"]["images_per_second"]
    figures = tuple(float(number) for number in numbers)
    keys = {key: about.get(key, "exact") for key in ("name", "operator", "rank")}
    keys |= {"precision": about.get("precision", "float32"), "image_size": about["input"]["shape"][-1]}
    return {
        **keys,
        "machine": machine,
        "runtime": artifact["runtime"],
        "figures": (*figures, memory["peak_bytes"] / 1e6, memory["batch"]),
    }


def draw(points: Sequence[Point], out: Path, figures: Sequence[str]) -> list[Path]:
    """Writes ``figure7``, ``figure8`` or both as PNG and PDF.

    Args:
        points: What :func:`read_points` gives.
        out: Folder; made if it is not there.
        figures: Which of the two, by name.

    Returns:
        The files.
    """
    held = ", ".join(str(batch) for batch in sorted({point.batch for point in points}))
    files = []
    for name in figures:
        key, label = FIGURES[name]
        figure = new_figure()
        axes = figure.subplots()
        _draw_series(axes, points, key)
        axes.set_xlabel(label.format(batch=held), fontsize=AXIS)
        axes.set_ylabel("accuracy, %", fontsize=AXIS)
        axes.tick_params(labelsize=TEXT)
        axes.margins(0.12, 0.2)
        axes.grid(color=GRID)
        axes.legend(fontsize=TEXT)
        files += save(figure, out, name)
    return files


def _draw_series(axes: Any, points: Sequence[Point], key: str) -> None:
    """A line a series; the labels of the most accurate stand above it, of the least below, of others on the right."""
    lines = defaultdict(list)
    for point in sorted(points, key=lambda point: (point.series, point.width)):
        lines[point.series].append(point)
    order = sorted(lines, key=lambda series: statistics.fmean(point.accuracy for point in lines[series]))
    places = {series: (20, -4) for series in order} | {order[0]: (0, -19)} | {order[-1]: (0, 9)}
    for style, (series, line) in zip(cycle(STYLES), lines.items(), strict=False):
        xs = [getattr(point, key) for point in line]
        axes.plot(xs, [point.accuracy for point in line], label=series, linewidth=2, markersize=9, **style)
        for point, x in zip(line, xs, strict=True):
            place = {"xytext": places[series], "textcoords": "offset points", "ha": "center"}
            axes.annotate(f"x{point.width}", (x, point.accuracy), fontsize=TEXT, **place)
