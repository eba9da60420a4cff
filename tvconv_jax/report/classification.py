"""Results of classification runs: scores, confusion matrix, curves, calibration, the worst images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from tvconv_jax.data.decoder import pixels
from tvconv_jax.metrics.classification import calibration_bins, ece, with_temperature
from tvconv_jax.report.html import (
    Figure,
    Html,
    Section,
    definitions,
    image,
    joined,
    paragraphs,
    scrolling,
    strip,
    table,
    tag,
    withheld,
)
from tvconv_jax.report.plots import Labels, Series, line_chart, printable

WORST, SIZE = 24, 96  # images, pixels of an image's height
MAX_CLASSES = 40  # of a confusion matrix; of more classes the most frequent confusions are listed
STRONGEST = 45  # percent of color of a cell that holds its whole row: text on it stays readable
SCORES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "ece": "calibration error",
    "log_loss": "log loss",
}
MEANINGS = {
    "95 % interval": "of a bootstrap over the test images, or over groups where the data has them. It says how far the "
    "score depends on the choice of test images; another seed of the training adds to that. An accuracy of 100 % has "
    "no width, however few images there are",
    "balanced accuracy": "mean recall of the classes, so that small classes count as much as large ones",
    "macro F1": "mean F1 of the classes; F1 is the harmonic mean of precision and recall",
    "precision": "of the images predicted as a class, the share that belongs to it",
    "recall": "of the images of a class, the share predicted as it",
    "AUROC": "how often an image of a class scores higher for it than an image of the others; with more than two "
    "classes the mean over them",
    "average precision": "area under the precision-recall curve",
    "calibration error": "how far the probability of the predicted class is from the share of correct images, in 15 "
    "bins of probability",
    "log loss": "mean of -log of the probability of the true class; natural logarithm",
}
Arrays = Mapping[str, np.ndarray]


def describe(
    results: Mapping[str, Any], arrays: Arrays, sets: Mapping[str, Any] | None, *, images: bool
) -> tuple[str, list[Figure], list[Section]]:
    """Return the summary, the figures and the sections of a classification run.

    Args:
        results: ``results.json``: ``classes``; ``test``, of :func:`tvconv_jax.metrics.classification.evaluate`;
            ``temperature``, ``None`` or 1 without one.
        arrays: Of the test images ``probabilities`` ``[n, k]``, with the temperature, ``labels`` ``[n]`` and ``names``
            ``[n]``.
        sets: The source of the test images as ``"test"``; ``None``: not available.
        images: Whether to show images of the data.
    """
    test, classes = results["test"], [printable(name) for name in results["classes"]]
    probabilities, labels = np.asarray(arrays["probabilities"], np.float64), arrays["labels"]
    accuracy, balanced = (_percent(test[name]) + " %" for name in ("accuracy", "balanced_accuracy"))
    wrong = test["images"] - round(test["images"] * test["accuracy"])
    groups = "" if test["groups"] is None else f" of {test['groups']:,} groups"
    text = (
        f"Of {test['images']:,} test images{groups} in {len(classes)} classes, {wrong:,} are classified wrongly: "
        f"accuracy {accuracy}, balanced accuracy {balanced}."
    )
    sections = [
        Section("test", "Test", joined([_scores(test), _by_class(test, classes), definitions(MEANINGS)])),
        Section("confusion", "Confusion", _confusion(np.array(test["confusion"]), classes)),
        *_curves(test, probabilities, labels, classes),
        Section("calibration", "Calibration", _calibration(results.get("temperature"), probabilities, labels)),
        Section("worst", "The worst images", _worst(probabilities, arrays, classes, sets, images=images)),
    ]
    return text, [Figure(accuracy, "test accuracy"), Figure(balanced, "balanced accuracy")], sections


def worst(probabilities: np.ndarray, labels: np.ndarray, number: int = WORST) -> np.ndarray:
    """Return the images that are classified wrongly with the highest probability, the highest first."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")][:number]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _interval(interval: Sequence[float] | None, factor: float = 100) -> str:
    return "-" if interval is None else f"{factor * interval[0]:.2f} to {factor * interval[1]:.2f}"


def _scores(test: Mapping[str, Any]) -> Html:
    unit = "images" if test["groups"] is None else "groups"
    rows = []
    for key, name in SCORES.items():
        if key in test:
            factor, percent = (1, "") if key == "log_loss" else (100, " %")
            value = "-" if test[key] is None else f"{factor * test[key]:.2f}"
            rows.append([name + percent, value, _interval(test["intervals"][key], factor)])
    looked_for = f"; AUROC and average precision of {printable(test['positive'])}" if "positive" in test else ""
    return table(f"Scores, with 95 % intervals over {unit}{looked_for}", ["score", "value", "95 % interval"], rows)


def _by_class(test: Mapping[str, Any], classes: Sequence[str]) -> Html:
    keys = ("recall", "precision", "f1")
    rows = []
    for name, found in zip(classes, test["per_class"].values(), strict=True):
        cells = (cell for key in keys for cell in (_percent(found[key]), _interval(found["intervals"][key])))
        rows.append([name, f"{found['count']:,}", *cells])
    head = ["class", "images", *(cell for key in ("recall", "precision", "F1") for cell in (key, "95 % interval"))]
    empty = [name for name, found in zip(classes, test["per_class"].values(), strict=True) if not found["count"]]
    note = f"Without a test image, and so without a recall: {', '.join(empty)}." if empty else ""
    return joined(
        [table("Classes; all but the number of images in %", head, rows), *([tag("p", note)] if note else [])]
    )


def _confusion(counts: np.ndarray, classes: Sequence[str]) -> Html:
    if len(classes) > MAX_CLASSES:
        return _frequent(counts, classes)
    caption = "Rows: true classes. Columns: predicted classes. The color is the share of the row"
    head = [tag("th", name, scope="col") for name in classes]
    body = []
    for name, row in zip(classes, counts, strict=True):
        shares = STRONGEST * row / max(1, row.sum())
        mixed = (f"background: color-mix(in srgb, var(--s2) {share:.0f}%, transparent)" for share in shares)
        cells = [tag("td", f"{count:,}", style=style) for count, style in zip(row, mixed, strict=True)]
        body.append(tag("tr", tag("th", name, scope="row", class_="words"), *cells))
    titles = tag("thead", tag("tr", tag("th", "true class", scope="col", class_="words"), *head))
    return scrolling("Confusion matrix", tag("table", tag("caption", caption), titles, tag("tbody", *body)))


def _frequent(counts: np.ndarray, classes: Sequence[str]) -> Html:
    wrong = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CLASSES]
    pairs = [(i, j) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True) if wrong[i, j]]
    rows = [[classes[i], classes[j], f"{wrong[i, j]:,}", f"{counts[i].sum():,}"] for i, j in pairs]
    caption = f"The most frequent confusions of {len(classes)} classes; results.json has the whole matrix"
    return table(caption, ["true class", "predicted class", "images", "of"], rows, words=(0, 1))


def _curves(
    test: Mapping[str, Any], probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> list[Section]:
    """Return ROC and precision-recall curves of two classes; no section for more, or where one has no images."""
    if test.get("auroc") is None or "positive" not in test:
        return []
    from sklearn import metrics  # late: reports of other tasks do not need it

    positive = list(test["per_class"]).index(test["positive"])
    true, scores = labels == positive, probabilities[:, positive]
    false_rate, true_rate, _ = metrics.roc_curve(true, scores)
    precision, recall, _ = metrics.precision_recall_curve(true, scores)
    note = f"Positive class: {classes[positive]}."
    roc = Labels("ROC curve", "false positive rate", "true positive rate", note)
    found = Labels("Precision and recall", "recall", "precision", note)
    limits, share = {"x": (0, 1), "y": (0, 1)}, float(np.mean(true))
    chance = [Series("chance", [0, 1], heights) for heights in ([0, 1], [share, share])]
    charts = [
        line_chart([Series("model", false_rate, true_rate), chance[0]], roc, **limits),
        line_chart([Series("model", recall[::-1], precision[::-1]), chance[1]], found, **limits),
    ]
    return [Section("ranking", "Curves", tag("div", *charts, class_="grid"))]


def _calibration(temperature: float | None, probabilities: np.ndarray, labels: np.ndarray) -> Html:
    """Return the reliability diagram, before and after the division by the temperature."""
    lines, text = [], "No temperature was fitted."
    after = 100 * ece(probabilities, labels)
    fitted = temperature not in (None, 1.0)
    if fitted:
        plain = with_temperature(probabilities, 1 / temperature)
        lines = [_reliability("without temperature", plain, labels)]
        text = (
            f"The logits are divided by the temperature {temperature:.3f}, fitted on images that were neither trained "
            f"nor tested on. The calibration error is {100 * ece(plain, labels):.2f} % without it and {after:.2f} % "
            f"with it. The predicted classes do not depend on it."
        )
    lines = [_reliability("with temperature" if fitted else "model", probabilities, labels), *lines]
    lines.append(Series("calibrated", [0, 1], [0, 1]))
    labels_of_chart = Labels(
        "Reliability diagram",
        "probability of the predicted class",
        "share correct",
        "Below the diagonal the model is too sure. Bins with few images scatter.",
    )
    chart = line_chart(lines, labels_of_chart, x=(0, 1), y=(0, 1))
    return joined([paragraphs(text), tag("div", chart, class_="grid")])


def _reliability(name: str, probabilities: np.ndarray, labels: np.ndarray) -> Series:
    confidence, accuracy, _ = calibration_bins(probabilities, labels).T
    return Series(name, confidence, accuracy)


def _worst(
    probabilities: np.ndarray, arrays: Arrays, classes: Sequence[str], sets: Mapping[str, Any] | None, *, images: bool
) -> Html:
    indices, names = worst(probabilities, arrays["labels"]), arrays["names"]
    if not len(indices):
        return paragraphs("No test image is classified wrongly.")
    intro = paragraphs("Test images that are classified wrongly, those with the highest probability first.")
    rows = []
    for index in indices:
        chosen = int(probabilities[index].argmax())
        share = f"{100 * probabilities[index, chosen]:.1f} %"
        rows.append([printable(str(names[index])), classes[arrays["labels"][index]], classes[chosen], share])
    source = (sets or {}).get("test")
    if images and source is not None and _same(source, names, indices):
        tiles = [_tile(source[int(index)]["image"], row) for index, row in zip(indices, rows, strict=True)]
        return joined([intro, tag("div", *tiles, class_="tiles sheet")])
    gone = paragraphs("The data of this run was not available when the report was made.")
    listed = table("The worst images", ["image", "true class", "predicted class", "probability"], rows, words=(0, 1, 2))
    return joined([intro, gone if images else withheld("file names stand here instead"), listed])


def _same(source: Any, names: np.ndarray, indices: np.ndarray) -> bool:
    """Return whether a source holds the tested images still."""
    return len(source) == len(names) and all(source.name(int(index)) == names[index] for index in indices)


def _tile(content: bytes | np.ndarray, row: Sequence[str]) -> Html:
    name, true, predicted, share = row
    decoded = content if isinstance(content, np.ndarray) else pixels(content)
    caption = tag("figcaption", f"{true}, predicted ", tag("b", predicted), f" {share}")
    shown = strip([Image.fromarray(decoded)], SIZE)
    return tag("figure", image(shown, f"{name}: {true}, predicted {predicted}", kind="JPEG"), caption)
