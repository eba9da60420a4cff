"""Outlines of true and predicted masks over their images (the paper's Figure 9)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from tvconv_jax.utils.files import replacing

SIZE, GAP, LINE = 224, 6, 20  # pixels of an image, between images, of a line of text
# Distinguished in gray too: the truth is light, the prediction dark.
TRUE, PRED = {"cup": (255, 255, 255), "disc": (255, 255, 255)}, {"cup": (0, 130, 0), "disc": (0, 30, 230)}


class Outlined(NamedTuple):
    """An image with its masks.

    Attributes:
        image: ``uint8 [h, w, 3]``.
        true: Boolean ``[h, w, 2]``, cup and disc.
        pred: Boolean ``[h, w, 2]``.
        caption: Text below the image.
    """

    image: np.ndarray
    true: np.ndarray
    pred: np.ndarray
    caption: str


def draw_contours(path: Path, rows: Mapping[str, Sequence[Outlined]]) -> None:
    """Write a PNG with a row of images for every title: true outlines in white, predicted ones in color."""
    columns = max(len(row) for row in rows.values())
    height = len(rows) * (SIZE + 2 * LINE + GAP) + LINE
    canvas = Image.new("RGB", (columns * (SIZE + GAP) + GAP, height), "white")
    ink, y = ImageDraw.Draw(canvas), GAP
    for title, row in rows.items():
        ink.text((GAP, y), title, fill="black", font_size=14)
        for i, item in enumerate(row):
            x = GAP + i * (SIZE + GAP)
            canvas.paste(outlined(item), (x, y + LINE))
            ink.text((x, y + LINE + SIZE + 2), item.caption, fill="black", font_size=12)
        y += SIZE + 2 * LINE + GAP
    ink.text((GAP, y - 2), "white: truth; blue: predicted disc; green: predicted cup", fill="black", font_size=12)
    with replacing(path) as part:
        canvas.save(part)


def outlined(item: Outlined) -> Image.Image:
    """Return the image, resized for the sheet, with its outlines."""
    size = (SIZE, SIZE)
    pixels = np.array(Image.fromarray(item.image).resize(size, Image.Resampling.BICUBIC))
    for maps, colors, width in ((item.true, TRUE, 3), (item.pred, PRED, 2)):
        for i, structure in enumerate(("cup", "disc")):
            mask = np.asarray(Image.fromarray(maps[..., i]).resize(size, Image.Resampling.NEAREST))
            line = mask & ~ndimage.binary_erosion(mask, iterations=width)
            pixels[line] = colors[structure]
    return Image.fromarray(pixels)
