"""Speed of ONNX files in onnxruntime."""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

ROUNDS, BATCHES = 7, (1, 8)
Run = Callable[[np.ndarray], np.ndarray]  # images [n, 3, h, w] -> output


def runner(model: bytes | Path) -> Run:
    """Return a function that runs a model."""
    onnxruntime.set_default_logger_severity(3)  # errors
    session = onnxruntime.InferenceSession(
        model if isinstance(model, bytes) else str(model), providers=["CPUExecutionProvider"]
    )
    return lambda images: session.run(None, {"images": images})[0]


def rates(models: Mapping[Hashable, bytes], shape: Sequence[int]) -> dict[Hashable, dict[int, float]]:
    """Return images/s of every model by batch; runs are interleaved, so that a busy machine slows all of them.

    Args:
        models: Files by name.
        shape: Of one image.
    """
    runs = {name: runner(model) for name, model in models.items()}
    images = {n: np.zeros((n, *shape), np.float32) for n in BATCHES}
    seconds: dict[tuple, list[float]] = {(name, n): [] for name in runs for n in BATCHES}
    for _ in range(ROUNDS + 1):
        for (name, n), taken in seconds.items():
            runs[name](images[n])  # the threads of the model before spin for a while, at the cost of this one
            begin = time.perf_counter()
            runs[name](images[n])
            taken.append(time.perf_counter() - begin)
    # The first round warms up.
    return {name: {n: n / float(np.median(seconds[name, n][1:])) for n in BATCHES} for name in runs}


def fastest(models: Mapping[str, bytes], shape: Sequence[int]) -> tuple[str, str]:
    """Return the name of the model with the least time an image, and a note with the figures that it was chosen by."""
    if len(models) == 1:
        return next(iter(models)), ""
    found = rates(models, shape)
    order = sorted(found, key=lambda name: time_per_image(found[name]))
    texts = []
    for name in order:
        rate = found[name]
        time_ms, images = 1e3 * time_per_image(rate), " and ".join(f"{value:.0f}" for value in rate.values())
        texts.append((f"{name} {time_ms:.2f} ms", images))
    (first, images), *others = texts
    batches = " and ".join(map(str, BATCHES))
    note = f"written as {first} an image, the least of batches {batches} added ({images} images/s here)"
    return order[0], "; ".join([note, *(f"{text} ({images})" for text, images in others)])


def time_per_image(rate: Mapping[int, float]) -> float:
    """Return the time of an image, in seconds, summed over batches; from images/s by batch."""
    return sum(1 / images for images in rate.values())
