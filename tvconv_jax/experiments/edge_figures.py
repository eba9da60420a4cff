"""The paper's Figures 7 and 8 from measurements on a device: accuracy against throughput, and against peak memory.

    python -m tvconv_jax.experiments.figures figure7 runs/pi/*.json --out=runs/pi

The files are written by ``python -m tvconv_jax.edge.benchmark --json``. A point is an artifact at its best batch size
and number of threads, a line an operator, a label a width. Artifacts that differ only by seed are one point.
"""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

from tvconv_jax.report.plot_style import STYLES, label_axes, new_figure, save
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import parse_json

FIGURES = {
    "figure7": ("images_per_second", "throughput, images/s (more is better)"),
    "figure8": ("peak_mb", "peak memory at batch {batch}, MB (less is better)"),
}

# Keys besides operator and width that distinguish lines; a line's label names those that differ.
KEYS = ("name", "machine", "runtime", "rank", "precision", "image_size")
LABELS = {"rank": "rank {}", "image_size": "{0}x{0}"}


class Point(NamedTuple):
    """An artifact on a machine, at its best batch size and number of threads."""

    series: str  # label of its line
    width: float
    accuracy: float  # percent
    images_per_second: float
    peak_mb: float  # peak memory of the process, 10^6 bytes
    batch: int  # at that peak


def read_points(files: Sequence[Path]) -> list[Point]:
    """Return a point for every model and series, the mean over repeats such as seeds.

    Raises:
        UserError: If a file is not of the benchmark, or an artifact in it has no accuracy.
    """
    artifacts = [artifact for file in files for artifact in _read(file)]
    varying = [key for key in KEYS if len({artifact[key] for artifact in artifacts}) > 1]
    groups: dict[Any, list[Point]] = defaultdict(list)
    for artifact in artifacts:
        details = (LABELS.get(key, "{}").format(artifact[key]) for key in varying if artifact[key] != "exact")
        point = Point(", ".join((artifact["operator"], *details)), *artifact["figures"])
        groups[point.series, point.width, point.batch].append(point)
    return [
        Point(series, width, *(statistics.fmean(values) for values in list(zip(*same, strict=True))[2:5]), batch)
        for (series, width, batch), same in sorted(groups.items())
    ]


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        results = parse_json(file.read_text())
        machine = results["machine"]["model"] or results["machine"]["processor"]
        results["artifacts"][0]  # at least one
        return [_artifact(file, machine, artifact) for artifact in results["artifacts"]]
    except FileNotFoundError:
        raise UserError(f"{file} is not there; tvconv_jax.edge.benchmark --json={file} writes it.") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise UserError(
            f"{file} is not a file of the benchmark; tvconv_jax.edge.benchmark --json={file} writes one, without "
            f"--check-only."
        ) from None


def _artifact(file: Path, machine: str, artifact: dict[str, Any]) -> dict[str, Any]:
    metadata, memory = artifact["metadata"], artifact["memory"]
    if not metadata.get("accuracy"):
        raise UserError(
            f"{file}: {artifact['file']} carries no accuracy; export a run of faces whose data has verification sets."
        )
    numbers = metadata["width"], 100 * metadata["accuracy"]["mean"], artifact["best"]["images_per_second"]
    figures = tuple(float(number) for number in numbers)
    keys = {key: metadata.get(key, "exact") for key in ("name", "operator", "rank")}
    keys |= {"precision": metadata.get("precision", "float32"), "image_size": metadata["input"]["shape"][-1]}
    return {
        **keys,
        "machine": machine,
        "runtime": artifact["runtime"],
        "figures": (*figures, memory["peak_bytes"] / 1e6, memory["batch"]),
    }


def figure7(files: Sequence[Path], out: Path, name: str = "figure7") -> list[Path]:
    """Write ``figure7``, or another figure of :data:`FIGURES`."""
    points = read_points(files)
    key, label = FIGURES[name]
    figure = new_figure()
    axes = figure.subplots()
    _draw_series(axes, points, key)
    batches = ", ".join(str(batch) for batch in sorted({point.batch for point in points}))
    label_axes(axes, label.format(batch=batches), "accuracy, %")
    axes.margins(0.12, 0.2)
    axes.legend()
    return save(figure, out, name)


def figure8(files: Sequence[Path], out: Path) -> list[Path]:
    """Write ``figure8``."""
    return figure7(files, out, "figure8")


def _draw_series(axes: Any, points: Sequence[Point], key: str) -> None:
    """Draw a line for every series; labels above the most accurate, below the least, right of the others."""
    lines = defaultdict(list)
    for point in sorted(points, key=lambda point: (point.series, point.width)):
        lines[point.series].append(point)
    order = sorted(lines, key=lambda series: statistics.fmean(point.accuracy for point in lines[series]))
    places = {series: (20, -4) for series in order} | {order[0]: (0, -19)} | {order[-1]: (0, 9)}
    for style, (series, line) in zip(cycle(STYLES), lines.items(), strict=False):
        xs = [getattr(point, key) for point in line]
        axes.plot(xs, [point.accuracy for point in line], label=series, **style)
        for point, x in zip(line, xs, strict=True):
            place = {"xytext": places[series], "textcoords": "offset points", "ha": "center"}
            axes.annotate(f"x{point.width}", (x, point.accuracy), **place)
