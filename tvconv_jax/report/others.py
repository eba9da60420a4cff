"""What the reports of segmentation and frontal runs say."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from tvconv_jax.data.decoder import ImageError, pixels, read_image
from tvconv_jax.report.html import Html, details, joined, table, tag
from tvconv_jax.report.images import image
from tvconv_jax.report.page import Figure, Section

STRUCTURES = ("cup", "disc")
Own = tuple[str, list[Figure], list[Section]]


def segmentation(results: Mapping[str, Any], workdir: Path, *, pictures: bool) -> Own:
    """The sentence, the figures and the sections of a segmentation run."""
    dice = {name: f"{100 * results[name]['dice']:.2f} %" for name in STRUCTURES}
    text = (
        f"Tested on {results['pictures']} pictures of domain {results['test_domain']}, which it never saw; measured is "
        f"{results['selection']}. Dice: cup {dice['cup']}, disc {dice['disc']}."
    )
    rows = []
    for name in STRUCTURES:
        row = results[name]
        cells = [_spread(row, "dice", 100), _spread(row, "hd95"), _spread(row, "asd"), row["empty"]]
        rows.append([name, *cells, f"{100 * results['constant_mask_dice'][name]:.2f}"])
    head = ["", "Dice %", "HD95 px", "ASD px", "empty predictions", "Dice % of a constant mask"]
    meanings = [tag("div", tag("dt", key), tag("dd", value)) for key, value in results["definitions"].items()]
    body = [
        table(f"Domain {results['test_domain']}, mean ± standard deviation over pictures", head, rows),
        details("What the columns mean", tag("dl", *meanings, class_="plain")),
    ]
    sections = [Section("scores", "Scores", joined(body)), *_outlines(workdir, pictures)]
    return text, [Figure(dice[name], f"Dice of the {name}") for name in STRUCTURES], sections


def _outlines(workdir: Path, pictures: bool) -> list[Section]:
    file = workdir / "pictures.png"
    if not file.exists():
        return []
    if pictures:
        try:
            sheet = Image.fromarray(pixels(read_image(file)))
        except ImageError:  # somebody changed it; the rest of the report stands
            return []
        shown = image(sheet, "Outlines of the truth and of the prediction over pictures", kind="JPEG")
        body = tag("div", shown, class_="scroll", role="region", aria_label="Outlines", tabindex="0")
    else:
        body = tag(
            "p",
            "Pictures of real people stay out of reports, which are passed on; they lie beside this file, in ",
            tag("code", file.name),
            ". With ",
            tag("code", "--config.eval.report_images=True"),
            " they stand here.",
        )
    return [Section("outlines", "Outlines", body)]


def frontal(results: Mapping[str, Any]) -> Own:
    """The sentence, the figures and the sections of a run that tells frontal faces from profiles."""
    test = results["test"]
    text = f"Of pictures of people who were not in training, it tells {100 * test['all']:.2f} % rightly."
    rows = [[name, f"{100 * value:.2f}"] for name, value in test.items()]
    body = table("Pictures of people who were not in training", ["pictures", "told rightly %"], rows)
    return text, [Figure(f"{100 * test['all']:.2f} %", "pictures told rightly")], [Section("test", "Test", body)]


def _spread(row: Mapping[str, Any], name: str, times: float = 1) -> Html | str:
    if row[name] is None:
        return "-"
    return f"{times * row[name]:.2f} ± {times * row[f'{name}_std']:.2f}"
