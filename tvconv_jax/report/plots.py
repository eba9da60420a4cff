"""Charts of a report: lines, named points with their spread, and training curves from ``metrics.jsonl``."""

import warnings
from collections.abc import Sequence
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np

from tvconv_jax.report.html import Html, joined, tag
from tvconv_jax.report.plot_style import CSS_COLORS, STYLES, drawing, name_points, new_figure, to_svg
from tvconv_jax.utils.files import parse_json

WIDTH, HEIGHT = 5.2, 3.3  # inches
MAX_POINTS, MARKED = 200, 12  # points of a line; so many are marked
SVG = {f"{axis}tick.{name}": size for axis in "xy" for name, size in (("major.size", 0), ("minor.size", 0))}
SVG |= {"svg.fonttype": "none", "axes.labelsize": 12, "lines.markersize": 6, "xtick.major.pad": 6, "ytick.major.pad": 6}
LARGEST = 1e100  # beyond it matplotlib cannot lay out an axis


class Series(NamedTuple):
    """A line: its name in the legend, and its points, ascending in x."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


class Point(NamedTuple):
    """A named point, and its standard deviation in y; ``None``: unknown."""

    label: str
    x: float
    y: float
    spread: float | None = None


class Labels(NamedTuple):
    """The text around a chart: title, names of the axes, a note below the title."""

    title: str
    x: str
    y: str
    note: str = ""


def line_chart(lines: Sequence[Series], labels: Labels, *, stairs: bool = False, **axis: Any) -> Html:
    """Return lines over a common axis; points are marked where they are few.

    Args:
        lines: The lines; numbers that are not finite are gaps.
        labels: The text around them.
        stairs: Whether a value holds until the next point.
        **axis: ``x`` and ``y``: limits of an axis. ``log_x`` and ``log_y``: whether an axis is logarithmic.
    """
    with drawing(**SVG, **{"svg.hashsalt": labels.title}):
        axes = _axes(labels)
        for line, style in zip(lines, cycle(STYLES), strict=False):
            x, y = (_drawable(values) for values in thinned(line)[1:])
            style = style | {"marker": style["marker"] if len(x) <= MARKED and not stairs else None}
            steps = "steps-post" if stairs else "default"
            axes.plot(x, y, gid="series", drawstyle=steps, clip_on="log_y" in axis, **style)
        for name in "xy":
            _scale(axes, name, log=axis.get(f"log_{name}", False), limits=axis.get(name))
        return _figure(axes, labels, _legend([line.label for line in lines]) if len(lines) > 1 else None)


def scatter(points: Sequence[Point], labels: Labels) -> Html:
    """Return named points, with bars for their spread."""
    points = sorted(points, key=lambda point: point.y)
    with drawing(**SVG, **{"svg.hashsalt": labels.title}):
        axes = _axes(labels, height=max(3.7, 1 + 0.26 * len(points)), width=6)
        for point in points:
            axes.errorbar(point.x, point.y, point.spread or None, fmt="o", color="#000000", gid="series")
        axes.margins(0.12)
        for name in "xy":
            _scale(axes, name)
        name_points(axes, [(point.x, point.y, printable(point.label)) for point in points])
        return _figure(axes, labels, None)


def thinned(line: Series) -> Series:
    """Return a line of at most 200 points, means over equal stretches of a longer one."""
    if len(line.x) <= MAX_POINTS:
        return line
    parts = [np.array_split(np.asarray(values, float), MAX_POINTS) for values in (line.x, line.y)]
    return Series(line.label, *([float(np.mean(part)) for part in values] for values in parts))


def tick_text(value: float, _: Any = None) -> str:
    """Return a short text for a tick's value."""
    if abs(value) >= 1000 and value == round(value) and abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")


def printable(text: str) -> str:
    """Return a text without characters that XML cannot hold."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _axes(labels: Labels, *, height: float = HEIGHT, width: float = WIDTH) -> Any:
    axes = new_figure(height, width=width).subplots()
    axes.set(xlabel=printable(labels.x), ylabel=printable(labels.y))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid()
    return axes


def _drawable(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, float)
    return np.where(np.isfinite(array), np.clip(array, -LARGEST, LARGEST), np.nan)


def _scale(axes: Any, axis: str, *, log: bool = False, limits: tuple[float, float] | None = None) -> None:
    """Set the scale, limits and ticks of an axis; one of positive values does not reach below zero."""
    low, high = limits or getattr(axes, f"get_{axis}lim")()
    values = np.concatenate([line.get_data()["xy".index(axis)] for line in axes.get_lines()])
    if log and np.any(values > 0):
        shown = values[values > 0]
        if limits is None:  # whole decades, to the rounding of float32
            low = 10.0 ** np.floor(np.log10(shown.min()) + 1e-6)
            high = max(10.0 ** np.ceil(np.log10(shown.max()) - 1e-6), 10 * low)
        getattr(axes, f"set_{axis}scale")("log")
    elif not np.any(values < 0):
        low = max(low, 0.0)
    getattr(axes, f"set_{axis}lim")(low, high)
    getattr(axes, f"{axis}axis").set_major_formatter(tick_text)
    getattr(axes, f"{axis}axis").set_minor_formatter("")


def _figure(axes: Any, labels: Labels, legend: Html | None) -> Html:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of characters that matplotlib's font lacks; a browser has them
        svg = to_svg(axes.figure, printable(f"{labels.title}: {labels.y} over {labels.x}"))
    note = f" {labels.note}" if labels.note else ""
    return tag("figure", tag("figcaption", tag("b", f"{labels.title}."), note), legend, Html(svg))


def _legend(names: Sequence[str]) -> Html:
    items = []
    for name, style in zip(names, cycle(STYLES), strict=False):
        lengths = [] if style["linestyle"] == "-" else style["linestyle"][1]
        dashes = " ".join(f"{2 * length:g}" for length in lengths) or "none"
        look = f"stroke: {CSS_COLORS[style['color']]}; stroke-width: 2; stroke-dasharray: {dashes}"
        line = tag("line", style=look, x1=0, x2=36, y1=6, y2=6)
        items.append(tag("li", tag("svg", line, viewBox="0 0 36 12", aria_hidden="true"), name))
    return tag("ul", joined(items), class_="legend")


Metrics = list[dict[str, float]]

# Numbers of a training step; all others come from an evaluation.
OF_STEPS = ("step", "loss", "accuracy", "images_per_second", "skipped")
MARGIN = "The loss's margin counts against it, so it stays low until late in training. "


def read_metrics(lines: Sequence[str]) -> Metrics:
    """Parse the lines of the log, without numbers that were not finite, which are ``null`` there.

    Raises:
        ValueError: If one of them is not an object of numbers with a step.
    """
    metrics = [parse_json(line) for line in lines]
    for line in metrics:
        if not isinstance(line, dict) or line.get("step") is None or not all(map(_is_number, line.values())):
            raise ValueError("a line of it is not an object of numbers with a step")
    return [{name: value for name, value in line.items() if value is not None} for line in metrics]


def _is_number(value: object) -> bool:
    return value is None or isinstance(value, int | float) and not isinstance(value, bool)


def charts(metrics: Metrics, learning_rates: np.ndarray, *, margin: bool) -> Html:
    """Return charts of loss, accuracy, evaluations, learning rate and speed, as far as the log has them.

    Args:
        metrics: The log.
        learning_rates: ``[p, 2]``, steps and learning rates.
        margin: Whether the loss has a margin, which lowers the training accuracy.
    """
    steps = (0, max([line["step"] for line in metrics] or [0]) or 1)
    names = list(dict.fromkeys(key for line in metrics for key in line if key not in OF_STEPS))
    evaluations = [_series(metrics, name, "mean" if name == "score" else name) for name in names]
    accuracy = Labels("Training accuracy", "step", "share of the batch", MARGIN if margin else "")
    speed = Labels("Speed", "step", "images/s", "Mean since the first step of the process, evaluations left out.")
    drawn = []
    for lines, labels, options in (
        ([_series(metrics, "loss")], Labels("Loss", "step", "loss"), {}),
        ([_series(metrics, "accuracy")], accuracy, {}),
        (evaluations, Labels("Evaluations", "step", "score", "On images that are not trained on."), {}),
        (
            [Series("", *learning_rates.reshape(-1, 2).T.tolist())],
            Labels("Learning rate", "step", "learning rate"),
            {"log_y": True, "stairs": True},
        ),
        ([_series(metrics, "images_per_second")], speed, {}),
    ):
        longest = max((len(line.x) for line in lines), default=0)
        if longest:
            mean = f" {longest:,} values, drawn as {MAX_POINTS} means." if longest > MAX_POINTS else ""
            drawn.append(line_chart(lines, labels._replace(note=(labels.note + mean).strip()), x=steps, **options))
    return tag("div", *drawn, class_="grid")


def _series(metrics: Metrics, key: str, label: str = "") -> Series:
    found = [(line["step"], line[key]) for line in metrics if key in line]
    return Series(label, [step for step, _ in found], [value for _, value in found])
