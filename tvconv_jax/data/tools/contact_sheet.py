"""Contact sheets: rows of images of one size, with titles and captions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from tvconv_jax.data.decoder import ImageError, decode
from tvconv_jax.data.source import Source
from tvconv_jax.utils.files import replacing

SIZE, COLUMNS, ROWS = 64, 16, 6


class Row(NamedTuple):
    """A row of a sheet.

    Attributes:
        title: Text above the row; an empty one takes no space.
        images: Square images.
        captions: Text below each image; none take no space.
    """

    title: str
    images: Sequence[Image.Image] = ()
    captions: Sequence[str] = ()


def draw_contact_sheet(
    rows: Sequence[Row], *, size: int = SIZE, gap: int = 4, line: int = 18, columns: int = 0
) -> Image.Image:
    """Draw a contact sheet.

    Args:
        rows: Its rows; one without images is a line of text.
        size: Height and width of an image in pixels.
        gap: Pixels between images, and around them.
        line: Height of a line of text in pixels.
        columns: Width of the sheet in images; default: that of the longest row.
    """
    heights = [line * (bool(row.title) + bool(row.captions)) + (size + gap) * bool(row.images) for row in rows]
    columns = columns or max(len(row.images) for row in rows)
    sheet = Image.new("RGB", (columns * (size + gap) + gap, gap + sum(heights)), "white")
    pen, y = ImageDraw.Draw(sheet), gap
    for row, height in zip(rows, heights, strict=True):
        top = y + line * bool(row.title)
        pen.text((gap, y), row.title, fill="black", font_size=12)
        for column, image in enumerate(row.images):
            sheet.paste(image, (gap + column * (size + gap), top))
        for column, caption in enumerate(row.captions):
            pen.text((gap + column * (size + gap), top + size + 2), caption, fill="black", font_size=12)
        y += height
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
    drawn = [Row(title, [_thumbnail(source[int(index)]["image"]) for index in indices]) for title, indices in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        draw_contact_sheet(drawn, columns=COLUMNS).save(part)


def _thumbnail(image: bytes) -> Image.Image:
    try:
        return Image.fromarray(decode(image, SIZE))
    except ImageError:
        return Image.new("RGB", (SIZE, SIZE), (128, 128, 128))
