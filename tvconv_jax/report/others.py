"""Results of segmentation and frontal runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from tvconv_jax.data.decoder import ImageError, pixels, read_image
from tvconv_jax.report.html import Figure, Section, definitions, image, joined, paragraphs, scrolling, table, withheld

STRUCTURES = ("cup", "disc")
HEAD = ("", "Dice %", "HD95 px", "ASD px", "empty predictions", "Dice % of a constant mask")
MASKS_HEAD = ("class", "Dice %", "of one mask for all", "IoU %", "HD95 px", "images")
UNSEEN = "Images of identities that are not in the training set"


def segmentation(results: Mapping[str, Any], workdir: Path, *, images: bool) -> tuple[str, list[Figure], list[Section]]:
    """Return the summary, the figures and the sections of a segmentation run."""
    dice = {name: f"{100 * results[name]['dice']:.2f} %" for name in STRUCTURES}
    text = (
        f"Tested on {results['pictures']} images of domain {results['test_domain']}, which is not in the training "
        f"set; the tested checkpoint is {results['selection']}. Dice: cup {dice['cup']}, disc {dice['disc']}."
    )
    rows = []
    for name in STRUCTURES:
        row = results[name]
        cells = [_spread(row, "dice", 100), _spread(row, "hd95"), _spread(row, "asd"), row["empty"]]
        rows.append([name, *cells, f"{100 * results['constant_mask_dice'][name]:.2f}"])
    caption = f"Domain {results['test_domain']}, mean ± standard deviation over images"
    scores = joined([table(caption, HEAD, rows), definitions(results["definitions"])])
    sections = [Section("scores", "Scores", scores), *_outlines(workdir, images)]
    return text, [Figure(dice[name], f"Dice of the {name}") for name in STRUCTURES], sections


def _outlines(workdir: Path, images: bool) -> list[Section]:
    file = workdir / "pictures.png"
    if not file.exists():
        return []
    if images:
        try:
            sheet = Image.fromarray(pixels(read_image(file)))
        except ImageError:  # somebody changed it; the rest of the report stands
            return []
        body = scrolling("Outlines", image(sheet, "Outlines of the truth and of the prediction", kind="JPEG"))
    else:
        body = withheld(f"they are beside this file, in {file.name}")
    return [Section("outlines", "Outlines", body)]


def masks(results: Mapping[str, Any], workdir: Path, *, images: bool) -> tuple[str, list[Figure], list[Section]]:
    """Return the summary, the figures and the sections of a run on masks of one's own."""
    mean, others = results["mean"]["dice"], results["background"]
    dice = "-" if mean is None else f"{100 * mean:.2f} %"
    text = (
        f"On the {results['images']} test images, the mean Dice over the classes"
        f"{f' without {others}' if others else ''} is {dice}; the tested checkpoint is {results['selection']}."
    )
    constant = results["constant_mask_dice"]
    rows = []
    for name, row in {"mean": results["mean"], **results["per_class"]}.items():
        same = "-" if constant[name] is None else f"{100 * constant[name]:.2f}"
        cells = _with_interval(row)
        rows.append([name, cells[0], same, *cells[1:], row.get("images", "")])
    caption = f"Test images, mean and {results['definitions']['interval']}"
    scores = joined([table(caption, MASKS_HEAD, rows), definitions(results["definitions"])])
    notes = [paragraphs(*results["notes"])] if results["notes"] else []
    sections = [Section("scores", "Scores", joined([scores, *notes])), *_outlines(workdir, images)]
    return text, [Figure(dice, "mean Dice")], sections


def _with_interval(row: Mapping[str, Any]) -> list[str]:
    cells = []
    for name, factor in (("dice", 100), ("iou", 100), ("hd95", 1)):
        value, interval = row[name], row["intervals"][name]
        low_high = "" if interval is None else " ({:.2f} to {:.2f})".format(*(factor * number for number in interval))
        cells.append("-" if value is None else f"{factor * value:.2f}{low_high}")
    return cells


def frontal(results: Mapping[str, Any]) -> tuple[str, list[Figure], list[Section]]:
    """Return the summary, the figures and the sections of a run that classifies frontal faces and profiles."""
    test, accuracy = results["test"], f"{100 * results['test']['all']:.2f} %"
    text = f"On images of identities that are not in the training set, the accuracy is {accuracy}."
    rows = [[name, f"{100 * value:.2f}"] for name, value in test.items()]
    body = table(UNSEEN, ["images", "accuracy %"], rows)
    return text, [Figure(accuracy, "test accuracy")], [Section("test", "Test", body)]


def _spread(row: Mapping[str, Any], name: str, factor: float = 1) -> str:
    return "-" if row[name] is None else f"{factor * row[name]:.2f} ± {factor * row[f'{name}_std']:.2f}"
