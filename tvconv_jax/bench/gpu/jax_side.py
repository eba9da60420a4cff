"""The process that measures ours: copies, operators, training steps, runs on faces."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from tvconv_jax.bench import ours
from tvconv_jax.bench.gpu import faces, operators
from tvconv_jax.bench.gpu.item import Item, Sizes
from tvconv_jax.bench.gpu.worker import Measure, Prepare, step_figures
from tvconv_jax.bench.hlo import parse
from tvconv_jax.bench.kernels import kernels
from tvconv_jax.bench.settings import face_inputs
from tvconv_jax.bench.timing import copy_bandwidth, interleaved
from tvconv_jax.utils.environment import device_description


def begin(sizes: Sizes, *, deadline: float, faces_path: str | None) -> tuple[dict, Prepare]:
    """Return the machine and the function that prepares an item.

    Args:
        sizes: Of all items.
        deadline: Time of the clock at which the command ends.
        faces_path: The set of faces, if there is one.
    """
    machine = {"device": device_description(), "platform": jax.default_backend()}
    run = functools.cache(lambda: faces.Runs(faces_path, sizes, deadline))

    def prepare(item: Item) -> Measure:
        if item.what == "accuracy":
            return run().prepare(item)
        return {"copy": _copy, "operator": operators.prepare, "step": _step}[item.what](item, sizes)

    return machine, prepare


def _copy(item: Item, sizes: Sizes) -> Measure:
    def measure() -> dict[str, Any]:
        speed = copy_bandwidth(sizes.runs, nbytes=sizes.copied, dtype=item.settings["precision"])
        x, negate = jnp.ones(1), jax.jit(jnp.negative)
        launch = interleaved({"launch": (lambda: negate(x), jax.block_until_ready)}, sizes.runs)["launch"]
        return {"gb_per_s": round(speed / 1e9, 1), "read_bytes": sizes.copied, "launch_us": round(launch * 1e6, 2)}

    return measure


def _step(item: Item, sizes: Sizes) -> Measure:
    about = item.settings
    batch, class_weights = face_inputs(sizes.batch, sizes.image_size)
    model = {"name": about["model"], "width": about["width"], "depth": sizes.depth, "precision": about["precision"]}
    trainer = ours.face_trainer(about["operator"], class_weights, batch, **model)
    program = kernels(parse(trainer.compiled.as_text()))
    moved = sum(kernel.times * kernel.size for kernel in program)

    def measure() -> dict[str, Any]:
        losses = [float(trainer.step()) for _ in range(2)]
        seconds = interleaved({"step": (trainer.step, jax.block_until_ready)}, sizes.runs)["step"]
        return {
            **step_figures(seconds, sizes, losses),
            "compile_s": round(trainer.compile_seconds, 1),
            "temporaries_bytes": trainer.temporaries,
            "kernels": sum(kernel.launches for kernel in program),
            "moved_bytes": moved,  # as a plan counts them
            "gb_per_s": round(moved / seconds / 1e9, 1),
        }

    return measure
