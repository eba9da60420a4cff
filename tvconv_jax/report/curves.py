"""Curves of a training from ``metrics.jsonl``."""

from collections.abc import Sequence

import numpy as np

from tvconv_jax.report.axes import Axis, log_axis
from tvconv_jax.report.html import Html, tag
from tvconv_jax.report.plots import MAX_POINTS, Labels, Series, corners, line_chart
from tvconv_jax.utils.plain_files import parse_json

Metrics = list[dict[str, float]]

# What a line of the log says of the step itself; all else comes from an evaluation.
OF_STEPS = ("step", "loss", "accuracy", "images_per_second", "skipped")
NAMES = {"score": "mean"}


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


def charts(metrics: Metrics, learning_rates: np.ndarray, *, margin: bool) -> list[Html]:
    """Loss, share recognized, evaluations, learning rate and speed over steps, as far as the log has them.

    Args:
        metrics: The log.
        learning_rates: ``[p, 2]``, steps and rates.
        margin: Whether pictures count as recognized in spite of the loss's margin.
    """
    last = max([line["step"] for line in metrics] or [1])
    steps = Axis(0, last)
    drawn = []
    against = "Counted with the loss's margin against them: few are until late. " if margin else ""
    for key, title, unit, note in (
        ("loss", "Loss", "loss", ""),
        ("accuracy", "Training pictures recognized", "share of the batch", against),
    ):
        line = _series(metrics, key, unit)
        if line.x:
            drawn.append(line_chart([line], Labels(title, "step", unit, note + _note(line)), x=steps))
    names = list(dict.fromkeys(key for line in metrics for key in line if key not in OF_STEPS))
    if names:
        lines = [_series(metrics, name, NAMES.get(name, name)) for name in names]
        note = "On pictures that are not trained on."
        drawn.append(line_chart(lines, Labels("Evaluations", "step", "score", note), x=steps))
    if learning_rates.size:
        at, rates = corners(*learning_rates.T.tolist())
        scale = log_axis([rate for rate in rates if rate > 0] or [1.0])
        labels = Labels("Learning rate", "step", "rate")
        drawn.append(line_chart([Series("", at, rates)], labels, x=steps, y=scale, marked=False))
    speed = _series(metrics, "images_per_second", "")
    if speed.x:
        note = "Mean since the first step of the process, evaluations left out."
        drawn.append(line_chart([speed], Labels("Speed", "step", "images a second", note), x=steps))
    return [tag("div", *drawn, class_="grid")]


def _series(metrics: Metrics, key: str, label: str) -> Series:
    found = [(line["step"], line[key]) for line in metrics if key in line]
    return Series(label, *([list(column) for column in zip(*found, strict=True)] or [[], []]))


def _note(line: Sequence) -> str:
    return f"{len(line.x):,} values, drawn as {MAX_POINTS} means." if len(line.x) > MAX_POINTS else ""
