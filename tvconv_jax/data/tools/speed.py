"""How many pictures a second each decoder and the whole pipeline give."""

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
HELD = 2048  # pictures that the decoders go through, over and over
ROUNDS = 3  # of which the best counts: neighbors only ever slow a round down


def speed(sources: list[str], *, side: int = 96, seconds: float = 3.0) -> str:
    """Measures the pipeline (read, decode, resize, flip, batch), beside Pillow and ours in a plain loop.

    Args:
        sources: Training sets, as :func:`tvconv_jax.data.sets.open_faces` takes them.
        side: To which pictures are brought.
        seconds: That each of three rounds of a measurement lasts.

    Returns:
        A table; the last column is the ratio to the Pillow loop on the same pictures.

    Raises:
        UserError: If a set cannot be opened.
    """
    lines = [f"{'images/s at ' + str(side):<32}{'':>10}{'/ Pillow loop':>16}   ({cores()} cores)"]
    for name in sources:
        faces = open_faces(name)
        source = faces.source
        pictures = [source[index]["image"] for index in range(min(HELD, len(source)))]
        rates = {
            "Pillow, a plain loop": lambda p=pictures: _decoders(p, lambda image: _pillow(image, side), seconds),
            "our decoder, a plain loop": lambda p=pictures: _decoders(p, lambda image: decode(image, side), seconds),
            "pipeline, threads": lambda s=source: _pipeline(s, side, 0, seconds),
            "pipeline, 2 worker processes": lambda s=source: _pipeline(s, side, 2, seconds),
        }
        measured = {what: measure() for what, measure in rates.items()}
        lines += [name, *(f"  {note}" for note in faces.notes)]
        for what, rate in measured.items():
            lines.append(f"  {what:<30}{rate:>10,.0f}{rate / measured['Pillow, a plain loop']:>15.2f}x")
    return "\n".join(lines)


def _pillow(image: bytes, side: int) -> np.ndarray:
    """As :func:`tvconv_jax.data.decoder.decode`, by Pillow alone."""
    with opened(image) as picture:
        picture = picture.convert("RGB")
        return np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR))


def _decoders(pictures: list[bytes], decoder: Callable[[bytes], np.ndarray], seconds: float) -> float:
    def ones() -> Iterator[int]:
        for image in cycle(pictures):
            decoder(image)
            yield 1

    return _rate(ones(), seconds)


def _pipeline(source: Source, side: int, workers: int, seconds: float) -> float:
    batches = train_batches(source, batch_size=min(BATCH, len(source)), image_size=side, seed=0, workers=workers)
    with closing(batches):
        return _rate((len(batch["label"]) for batch in batches), seconds)


def _rate(counts: Iterator[int], seconds: float) -> float:
    """Pictures a second: the best of a few rounds, after the buffers were filled once."""
    for _ in range(8):
        next(counts)
    best = 0.0
    for _ in range(ROUNDS):
        done, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            done += next(counts)
        best = max(best, done / (time.perf_counter() - begin))
    return best
