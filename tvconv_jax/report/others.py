"""Results of segmentation and frontal runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from tvconv_jax.data.decoder import ImageError, pixels, read_image
from tvconv_jax.report.html import Figure, Section, definitions, image, joined, scrolling, table, withheld

STRUCTURES = ("cup", "disc")
HEAD = ("", "Dice %", "HD95 px", "ASD px", "empty predictions", "Dice % of a constant mask")
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


def frontal(results: Mapping[str, Any]) -> tuple[str, list[Figure], list[Section]]:
    """Return the summary, the figures and the sections of a run that classifies frontal faces and profiles."""
    test, accuracy = results["test"], f"{100 * results['test']['all']:.2f} %"
    text = f"On images of identities that are not in the training set, the accuracy is {accuracy}."
    rows = [[name, f"{100 * value:.2f}"] for name, value in test.items()]
    body = table(UNSEEN, ["images", "accuracy %"], rows)
    return text, [Figure(accuracy, "test accuracy")], [Section("test", "Test", body)]


def classification(results: Mapping[str, Any]) -> tuple[str, list[Figure], list[Section]]:
    """Return the summary, the figures and the sections of a classification run."""
    test, accuracy = results["test"], f"{100 * results['test']['accuracy']:.2f} %"
    text = f"On {test['images']} test images, the accuracy is {accuracy}."
    rows = [
        [name, *(found[key] for key in ("count", "precision", "recall", "f1"))]
        for name, found in test["per_class"].items()
    ]
    body = table("Test images by class", ["class", "images", "precision", "recall", "F1"], rows)
    return text, [Figure(accuracy, "test accuracy")], [Section("test", "Test", body)]


def _spread(row: Mapping[str, Any], name: str, factor: float = 1) -> str:
    return "-" if row[name] is None else f"{factor * row[name]:.2f} ± {factor * row[f'{name}_std']:.2f}"
