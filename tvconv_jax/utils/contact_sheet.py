"""Contact sheets: rows of images of one size, with titles and captions."""

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw


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
    rows: Sequence[Row], *, size: int = 64, gap: int = 4, line: int = 18, columns: int = 0
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
