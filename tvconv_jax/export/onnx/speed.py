"""Which of several ONNX files of one model onnxruntime runs fastest, and how a file is run."""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

ROUNDS, BATCHES = 7, (1, 8)


def runner(model: bytes | Path) -> Callable[[np.ndarray], np.ndarray]:
    """``images [n, 3, s, s] -> output`` of a model."""
    onnxruntime.set_default_logger_severity(3)  # errors
    session = onnxruntime.InferenceSession(
        model if isinstance(model, bytes) else str(model), providers=["CPUExecutionProvider"]
    )
    return lambda images: session.run(None, {"images": images})[0]


def rates(models: Mapping[Hashable, bytes], shape: Sequence[int]) -> dict[Hashable, dict[int, float]]:
    """Images per second of every file, by batch; all run in turns, so that a busy machine slows each of them.

    Args:
        models: Files by name.
        shape: Of one picture.
    """
    runs = {name: runner(model) for name, model in models.items()}
    pictures = {n: np.zeros((n, *shape), np.float32) for n in BATCHES}
    seconds: dict[tuple, list[float]] = {(name, n): [] for name in runs for n in BATCHES}
    for _ in range(ROUNDS + 1):
        for (name, n), taken in seconds.items():
            runs[name](pictures[n])  # the threads of the one before go on spinning for a while, at this one's cost
            begin = time.perf_counter()
            runs[name](pictures[n])
            taken.append(time.perf_counter() - begin)
    return {name: {n: n / float(np.median(seconds[name, n][1:])) for n in BATCHES} for name in runs}  # one warms up


def fastest(models: Mapping[str, bytes], shape: Sequence[int]) -> tuple[str, str]:
    """The name of the file with the least time, summed over one picture and a batch of eight; and a note.

    The note has every file's images per second at its better batch.
    """
    if len(models) == 1:
        return next(iter(models)), ""
    found = rates(models, shape)
    best = min(found, key=lambda name: sum(1 / rate for rate in found[name].values()))
    others = ", ".join(f"{name} {max(rate.values()):.0f} img/s" for name, rate in found.items() if name != best)
    return best, f"written as {best}, {max(found[best].values()):.0f} img/s here ({others})"
