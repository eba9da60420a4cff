"""Outlines of true and predicted masks over their pictures (the paper's Figure 9)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from tvconv_jax.utils.files import replacing

SIDE, GAP, LINE = 224, 6, 20
# Told apart in gray too: the truth is light, the prediction dark.
TRUE, PRED = {"cup": (255, 255, 255), "disc": (255, 255, 255)}, {"cup": (0, 130, 0), "disc": (0, 30, 230)}


class Outlined(NamedTuple):
    """A picture with its masks.

    Attributes:
        image: ``uint8 [h, w, 3]``.
        true: Boolean ``[h, w, 2]``, cup and disc.
        pred: Boolean ``[h, w, 2]``.
        caption: What is written below.
    """

    image: np.ndarray
    true: np.ndarray
    pred: np.ndarray
    caption: str


def draw_contours(path: Path, rows: Mapping[str, Sequence[Outlined]]) -> None:
    """Writes a PNG: a titled row of pictures for every entry, true outlines in white, predicted ones in color.

    Args:
        path: The file.
        rows: Pictures by title.
    """
    columns = max(len(row) for row in rows.values())
    height = len(rows) * (SIDE + 2 * LINE + GAP) + LINE
    canvas = Image.new("RGB", (columns * (SIDE + GAP) + GAP, height), "white")
    ink, y = ImageDraw.Draw(canvas), GAP
    for title, row in rows.items():
        ink.text((GAP, y), title, fill="black", font_size=14)
        for i, one in enumerate(row):
            x = GAP + i * (SIDE + GAP)
            canvas.paste(outlined(one), (x, y + LINE))
            ink.text((x, y + LINE + SIDE + 2), one.caption, fill="black", font_size=12)
        y += SIDE + 2 * LINE + GAP
    ink.text((GAP, y - 2), "white: truth; blue: predicted disc; green: predicted cup", fill="black", font_size=12)
    with replacing(path) as part:
        canvas.save(part)


def outlined(one: Outlined) -> Image.Image:
    """The picture at the sheet's size with its outlines."""
    size = (SIDE, SIDE)
    pixels = np.array(Image.fromarray(one.image).resize(size, Image.Resampling.BICUBIC))
    for maps, colors, width in ((one.true, TRUE, 3), (one.pred, PRED, 2)):
        for i, structure in enumerate(("cup", "disc")):
            mask = np.asarray(Image.fromarray(maps[..., i]).resize(size, Image.Resampling.NEAREST))
            line = mask & ~ndimage.binary_erosion(mask, iterations=width)
            pixels[line] = colors[structure]
    return Image.fromarray(pixels)
