"""Images/s of each decoder and of the whole pipeline."""

import time
from collections.abc import Iterator
from contextlib import closing
from itertools import cycle

import numpy as np
from PIL import Image

from tvconv_jax.data.decoder import decode, opened
from tvconv_jax.data.pipeline import train_batches
from tvconv_jax.data.sets import open_faces
from tvconv_jax.data.source import Source
from tvconv_jax.utils.environment import cores

BATCH = 256
MAX_IMAGES = 2048  # for the decoders, which repeat them
ROUNDS = 3  # the best is reported, for other processes only slow a round down


def speed(sources: list[str], *, size: int = 96, seconds: float = 3.0) -> str:
    """Measure the pipeline (read, decode, resize, flip, batch), Pillow in a loop, and our decoder in a loop.

    Args:
        sources: Training sets, as :func:`tvconv_jax.data.sets.open_faces` takes them.
        size: Height and width of the resized images in pixels.
        seconds: Duration of each of the three rounds of a measurement.

    Returns:
        A table; the last column is the ratio to the Pillow loop on the same images.
    """
    lines = [f"{'images/s at ' + str(size):<32}{'':>10}{'/ Pillow loop':>16}   ({cores()} cores)"]
    for name in sources:
        faces = open_faces(name)
        source = faces.source
        images = [source[index]["image"] for index in range(min(MAX_IMAGES, len(source)))]
        measured = {
            "Pillow, in a loop": _rate((_pillow(image, size)[None] for image in cycle(images)), seconds),
            "our decoder, in a loop": _rate((decode(image, size)[None] for image in cycle(images)), seconds),
            "pipeline, threads": _pipeline(source, size, 0, seconds),
            "pipeline, 2 worker processes": _pipeline(source, size, 2, seconds),
        }
        lines += [name, *(f"  {note}" for note in faces.notes)]
        for what, rate in measured.items():
            lines.append(f"  {what:<30}{rate:>10,.0f}{rate / measured['Pillow, in a loop']:>15.2f}x")
    return "\n".join(lines)


def _pillow(image: bytes, size: int) -> np.ndarray:
    """Decode as :func:`tvconv_jax.data.decoder.decode`, by Pillow alone."""
    with opened(image) as found:
        return np.asarray(found.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def _pipeline(source: Source, size: int, workers: int, seconds: float) -> float:
    batches = train_batches(source, batch_size=min(BATCH, len(source)), image_size=size, seed=0, workers=workers)
    with closing(batches):
        return _rate((batch["image"] for batch in batches), seconds)


def _rate(batches: Iterator[np.ndarray], seconds: float) -> float:
    """Return images/s: the best of a few rounds, after the buffers were filled once."""
    for _ in range(8):
        next(batches)
    best = 0.0
    for _ in range(ROUNDS):
        done, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            done += len(next(batches))
        best = max(best, done / (time.perf_counter() - begin))
    return best
