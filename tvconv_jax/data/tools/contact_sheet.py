"""A contact sheet: what was found in a set of faces, and a sample of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tvconv_jax.data.source import Source
from tvconv_jax.data.tools.image_stats import thumbnail
from tvconv_jax.utils.files import replacing

SIDE, GAP, LINE, COLUMNS, ROWS = 64, 4, 18, 16, 6


def write_sheet(path: Path, source: Source, found: Mapping[str, Sequence[int]], *, seed: int = 0) -> None:
    """Writes a picture: a row of pictures for each finding, and below a random sample of the set.

    Args:
        path: The file, ``.png`` or whatever else Pillow writes; one that is there is replaced.
        source: The pictures.
        found: By the text of a finding, the pictures that it is about; as many as fit in a row are shown.
        seed: Of the sample.
    """
    count = min(len(source), COLUMNS * ROWS)
    sample = np.sort(np.random.default_rng(seed).choice(len(source), count, replace=False)).tolist()
    rows = [(text, list(indices[:COLUMNS])) for text, indices in found.items()]
    for start in range(0, count, COLUMNS):
        rows.append(("" if start else "a sample of the set", sample[start : start + COLUMNS]))
    height = GAP + sum(SIDE + GAP + (LINE if text else 0) for text, _ in rows)
    canvas = Image.new("RGB", (COLUMNS * (SIDE + GAP) + GAP, height), "white")
    ink, y = ImageDraw.Draw(canvas), GAP
    for text, indices in rows:
        if text:
            ink.text((GAP, y), text, fill="black", font_size=12)
            y += LINE
        for column, index in enumerate(indices):
            canvas.paste(thumbnail(source[int(index)]["image"], SIDE), (GAP + column * (SIDE + GAP), y))
        y += SIDE + GAP
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        canvas.save(part)
