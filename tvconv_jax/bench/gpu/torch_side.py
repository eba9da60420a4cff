"""The process that measures the PyTorch baseline: eager, compiled, and with channels last."""

import importlib
import time
from typing import Any

from tvconv_jax.bench.gpu.item import Item, Sizes
from tvconv_jax.bench.gpu.worker import Measure, Prepare, Skip, step_figures
from tvconv_jax.bench.settings import SGD, face_inputs
from tvconv_jax.bench.timing import interleaved
from tvconv_jax.utils.environment import cores


def begin(sizes: Sizes, *, platform: str) -> tuple[dict, Prepare]:
    """Return what PyTorch runs on, and the function that prepares an item.

    Raises:
        Skip: If PyTorch, or its CUDA, is missing.
    """
    try:
        baseline = importlib.import_module("tvconv_jax.bench.torch_baseline")
        about = baseline.prepare(platform, _threads(sizes)).partition(" (")[0]
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise Skip("PyTorch is not installed, so ours are timed alone") from None
    except RuntimeError as error:
        raise Skip(f"{error}, so ours are timed alone") from None
    return {"baseline": about}, lambda item: _prepare(baseline, item, sizes, platform)


def _threads(sizes: Sizes) -> int:
    return 1 if sizes.tiny else cores()  # several would wait for each other most of the time


def _prepare(baseline: Any, item: Item, sizes: Sizes, platform: str) -> Measure:
    """Take the first step, which compiles."""
    about, mode = item.settings, item.settings["mode"]
    # At tiny sizes the test of the command waits for no C++ compiler.
    baseline.prepare(
        platform, _threads(sizes), ("traced" if sizes.tiny else "compiled") if "compiled" in mode else "eager"
    )
    batch, class_weights = face_inputs(sizes.batch, sizes.image_size)
    model = {"name": about["model"], "width": about["width"], "depth": sizes.depth, "precision": about["precision"]}
    start = time.perf_counter()
    model["channels_last"] = "channels-last" in mode
    trainer = baseline.face_trainer(about["operator"], class_weights, batch, SGD, **model)
    losses = [float(trainer.step())]
    first = time.perf_counter() - start

    def measure() -> dict[str, Any]:
        second, peak = baseline.peak_memory(trainer.step)
        queued = platform != "cpu"
        seconds = interleaved({"step": (trainer.step, baseline.wait)}, sizes.runs, queued=queued)["step"]
        figures = step_figures(seconds, sizes, [*losses, second])
        return {**figures, "first_step_s": round(first, 1), "peak_bytes": peak}

    return measure
