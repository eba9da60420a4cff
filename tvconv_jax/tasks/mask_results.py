"""Results on masks of one's own: scores of every image and class, their means, a table, outlines to look at."""

import csv
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from scipy import ndimage

from tvconv_jax.data import decoder
from tvconv_jax.data.listing import printable
from tvconv_jax.data.mask_classes import IGNORE, MaskClasses
from tvconv_jax.data.mask_files import MaskFile
from tvconv_jax.data.masks import decode_pair
from tvconv_jax.metrics.label_maps import SCORES, scores_by_class, summarize
from tvconv_jax.metrics.segmentation import overlap
from tvconv_jax.tasks.evaluation import HD95, SIZE, Tile, write_outlines
from tvconv_jax.utils import console
from tvconv_jax.utils.files import replacing

SHOWN = 20  # classes in the printed table
TRUE = (255, 255, 255)
COLORS = {
    "blue": (0, 60, 255),
    "orange": (255, 140, 0),
    "green": (0, 160, 0),
    "magenta": (230, 0, 200),
    "cyan": (0, 200, 220),
    "red": (220, 0, 0),
    "yellow": (235, 215, 0),
    "brown": (140, 80, 20),
}  # of the predicted outlines by class, again from the first


class Prediction(NamedTuple):
    """A test image with its true and its predicted labels."""

    file: MaskFile
    true: np.ndarray  # uint8 [h, w]
    pred: np.ndarray  # the same


class MaskScores(NamedTuple):
    """The scores of a test image."""

    file: MaskFile
    scores: np.ndarray  # Dice, IoU and HD95 of each class, float64 [k, 3]; NaN where neither mask has the class
    constant: np.ndarray  # Dice of each class of the same mask for every image, [k]
    pred: bytes  # the predicted labels, as PNG


def scores_of(predicted: Prediction, classes: MaskClasses, **options: Any) -> np.ndarray:
    """Return Dice, IoU and HD95 of each class of an image, ``[k, 3]``, see :func:`scores_by_class`."""
    return scores_by_class(predicted.pred, predicted.true, len(classes.names), ignore=IGNORE, **options)


def measure(predicted: Prediction, classes: MaskClasses, constant: np.ndarray, eval_config: ConfigDict) -> MaskScores:
    """Compute the scores of an image, in the definitions of ``config.eval``; ``constant`` is a mask for all images."""
    scores = scores_of(predicted, classes, definition=eval_config.hd95, empty=eval_config.empty)
    same = decoder.resize(constant, predicted.true.shape, Image.Resampling.NEAREST)
    counted = predicted.true != IGNORE
    masks = [((same == i) & counted, (predicted.true == i) & counted) for i in range(len(classes.names))]
    dices = np.array([overlap(*pair)[0] for pair in masks])
    return MaskScores(predicted.file, scores, dices, decoder.encode(predicted.pred, "PNG"))


def results_of(found: Sequence[MaskScores], classes: MaskClasses, config: ConfigDict) -> dict[str, Any]:
    """Return the part of ``results.json`` about the test images."""
    background = classes.background
    summary = _summary(found, classes, config)
    constant = _summary(found, classes, config, constant=True)
    return {
        "images": len(found),
        "groups": len({item.file.group for item in found}) if found[0].file.group else None,
        "background": None if background is None else classes.names[background],
        **summary,
        "constant_mask_dice": {
            "mean": constant["mean"]["dice"],
            **{name: row["dice"] for name, row in constant["per_class"].items()},
        },
        "definitions": {
            "dice": "2 |P and T| / (|P| + |T|), mean over images; an image without the class in mask and prediction is "
            "left out",
            "iou": "|P and T| / |P or T|, the same",
            "hd95": HD95[config.eval.hd95],
            "empty": "HD95 where one of the two lacks the class: "
            + {"nan": "left out", "diagonal": "the diagonal of the image"}.get(config.eval.empty, config.eval.empty),
            "one mask for all": "Dice of one mask for every image: each pixel has its most frequent class in training",
            "mean": "over the classes" + ("" if background is None else f" without {classes.names[background]}"),
            "interval": "95 %, bootstrap over " + ("groups" if found[0].file.group else "images"),
        },
    }


def _summary(
    found: Sequence[MaskScores], classes: MaskClasses, config: ConfigDict, *, constant: bool = False
) -> dict[str, Any]:
    scores = np.stack([item.scores for item in found])
    if constant:
        scores = np.stack([item.constant for item in found])[..., None].repeat(len(SCORES), axis=-1)
    groups = [item.file.group for item in found] if found[0].file.group else None
    bootstrap = 0 if constant else config.eval.bootstrap
    return summarize(scores, classes.names, classes.foreground, groups=groups, bootstrap=bootstrap, seed=config.seed)


def print_scores(found: Sequence[MaskScores], classes: MaskClasses, config: ConfigDict, title: str) -> None:
    """Print a table of the means; of many classes, of those with the lowest Dice."""
    print(f"{title} ({len(found)} images; HD95 {config.eval.hd95}, a missing class counts {config.eval.empty})")
    result, constant = _summary(found, classes, config), _summary(found, classes, config, constant=True)
    same = {"mean": constant["mean"], **constant["per_class"]}
    columns = ("class", "Dice %", "95 % interval", "of one mask for all", "IoU %", "HD95 px", "images")
    table = console.make_table(columns, left=["class"])
    rows = sorted(result["per_class"].items(), key=lambda item: item[1]["dice"] or 0)
    for name, row in {"mean": result["mean"], **dict(rows[:SHOWN])}.items():
        interval = row["intervals"]["dice"]
        low_high = "-" if interval is None else " to ".join(f"{100 * value:.2f}" for value in interval)
        hd95 = "-" if row["hd95"] is None else f"{row['hd95']:.2f}"
        dices = (_percent(row["dice"]), low_high, _percent(same[name]["dice"]))
        cells = (*dices, _percent(row["iou"]), hd95, str(row.get("images", "")))
        table.add_row(printable(name).replace("[", r"\["), *cells)
    console.print_table(table, width=100)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def write_csv(path: Path, found: Sequence[MaskScores], classes: Sequence[str]) -> None:
    """Write the scores of every image; a cell is empty where neither mask has the class."""
    with replacing(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", *(f"{name} {score}" for name in classes for score in SCORES)])
        for item in found:
            cells = ("" if np.isnan(value) else f"{value:.6f}" for value in item.scores.ravel())
            writer.writerow([item.file.name, *cells])


def draw_outlines(path: Path, found: Sequence[MaskScores], classes: MaskClasses, eval_config: ConfigDict) -> None:
    """Write :func:`.write_outlines`'s sheet with the true and the predicted masks."""
    foreground = classes.foreground
    means = {item.file.name: _mean(item.scores[foreground, 0]) for item in found}
    colors = zip(foreground, [*COLORS] * len(foreground), strict=False)
    named = [f"{color}: predicted {printable(classes.names[label])}" for label, color in colors]
    order = sorted(found, key=lambda item: means[item.file.name])
    write_outlines(
        path,
        [Tile(item.file.name, f"Dice {means[item.file.name]:.0%}", partial(outlined, item, classes)) for item in order],
        f"white: truth; {'; '.join(named)}",
        eval_config,
    )


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else 1.0


def outlined(item: MaskScores, classes: MaskClasses) -> Image.Image:
    """Return the image, fitted into a square, with its true outlines in white and the predicted ones in color."""
    image, true = decode_pair(item.file, classes)
    pred = decoder.gray(item.pred)
    scale = SIZE / max(true.shape)
    size = tuple(max(1, round(side * scale)) for side in true.shape)
    pixels = np.array(decoder.resize(image, size, Image.Resampling.BICUBIC))
    true, pred = (decoder.resize(labels, size, Image.Resampling.NEAREST) for labels in (true, pred))
    for labels, width in ((true, 3), (pred, 2)):
        for label, color in zip(classes.foreground, [*COLORS.values()] * len(classes.names), strict=False):
            mask = labels == label
            pixels[mask & ~ndimage.binary_erosion(mask, iterations=width)] = TRUE if labels is true else color
    tile = Image.new("RGB", (SIZE, SIZE), "black")
    tile.paste(Image.fromarray(pixels), ((SIZE - size[1]) // 2, (SIZE - size[0]) // 2))
    return tile
