"""Small images as data within the page."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from tvconv_jax.report.html import Html, tag

GAP = 3  # pixels between images


def image(pixels: Image.Image, alt: str, *, kind: str = "PNG", class_: str | None = None) -> Html:
    """Return an image element.

    Args:
        pixels: The image.
        alt: Its description, for those who do not see it.
        kind: ``"PNG"``, exact, or ``"JPEG"``, for photographs.
        class_: Class of the element.
    """
    file = io.BytesIO()
    pixels.save(file, kind, **({"quality": 90} if kind == "JPEG" else {"optimize": True}))
    data = f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
    return tag("img", src=data, alt=alt, width=pixels.width, height=pixels.height, class_=class_)


def withheld(instead: str) -> Html:
    """Return a paragraph about images that are left out."""
    text = f"Reports are passed on, so they hold no images of real people; {instead}. To include them, train with "
    return tag("p", text, tag("code", "--config.eval.report_images=True"), ".")


def strip(images: Sequence[Image.Image], height: int) -> Image.Image:
    """Return images in a row, each resized to a height in pixels; white between them."""
    scaled = [image.resize((round(image.width * height / image.height), height)) for image in images]
    canvas = Image.new("RGB", (sum(image.width for image in scaled) + GAP * (len(scaled) - 1), height), "white")
    at = 0
    for item in scaled:
        canvas.paste(item, (at, 0))
        at += item.width + GAP
    return canvas


def in_grid(maps: np.ndarray, columns: int, gap: int, between: float = 0) -> np.ndarray:
    """Return maps ``[h, w, a]`` as one array ``[H, W]``, row by row, with a value in the gaps and in missing maps."""
    height, width, count = maps.shape
    whole = np.full((-(-count // columns) * (height + gap), columns * (width + gap)), between, maps.dtype)
    for number in range(count):
        y, x = number // columns * (height + gap), number % columns * (width + gap)
        whole[y : y + height, x : x + width] = maps[..., number]
    return whole[: whole.shape[0] - gap, : whole.shape[1] - gap]


def enlarged(maps: np.ndarray, factor: int) -> np.ndarray:
    """Return maps ``[h, w, a]`` with every pixel as a square of ``factor`` pixels."""
    return maps.repeat(factor, axis=0).repeat(factor, axis=1)


def map_strip(maps: np.ndarray, *, size: int = 72, columns: int = 4) -> Image.Image:
    """Return maps ``[h, w, a]`` in gray: black is the smallest value of all of them, white the largest.

    Args:
        maps: The maps.
        size: Smallest height of a map in pixels; pixels of small maps become squares.
        columns: Maps in a row.
    """
    low, high = float(maps.min()), float(maps.max())
    gray = np.round(255 * (maps - low) / (high - low or 1.0)).astype(np.uint8)
    gray = enlarged(gray, max(1, -(-size // maps.shape[0])))
    columns = min(columns, maps.shape[-1])
    opacity = np.full_like(gray, 255)
    return Image.fromarray(np.stack([in_grid(values, columns, GAP) for values in (gray, opacity)], axis=-1), "LA")
