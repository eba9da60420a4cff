"""What comes out of a segmentation run: scores of every picture, their means, a table, outlines to look at."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from rich.console import Console
from rich.table import Table

from tvconv_jax.metrics import segmentation as metrics
from tvconv_jax.metrics.complexity import count
from tvconv_jax.tasks.contours import Outlined, draw_contours
from tvconv_jax.training.logging import command_line, device_description
from tvconv_jax.utils.environment import versions
from tvconv_jax.utils.files import replacing, write_json

STRUCTURES = ("cup", "disc")

HD95 = {
    "pooled": "95th percentile over the distances of both outlines taken together (medpy)",
    "directed": "larger of the two directed 95th percentiles (MONAI)",
}


class Predicted(NamedTuple):
    """A test picture with its true and its predicted masks.

    Attributes:
        name: Of the picture.
        image: ``uint8 [h, w, 3]``.
        true: Boolean ``[h, w, 2]``, cup and disc.
        pred: Boolean ``[h, w, 2]``.
    """

    name: str
    image: np.ndarray
    true: np.ndarray
    pred: np.ndarray


class Measured(NamedTuple):
    """A test picture and how well its masks fit; ``scores`` of cup and disc."""

    picture: Predicted
    scores: tuple[metrics.Scores, metrics.Scores]


def dices(picture: Predicted) -> tuple[float, float]:
    """Dice of cup and disc."""
    cup, disc = (metrics.dice(picture.pred[..., i], picture.true[..., i]) for i in range(2))
    return cup, disc


def measure(picture: Predicted, eval_config: ConfigDict) -> Measured:
    """All scores of one picture, in the definitions that ``config.eval`` names."""
    names = {"definition": eval_config.hd95, "empty": eval_config.empty}
    cup, disc = (metrics.scores(picture.pred[..., i], picture.true[..., i], **names) for i in range(2))
    return Measured(picture, (cup, disc))


def summary(found: Sequence[Measured]) -> dict[str, dict[str, float | int | None]]:
    """Mean and standard deviation over pictures of every score of cup and disc; how many predictions are empty."""
    result = {}
    for i, structure in enumerate(STRUCTURES):
        columns = np.array([one.scores[i] for one in found])
        values = {}
        for name, column in zip(metrics.Scores._fields, columns.T, strict=True):
            known = column[~np.isnan(column)]
            values[name] = _number(known.mean() if known.size else math.nan)
            values[f"{name}_std"] = _number(known.std() if known.size else math.nan)
        result[structure] = {**values, "empty": sum(not one.picture.pred[..., i].any() for one in found)}
    return result


def write_results(
    workdir: Path,
    found: Sequence[Measured],
    config: ConfigDict,
    *,
    constant: np.ndarray,
    step: int,
    selection: str,
    data: str,
    backbone: str,
    model: nn.Module,
    images_per_second: float | None,
) -> None:
    """Writes ``results.json``, ``scores.csv`` and ``pictures.png``.

    Args:
        workdir: Where.
        found: The test pictures, measured.
        config: Of the run.
        constant: Boolean ``[s, s, 2]``, the same masks for every picture; their Dice stands beside the model's.
        step: Of the state that was measured.
        selection: How that state was chosen.
        data: What the data is.
        backbone: What the backbone started from.
        model: The model.
        images_per_second: While training; ``None`` where nobody knows it.
    """
    side = config.data.image_size
    same = [dices(one.picture._replace(pred=_resized(constant, one.picture.true.shape[:2]))) for one in found]
    _write_csv(workdir / "scores.csv", found)
    if config.eval.pictures:
        _draw(workdir / "pictures.png", found, config.eval.pictures, chosen_names(config.eval.show))
    write_json(
        workdir / "results.json",
        {
            "step": step,
            "selection": selection,
            "data": data,
            "test_domain": config.data.test_domain,
            "operator": config.model.operator,
            "backbone": backbone,
            "pictures": len(found),
            **summary(found),
            "constant_mask_dice": dict(zip(STRUCTURES, map(float, np.mean(same, axis=0)), strict=True)),
            "definitions": {
                "mask": f"probability > {config.eval.threshold}, largest part, holes filled, at the mask's own size",
                "dice": "(2 |P and T| + 1) / (|P| + |T| + 1)",
                "hd95": HD95[config.eval.hd95],
                "asd": "mean distance of the predicted outline to the true one",
                "empty": {"nan": "left out of means"}.get(config.eval.empty, config.eval.empty),
                "std": "over pictures",
            },
            "complexity": count(model, (1, side, side, 3))._asdict(),
            "images_per_second": images_per_second,
            "device": device_description(),
            "seed": config.seed,
            "command": command_line(),
            "versions": versions(),
        },
    )


def print_table(found: Sequence[Measured], config: ConfigDict, title: str) -> None:
    """Prints the means."""
    print(f"{title} ({len(found)} pictures; HD95 {config.eval.hd95}, an empty mask counts {config.eval.empty})")
    table = Table()
    for column in ("", "dice %", "std", "HD95 px", "std", "ASD px", "std", "empty"):
        table.add_column(column, justify="left" if not column else "right")
    for structure, row in summary(found).items():
        shown = {"dice": 100, "dice_std": 100}
        cells = (
            "-" if row[key] is None else f"{row[key] * shown.get(key, 1):.2f}"
            for name in metrics.Scores._fields
            for key in (name, f"{name}_std")
        )
        table.add_row(structure, *cells, str(row["empty"]))
    console = Console()
    (console if console.is_terminal else Console(width=100)).print(table)


def _write_csv(path: Path, found: Sequence[Measured]) -> None:
    with replacing(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        fields = [f"{structure}_{name}" for structure in STRUCTURES for name in metrics.Scores._fields]
        writer.writerow(["name", *fields])
        for one in found:
            writer.writerow([one.picture.name, *(f"{value:.6f}" for scores in one.scores for value in scores)])


def chosen_names(text: str) -> list[str]:
    """Names of ``eval.show``, ``"Domain4/000.png,Domain4/007.png"``."""
    return [name for name in text.split(",") if name]


def _draw(path: Path, found: Sequence[Measured], number: int, chosen: Sequence[str]) -> None:
    """The pictures asked for, the worst, worst first, and as many spread evenly over the others."""
    order = sorted(found, key=lambda one: sum(scores.dice for scores in one.scores))
    worst, rest = order[:number], order[number:]
    spread = [rest[i] for i in np.linspace(0, len(rest) - 1, min(number, len(rest))).astype(int)]
    by_name = {one.picture.name: one for one in found}
    rows = {
        "chosen": [_outlined(by_name[name]) for name in chosen],
        "the worst": [_outlined(one) for one in worst],
        "a sample of the others": [_outlined(one) for one in spread],
    }
    draw_contours(path, {title: row for title, row in rows.items() if row})


def _outlined(one: Measured) -> Outlined:
    caption = "cup {:.0%}  disc {:.0%}".format(*(scores.dice for scores in one.scores))
    return Outlined(one.picture.image, one.picture.true, one.picture.pred, caption)


def _resized(maps: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    size = grid[::-1]
    return np.stack([np.asarray(Image.fromarray(maps[..., i]).resize(size)) for i in range(2)], axis=-1)


def _number(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)
