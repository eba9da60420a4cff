"""Images/s of each decoder and of the whole pipeline."""

import time
from collections.abc import Callable, Iterator
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

    Raises:
        UserError: If a set cannot be opened.
    """
    lines = [f"{'images/s at ' + str(size):<32}{'':>10}{'/ Pillow loop':>16}   ({cores()} cores)"]
    for name in sources:
        faces = open_faces(name)
        source = faces.source
        images = [source[index]["image"] for index in range(min(MAX_IMAGES, len(source)))]
        rates = {
            "Pillow, in a loop": lambda p=images: _decoders(p, lambda image: _pillow(image, size), seconds),
            "our decoder, in a loop": lambda p=images: _decoders(p, lambda image: decode(image, size), seconds),
            "pipeline, threads": lambda s=source: _pipeline(s, size, 0, seconds),
            "pipeline, 2 worker processes": lambda s=source: _pipeline(s, size, 2, seconds),
        }
        measured = {what: measure() for what, measure in rates.items()}
        lines += [name, *(f"  {note}" for note in faces.notes)]
        for what, rate in measured.items():
            lines.append(f"  {what:<30}{rate:>10,.0f}{rate / measured['Pillow, in a loop']:>15.2f}x")
    return "\n".join(lines)


def _pillow(image: bytes, size: int) -> np.ndarray:
    """Decode as :func:`tvconv_jax.data.decoder.decode`, by Pillow alone."""
    with opened(image) as found:
        return np.asarray(found.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def _decoders(images: list[bytes], decoder: Callable[[bytes], np.ndarray], seconds: float) -> float:
    def ones() -> Iterator[int]:
        for image in cycle(images):
            decoder(image)
            yield 1

    return _rate(ones(), seconds)


def _pipeline(source: Source, size: int, workers: int, seconds: float) -> float:
    batches = train_batches(source, batch_size=min(BATCH, len(source)), image_size=size, seed=0, workers=workers)
    with closing(batches):
        return _rate((len(batch["label"]) for batch in batches), seconds)


def _rate(counts: Iterator[int], seconds: float) -> float:
    """Return images/s: the best of a few rounds, after the buffers were filled once."""
    for _ in range(8):
        next(counts)
    best = 0.0
    for _ in range(ROUNDS):
        done, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            done += next(counts)
        best = max(best, done / (time.perf_counter() - begin))
    return best
