"""A contact sheet of a set of faces: the images of each finding, and a random sample."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tvconv_jax.data.decoder import ImageError, decode
from tvconv_jax.data.source import Source
from tvconv_jax.utils.contact_sheet import Row, draw_contact_sheet
from tvconv_jax.utils.files import replacing

SIZE, COLUMNS, ROWS = 64, 16, 6


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
    images = [Row(title, [_thumbnail(source[int(index)]["image"]) for index in indices]) for title, indices in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        draw_contact_sheet(images, size=SIZE, columns=COLUMNS).save(part)


def _thumbnail(image: bytes) -> Image.Image:
    """Return a small image; a gray field if the bytes cannot be decoded."""
    try:
        return Image.fromarray(decode(image, SIZE))
    except ImageError:
        return Image.new("RGB", (SIZE, SIZE), (128, 128, 128))
