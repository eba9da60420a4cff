"""Results of a segmentation run: scores of every image, their means, a table, outlines to look at."""

import csv
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from scipy import ndimage

from tvconv_jax.data.tools.contact_sheet import Row, draw_contact_sheet
from tvconv_jax.metrics import segmentation as metrics
from tvconv_jax.utils import console
from tvconv_jax.utils.files import replacing

STRUCTURES = ("cup", "disc")

HD95 = {
    "pooled": "95th percentile over the distances of both outlines taken together (medpy)",
    "directed": "larger of the two directed 95th percentiles (MONAI)",
}

SIZE = 224  # pixels of an image with outlines
# Distinguished in gray too: the truth is light, the prediction dark.
TRUE, PRED = ((255, 255, 255), (255, 255, 255)), ((0, 130, 0), (0, 30, 230))  # cup, disc


class Predicted(NamedTuple):
    """A test image with its true and its predicted masks."""

    name: str
    image: np.ndarray  # uint8 [h, w, 3]
    true: np.ndarray  # boolean [h, w, 2], cup and disc
    pred: np.ndarray  # the same


class Tile(NamedTuple):
    """A test image of a contact sheet."""

    name: str
    caption: str
    draw: Callable[[], Image.Image]


class Measured(NamedTuple):
    """A test image with the scores of cup and disc."""

    predicted: Predicted
    scores: tuple[metrics.Scores, metrics.Scores]


def dices(predicted: Predicted) -> tuple[float, float]:
    """Return Dice of cup and disc."""
    cup, disc = (metrics.dice(predicted.pred[..., i], predicted.true[..., i]) for i in range(2))
    return cup, disc


def measure(predicted: Predicted, eval_config: ConfigDict) -> Measured:
    """Compute all scores of one image, in the definitions that ``config.eval`` names."""
    names = {"definition": eval_config.hd95, "empty": eval_config.empty}
    cup, disc = (metrics.scores(predicted.pred[..., i], predicted.true[..., i], **names) for i in range(2))
    return Measured(predicted, (cup, disc))


def summary(found: Sequence[Measured]) -> dict[str, dict[str, float | int | None]]:
    """Return mean and standard deviation over images of every score of cup and disc, and counts of empty masks."""
    result = {}
    for i, structure in enumerate(STRUCTURES):
        columns = np.array([item.scores[i] for item in found])
        values = {}
        for name, column in zip(metrics.Scores._fields, columns.T, strict=True):
            known = column[~np.isnan(column)]
            values[name] = float(known.mean()) if known.size else None
            values[f"{name}_std"] = float(known.std()) if known.size else None
        result[structure] = {**values, "empty": sum(not item.predicted.pred[..., i].any() for item in found)}
    return result


def results_of(found: Sequence[Measured], eval_config: ConfigDict, constant: np.ndarray) -> dict[str, Any]:
    """Return the part of ``results.json`` about the test images.

    The Dice of ``constant``, boolean ``[s, s, 2]``, the same masks for every image, stands beside the model's.
    """
    same = [dices(item.predicted._replace(pred=_resized(constant, item.predicted.true.shape[:2]))) for item in found]
    return {
        "pictures": len(found),
        **summary(found),
        "constant_mask_dice": dict(zip(STRUCTURES, map(float, np.mean(same, axis=0)), strict=True)),
        "definitions": {
            "mask": f"probability > {eval_config.threshold}, largest part, holes filled, at the mask's own size",
            "dice": "(2 |P and T| + 1) / (|P| + |T| + 1)",
            "hd95": HD95[eval_config.hd95],
            "asd": "mean distance of the predicted outline to the true one",
            "empty": {"nan": "left out of means"}.get(eval_config.empty, eval_config.empty),
            "std": "over images",
        },
    }


def print_scores(found: Sequence[Measured], config: ConfigDict, title: str) -> None:
    """Print a table of the means."""
    print(f"{title} ({len(found)} images; HD95 {config.eval.hd95}, an empty mask counts {config.eval.empty})")
    table = console.make_table(("", "dice %", "std", "HD95 px", "std", "ASD px", "std", "empty"), left=[""])
    for structure, row in summary(found).items():
        keys = [key for name in metrics.Scores._fields for key in (name, f"{name}_std")]
        cells = ("-" if row[key] is None else f"{row[key] * (100 if 'dice' in key else 1):.2f}" for key in keys)
        table.add_row(structure, *cells, str(row["empty"]))
    console.print_table(table, width=100)


def write_csv(path: Path, found: Sequence[Measured]) -> None:
    """Write the scores of every image."""
    with replacing(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        fields = [f"{structure}_{name}" for structure in STRUCTURES for name in metrics.Scores._fields]
        writer.writerow(["name", *fields])
        for item in found:
            writer.writerow([item.predicted.name, *(f"{value:.6f}" for scores in item.scores for value in scores)])


def write_outlines(path: Path, order: Sequence[Tile], legend: str, eval_config: ConfigDict) -> None:
    """Write a sheet of test images: those of ``eval.visualize``, the first ``eval.num_images``, as many of the others.

    ``order`` has all of them, the worst first.
    """
    number, by_name = eval_config.num_images, {tile.name: tile for tile in order}
    rest = order[number:]
    spread = [rest[i] for i in np.linspace(0, len(rest) - 1, min(number, len(rest))).astype(int)]
    chosen = [by_name[name] for name in filter(None, eval_config.visualize.split(","))]
    rows = {"chosen": chosen, "the worst": order[:number], "a sample of the others": spread}
    sheet = [Row(k, [tile.draw() for tile in row], [tile.caption for tile in row]) for k, row in rows.items() if row]
    with replacing(path) as part:
        draw_contact_sheet([*sheet, Row(legend)], size=SIZE, gap=6, line=20).save(part)


def draw_outlines(path: Path, found: Sequence[Measured], eval_config: ConfigDict) -> None:
    """Write :func:`write_outlines`'s sheet with the true and the predicted masks (the paper's Figure 9)."""
    tiles = []
    for predicted, scores in sorted(found, key=lambda item: sum(scores.dice for scores in item.scores)):
        caption = "cup {:.0%}  disc {:.0%}".format(*(score.dice for score in scores))
        tiles.append(Tile(predicted.name, caption, partial(outlined, predicted)))
    write_outlines(path, tiles, "white: truth; blue: predicted disc; green: predicted cup", eval_config)


def outlined(item: Predicted) -> Image.Image:
    """Return the image, ``SIZE`` x ``SIZE``, with its true outlines in white and the predicted ones in color."""
    size = (SIZE, SIZE)
    pixels = np.array(Image.fromarray(item.image).resize(size, Image.Resampling.BICUBIC))
    for maps, colors, width in ((item.true, TRUE, 3), (item.pred, PRED, 2)):
        for i, color in enumerate(colors):
            mask = np.asarray(Image.fromarray(maps[..., i]).resize(size, Image.Resampling.NEAREST))
            pixels[mask & ~ndimage.binary_erosion(mask, iterations=width)] = color
    return Image.fromarray(pixels)


def _resized(maps: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    size = grid[::-1]
    return np.stack([np.asarray(Image.fromarray(maps[..., i]).resize(size)) for i in range(2)], axis=-1)
