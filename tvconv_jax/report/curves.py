"""Training curves from ``metrics.jsonl``."""

from collections.abc import Sequence

import numpy as np

from tvconv_jax.report.html import Html, tag
from tvconv_jax.report.plots import MAX_POINTS, Labels, Series, line_chart
from tvconv_jax.utils.files import parse_json

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
