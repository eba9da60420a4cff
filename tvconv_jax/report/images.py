"""Small pictures as data that stands in the page."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from tvconv_jax.report.html import Html, tag

GAP = 3  # pixels between pictures of a strip


def image(pixels: Image.Image, alt: str, *, kind: str = "PNG", class_: str | None = None) -> Html:
    """A picture in the page.

    Args:
        pixels: The picture.
        alt: What it shows, for those who do not see it.
        kind: ``"PNG"``, exact, or ``"JPEG"``, for photographs.
        class_: Of the element.
    """
    file = io.BytesIO()
    pixels.save(file, kind, **({"quality": 90} if kind == "JPEG" else {"optimize": True}))
    data = f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
    return tag("img", src=data, alt=alt, width=pixels.width, height=pixels.height, class_=class_)


def strip(pictures: Sequence[Image.Image], side: int) -> Image.Image:
    """Pictures in a row, each brought to the same height in pixels; white between them."""
    scaled = [picture.resize((round(picture.width * side / picture.height), side)) for picture in pictures]
    canvas = Image.new("RGB", (sum(one.width for one in scaled) + GAP * (len(scaled) - 1), side), "white")
    at = 0
    for one in scaled:
        canvas.paste(one, (at, 0))
        at += one.width + GAP
    return canvas


def map_strip(maps: np.ndarray, *, side: int = 72, columns: int = 4) -> Image.Image:
    """Maps in gray beside each other: black is the least value of all of them, white the largest.

    Args:
        maps: ``[h, w, a]``.
        side: Least height of a map in pixels; pixels of small maps become squares.
        columns: Maps in a row.
    """
    low, high = float(maps.min()), float(maps.max())
    gray = np.round(255 * (maps - low) / (high - low or 1.0)).astype(np.uint8)
    times = max(1, -(-side // maps.shape[0]))
    gray = gray.repeat(times, axis=0).repeat(times, axis=1)
    height, width, count = gray.shape
    rows, columns = -(-count // columns), min(columns, count)
    canvas = np.zeros((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 2), np.uint8)  # gray and opacity
    for number in range(count):
        y, x = number // columns * (height + GAP), number % columns * (width + GAP)
        canvas[y : y + height, x : x + width, 0] = gray[..., number]
        canvas[y : y + height, x : x + width, 1] = 255
    return Image.fromarray(canvas, "LA")
