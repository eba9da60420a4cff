"""Which of several ONNX files of one model onnxruntime runs fastest, and how a file is run."""

import time
from collections.abc import Callable, Mapping, Sequence
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


def fastest(models: Mapping[str, bytes], shape: Sequence[int]) -> tuple[str, str]:
    """Runs all in turns, so that a busy machine slows each of them.

    Args:
        models: Files by name.
        shape: Of one picture.

    Returns:
        The name of the one with the least time, summed over one picture and a batch of eight; and a note with every
        one's images per second at its better batch.
    """
    if len(models) == 1:
        return next(iter(models)), ""
    runs = {name: runner(model) for name, model in models.items()}
    pictures = {n: np.zeros((n, *shape), np.float32) for n in BATCHES}
    seconds: dict[tuple[str, int], list[float]] = {(name, n): [] for name in runs for n in BATCHES}
    for _ in range(ROUNDS + 1):
        for (name, n), taken in seconds.items():
            begin = time.perf_counter()
            runs[name](pictures[n])
            taken.append(time.perf_counter() - begin)
    median = {key: float(np.median(taken[1:])) for key, taken in seconds.items()}  # the first warms up
    best = min(runs, key=lambda name: sum(median[name, n] / n for n in BATCHES))
    rates = {name: max(n / median[name, n] for n in BATCHES) for name in runs}
    others = ", ".join(f"{name} {rate:.0f} img/s" for name, rate in rates.items() if name != best)
    return best, f"per-pixel kernels as {best}, {rates[best]:.0f} img/s ({others})"
