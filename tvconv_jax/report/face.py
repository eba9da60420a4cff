"""Results of verification runs: accuracy, ROC curves, the worst pairs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from tvconv_jax.data.decoder import decode, size
from tvconv_jax.metrics.roc import Roc, accepted_at, roc
from tvconv_jax.report.html import (
    Figure,
    Html,
    Section,
    definitions,
    details,
    image,
    joined,
    paragraphs,
    strip,
    table,
    tag,
    withheld,
)
from tvconv_jax.report.plots import MAX_POINTS, Labels, Series, line_chart

WORST, SIZE = 6, 84  # pairs of a kind, pixels of an image
Numbers = Mapping[str, np.ndarray]
Sets = Mapping[str, tuple[Any, Any]]

MEANINGS = {
    "accuracy": "share of pairs classified correctly. The threshold of each of ten folds is chosen on the nine others; "
    "± is the standard deviation over the folds",
    "threshold": "mean over the folds. Protocol standard: cosine, the same identity above it; protocol reference: "
    "squared distance, the same identity below it",
    "AUC": "area under the ROC curve: how often a pair of the same identity scores above one of different identities",
    "EER": "equal error rate: the error where the false accept rate equals the false reject rate",
    "TAR at FAR": "true accept rate at the largest false accept rate up to the one named. With m pairs of different "
    "identities, the smallest rates are 0 and 1/m",
}
KINDS = ("the same identity, least alike", "different identities, most alike")


def describe(
    results: Mapping[str, Any], cosines: Numbers, same: Numbers, sets: Sets | None, *, images: bool
) -> tuple[str, list[Figure], list[Section]]:
    """Return the summary, the figures and the sections of a verification run.

    Args:
        results: ``results.json``.
        cosines: By verification set, the cosine of every pair, ``[n]``.
        same: By verification set, whether a pair shows the same identity, boolean ``[n]``.
        sets: Verification sets by name, each a source of images and the pairs of them; ``None``: not available.
        images: Whether to show images of the worst pairs.
    """
    names = results["verification"]
    if not names:
        return "There was no verification set.", [], []
    curves = {name: roc(cosines[name], same[name]) for name in names}
    mean = f"{100 * results['mean_accuracy']:.2f} %"
    pairs = sum(len(flags) for flags in same.values())
    text = f"The mean verification accuracy is {mean}, on {pairs:,} image pairs in {len(names)} sets."
    body = [_table(results, curves, same), _roc_chart(curves, same), definitions(MEANINGS)]
    if sets is None:
        pairs = [paragraphs("The data of this run was not available when the report was made.")]
    else:
        pairs = [] if images else [withheld("file names stand here instead")]
        pairs += [_worst_of_set(name, results, cosines[name], same[name], sets, images=images) for name in names]
    intro = (
        "The pairs of every set that are furthest on the wrong side of the threshold. Two equal images have a cosine "
        "of 1; a pair above the threshold is classified as the same identity."
    )
    sections = [
        Section("verification", "Verification", joined(body)),
        Section("worst", "The worst pairs", joined([paragraphs(intro), *pairs])),
    ]
    return text, [Figure(mean, "mean verification accuracy")], sections


def worst(cosines: np.ndarray, same: np.ndarray, number: int = WORST) -> tuple[list[int], list[int]]:
    """Return the least alike pairs of the same identity, and the most alike pairs of different identities."""
    order = np.argsort(cosines, kind="stable")
    return order[same[order]][:number].tolist(), order[::-1][~same[order[::-1]]][:number].tolist()


def _table(results: Mapping[str, Any], curves: Mapping[str, Roc], same: Numbers) -> Html:
    rows = []
    for name, result in results["verification"].items():
        curve = curves[name]
        shares = [curve.area, curve.equal_error, *accepted_at(curve, [1e-1, 1e-2]), result["tar"]]
        accuracy = f"{100 * result['accuracy']:.2f} ± {100 * result['std']:.2f}"
        cells = [f"{len(same[name]):,}", accuracy, f"{result['threshold']:.3f}"]
        rows.append([name, *cells, *(f"{100 * share:.2f}" for share in shares)])
    rows.append(["mean", "", f"{100 * results['mean_accuracy']:.2f}", *[""] * 6])
    rates = [f"TAR at FAR {rate} %" for rate in ("10", "1", "0.1")]
    head = ["set", "pairs", "accuracy", "threshold", "AUC", "EER", *rates]
    return table(f"Verification sets, protocol {results['protocol']}; all but pairs and threshold in %", head, rows)


def _roc_chart(curves: Mapping[str, Roc], same: Numbers) -> Html:
    smallest = min(1 / np.sum(~flags) for flags in same.values())
    rates = np.geomspace(smallest, 1.0, MAX_POINTS)  # zero has no place on a logarithmic axis
    lines = [Series(name, rates, accepted_at(curve, rates)) for name, curve in curves.items()]
    labels = Labels(
        "ROC curves",
        "false accept rate (FAR)",
        "true accept rate (TAR)",
        "The higher a line, the better; the farther left, the stricter.",
    )
    return tag("div", line_chart(lines, labels, x=(smallest, 1.0), y=(0, 1), log_x=True), class_="grid")


def _worst_of_set(
    name: str, results: Mapping[str, Any], cosines: np.ndarray, same: np.ndarray, sets: Sets, *, images: bool
) -> Html:
    if name not in sets or not np.array_equal(sets[name][1].same, same):
        return paragraphs(f"{name}: the measured pairs were not available when the report was made.")
    source, pairs = sets[name]
    chosen = zip(KINDS, worst(cosines, same), strict=True)
    found = [(kind, [(i, int(pairs.left[i]), int(pairs.right[i])) for i in indices]) for kind, indices in chosen]
    if not images:
        rows = [
            [f"{cosines[i]:.3f}", kind, source.name(left), source.name(right)]
            for kind, indices in found
            for i, left, right in indices
        ]
        head = ["cosine", "pair", "left", "right"]
        return details(name, table(f"Worst pairs of {name}", head, rows, words=(1, 2, 3)))
    threshold = f", threshold {results['verification'][name]['threshold']:.3f}"
    parts = [tag("h3", name, threshold if results["protocol"] == "standard" else "")]
    for kind, indices in found:
        tiles = [_pair(f"{name}: {kind}", [source[left], source[right]], cosines[i]) for i, left, right in indices]
        parts += [tag("p", kind.capitalize(), class_="soft"), tag("div", *tiles, class_="tiles pairs")]
    return joined(parts)


def _as_tall(encoded: bytes) -> np.ndarray:
    """Decode an image of :data:`SIZE` pixels height, with its own ratio of width to height up to 3."""
    height, width = size(encoded)
    return decode(encoded, (SIZE, round(SIZE * min(max(width / height, 1 / 3), 3))))


def _pair(title: str, records: Sequence[Mapping[str, Any]], cosine: float) -> Html:
    pixels = strip([Image.fromarray(_as_tall(record["image"])) for record in records], SIZE)
    shown = image(pixels, f"{title}: {records[0]['name']} and {records[1]['name']}", kind="JPEG")
    return tag("figure", shown, tag("figcaption", f"cosine {cosine:.3f}"))
