"""Contact sheets: rows of images of one size under titles."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tvconv_jax.data.decoder import ImageError, decode
from tvconv_jax.data.source import Source
from tvconv_jax.utils.files import replacing

SIZE, COLUMNS, ROWS = 64, 16, 6
GAP = 4  # pixels between images, and around them


def draw_contact_sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image]]], *, line: int = 18, columns: int = 0
) -> Image.Image:
    """Draw a contact sheet of images of :data:`SIZE` squared.

    Args:
        rows: A title, which takes no space if it is empty, and images for each row.
        line: Height of a title in pixels.
        columns: Width of the sheet in images; default: that of the longest row.
    """
    step, columns = SIZE + GAP, columns or max(len(images) for _, images in rows)
    height = sum(line * bool(title) + step * bool(images) for title, images in rows)
    sheet = Image.new("RGB", (columns * step + GAP, GAP + height), "white")
    pen, y = ImageDraw.Draw(sheet), GAP
    for title, images in rows:
        pen.text((GAP, y), title, fill="black", font_size=12)
        y += line * bool(title)
        for column, image in enumerate(images):
            sheet.paste(image, (GAP + column * step, y))
        y += step * bool(images)
    return sheet


def write_sheet(path: Path, source: Source, found: Mapping[str, Sequence[int]], *, seed: int = 0) -> None:
    """Write an image file with a row of images for each finding, and below a random sample of the set.

    Args:
        path: The file, ``.png`` or another format that Pillow writes; an existing one is replaced.
        source: The images.
        found: Indices of images by the title of a finding; one row of them is shown.
        seed: Seed of the sample.
    """
    count = min(len(source), COLUMNS * ROWS)
    sample = np.sort(np.random.default_rng(seed).choice(len(source), count, replace=False)).tolist()
    rows = [(title, indices[:COLUMNS]) for title, indices in found.items()]
    for start in range(0, count, COLUMNS):
        rows.append(("" if start else "a sample of the set", sample[start : start + COLUMNS]))
    drawn = [(title, [_thumbnail(source[int(index)]["image"]) for index in indices]) for title, indices in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        draw_contact_sheet(drawn, columns=COLUMNS).save(part)


def _thumbnail(image: bytes) -> Image.Image:
    try:
        return Image.fromarray(decode(image, SIZE))
    except ImageError:
        return Image.new("RGB", (SIZE, SIZE), (128, 128, 128))
