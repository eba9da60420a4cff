"""What the report of a face run says: verification, ROC curves, the worst pairs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from tvconv_jax.data.decoder import decode
from tvconv_jax.data.faces import FaceData
from tvconv_jax.data.formats.pairs import Pairs
from tvconv_jax.data.records import Source
from tvconv_jax.metrics.roc import Roc, accepted_at, roc
from tvconv_jax.report.axes import Axis
from tvconv_jax.report.html import Html, details, joined, table, tag
from tvconv_jax.report.images import image, strip
from tvconv_jax.report.page import Figure, Section, paragraphs
from tvconv_jax.report.plots import MAX_POINTS, Labels, Series, line_chart
from tvconv_jax.tasks.report_data import ReportData

WORST, SIDE = 6, 84  # pairs of a kind, and pixels of a picture

MEANINGS = {
    "accuracy": "share of pairs told rightly; the threshold of each of ten folds is chosen on the nine others; ± is "
    "the standard deviation over the folds",
    "threshold": "mean over the folds; cosine under the protocol standard (the same person above it), squared distance "
    "under reference (below it)",
    "AUC": "area under the ROC curve: how often a pair of the same person scores above one of different people",
    "EER": "equal error rate: error where as many are wrongly accepted as wrongly refused",
    "TAR at FAR": "share of the same person accepted where at most that share of different people is; a set of m "
    "pairs of different people knows no rate below 1/m but 0",
}


def describe(
    results: Mapping[str, Any], evidence: ReportData, data: FaceData | None, *, pictures: bool
) -> tuple[str, list[Figure], list[Section]]:
    """The sentence, the figures and the sections of a face run.

    Args:
        results: ``results.json``.
        evidence: Of the run.
        data: What it read; ``None``: it is not at hand.
        pictures: Whether pictures may be shown.
    """
    sets = results["verification"]
    if not sets:
        return "There was no verification set.", [], []
    curves = {name: roc(evidence.cosines[name], evidence.same[name]) for name in sets}
    mean = f"{100 * results['mean_accuracy']:.2f} %"
    pairs = sum(len(same) for same in evidence.same.values())
    text = f"Of {pairs:,} pairs of pictures in {len(sets)} sets it tells {mean} rightly, the same person or not."
    body = [
        _table(results, curves, evidence),
        _roc_chart(curves, evidence),
        details("What the columns mean", _meanings()),
    ]
    if data is None:
        worst = [tag("p", "The data of this run was not at hand when the report was made.")]
    else:
        worst = [] if pictures else [_rule()]
        worst += [_of_set(name, results, evidence, data, pictures=pictures) for name in sets]
    intro = tag(
        "p",
        "In every set the pairs that deceive it most. Two equal pictures have a cosine of 1; above the threshold "
        "it says: the same person.",
    )
    sections = [
        Section("verification", "Verification", joined(body)),
        Section("worst", "The worst pairs", joined([intro, *worst])),
    ]
    return text, [Figure(mean, "pairs told rightly")], sections


def worst(cosines: np.ndarray, same: np.ndarray, number: int = WORST) -> tuple[list[int], list[int]]:
    """The pairs of the same person that look least alike, and of different people that look most alike."""
    order = np.argsort(cosines, kind="stable")
    return order[same[order]][:number].tolist(), order[::-1][~same[order[::-1]]][:number].tolist()


def _table(results: Mapping[str, Any], curves: Mapping[str, Roc], evidence: ReportData) -> Html:
    rows = []
    for name, result in results["verification"].items():
        curve, same = curves[name], evidence.same[name]
        rates = [100 * accepted_at(curve, rate) for rate in (1e-1, 1e-2)] + [100 * result["tar"]]
        numbers = [100 * curve.area, 100 * curve.equal_error, *rates]
        accuracy = f"{100 * result['accuracy']:.2f} ± {100 * result['std']:.2f}"
        rows.append([name, f"{len(same):,}", accuracy, f"{result['threshold']:.3f}", *(f"{n:.2f}" for n in numbers)])
    rows.append(["mean", "", f"{100 * results['mean_accuracy']:.2f}", *[""] * 6])
    caption = f"Verification sets, protocol {results['protocol']}; rates in %"
    rates = [f"TAR at FAR {rate} %" for rate in ("10", "1", "0.1")]
    return table(caption, ["set", "pairs", "accuracy", "threshold", "AUC", "EER", *rates], rows)


def _roc_chart(curves: Mapping[str, Roc], evidence: ReportData) -> Html:
    least = min(1 / np.sum(~same) for same in evidence.same.values())
    rates, lines = np.geomspace(least, 1.0, MAX_POINTS), []  # zero has no place on a logarithmic axis
    for name, curve in curves.items():
        lines.append(Series(name, rates.tolist(), accepted_at(curve, rates).tolist()))
    labels = Labels(
        "ROC curves",
        "different people accepted (FAR)",
        "the same person accepted (TAR)",
        "The higher a line, the better; the farther left, the stricter.",
    )
    return tag("div", line_chart(lines, labels, x=Axis(least, 1.0, log=True), y=Axis(0, 1)), class_="grid")


def _meanings() -> Html:
    return tag("dl", *(tag("div", tag("dt", k), tag("dd", v)) for k, v in MEANINGS.items()), class_="plain")


def _of_set(name: str, results: Mapping[str, Any], evidence: ReportData, data: FaceData, *, pictures: bool) -> Html:
    if name not in data.verification or not np.array_equal(data.verification[name][1].same, evidence.same[name]):
        return tag("p", f"{name}: the pairs that were measured were not at hand when the report was made.")
    return _pictures(name, results, evidence, data) if pictures else _names(name, evidence, data)


def _kinds(name: str, evidence: ReportData) -> list[tuple[str, list[int]]]:
    alike, unlike = worst(evidence.cosines[name], evidence.same[name])
    return [("the same person, least alike", alike), ("different people, most alike", unlike)]


def _pictures(name: str, results: Mapping[str, Any], evidence: ReportData, data: FaceData) -> Html:
    source, pairs = data.verification[name]
    result = results["verification"][name]
    about = f", threshold {result['threshold']:.3f}" if results["protocol"] == "standard" else ""
    rows = []
    for text, chosen in _kinds(name, evidence):
        tiles = [_pair(name, text, source, pairs, i, evidence.cosines[name][i]) for i in chosen]
        rows += [tag("p", text.capitalize(), class_="soft"), tag("div", *tiles, class_="tiles pairs")]
    return joined([tag("h3", name, about), *rows])


def _pair(name: str, text: str, source: Source, pairs: Pairs, index: int, cosine: float) -> Html:
    both = [source[int(side[index])] for side in (pairs.left, pairs.right)]
    pixels = strip([Image.fromarray(decode(record["image"], SIDE)) for record in both], SIDE)
    picture = image(pixels, f"{name}: {text}: {both[0]['name']} and {both[1]['name']}", kind="JPEG")
    return tag("figure", picture, tag("figcaption", f"cosine {cosine:.3f}"))


def _rule() -> Html:
    return paragraphs(
        joined(
            [
                "Pictures of real people stay out of reports, which are passed on; names of files stand here instead. "
                "A run with ",
                tag("code", "--config.eval.report_pictures=True"),
                " shows them.",
            ]
        )
    )


def _names(name: str, evidence: ReportData, data: FaceData) -> Html:
    source, pairs = data.verification[name]
    rows: list[Sequence[Any]] = []
    for text, chosen in _kinds(name, evidence):
        for i in chosen:
            files = [source.name(int(side[i])) for side in (pairs.left, pairs.right)]
            rows.append([f"{evidence.cosines[name][i]:.3f}", text, *files])
    return details(name, table(f"Worst pairs of {name}", ["cosine", "what", "left", "right"], rows, words=(1, 2, 3)))
