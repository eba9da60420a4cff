"""Settings that a face run chooses for its data, see :mod:`tvconv_jax.tasks.auto`, and notes before it is read."""

import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from tvconv_jax.data.face_counts import FaceCounts, count_faces
from tvconv_jax.tasks import auto
from tvconv_jax.tasks.configs.face import EPOCHS, FREE, MILESTONES
from tvconv_jax.tasks.finetune_check import check_file, check_same_model, start_config
from tvconv_jax.utils.errors import UserError

STEPS = 8  # an epoch of a chosen batch size has at least so many, except with the smallest batch
SMALL = STEPS * FREE["data.batch_size"]  # images; fewer give no such epoch in batches of 512
MIN_BATCH = 8
# From scratch the learning rate grows linearly with the batch, as docs/train.md recommends. For fine-tuning it belongs
# to the smallest batch and grows with the square root: of 0.001, 0.002 and 0.004 the first verified best.
SCRATCH_RATE, TUNE_RATE, TUNE_EPOCHS = 0.1 / 512, 0.001, 10.0
FEW, MANY = 3, 50  # so few folders with so many images each may be classes


def prepare(config: ConfigDict, workdir: Path, log_fn: Callable[[str], None]) -> ConfigDict:
    """Return the config of a face run with the choices for its data; print them, and what the run cannot do.

    A run that goes on keeps the choices in its ``config.json``.

    Raises:
        UserError: If the batch is larger than the set, or ``finetune.checkpoint`` is missing or another model's.
    """
    resumed = (workdir / "config.json").exists()
    start = None if resumed else start_config(config)
    if not resumed:
        check_file(config)
    found = count_faces(config.data)
    if resumed:  # its start may be gone
        config = resume(config, workdir)
    else:
        if chosen := choose(config, found.images, start):
            log_fn(_describe(chosen, found.images, start))
        config = auto.with_choices(config, chosen)
    if start is not None:
        check_same_model(config, start)
    check_batch(config.data.batch_size, found.images)
    for line in warnings(config, found):
        log_fn(line)
    return config


def resume(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Return a config with the choices of the run in a workdir, if there is one."""
    return auto.resume(config, workdir, FREE)


def resume_verified(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Return :func:`resume`'s config; raise a ``UserError`` if there is nothing to verify on."""
    check_verified(config)
    return resume(config, workdir)


def check_verified(config: ConfigDict) -> None:
    """Raise a ``UserError`` if the data of a face config has nothing to verify on."""
    found = count_faces(config.data)
    if not found.verified:
        root = found.root or config.data.root
        raise UserError(f"{root} has no verification set to evaluate on; {pairs_hint(config.data)}")


def choose(config: ConfigDict, images: int, start: ConfigDict | None = None) -> dict[str, Any]:
    """Return values by key for a set of so many images, and a run that starts from another one.

    A set of :data:`SMALL` images or more keeps the paper's settings. So do keys that are not open, or that a config
    file has changed, and runs from scratch whose batch size is given.
    """
    free = auto.unchanged_keys(config, FREE)
    chosen = {} if start is None else {"data.image_size": start.data.image_size}
    tuned, batch = bool(config.finetune.checkpoint), config.data.batch_size
    if "data.batch_size" in free:
        batch = batch_size_for(images)
    if images < SMALL and ("data.batch_size" in free or tuned):
        epochs = TUNE_EPOCHS if tuned and "optimizer.epochs" in free else config.optimizer.epochs
        chosen |= {"data.batch_size": batch, "optimizer.warmup_epochs": min(1.0, epochs)}
        if "optimizer.epochs" in free and "optimizer.milestones" in free:
            milestones = tuple(epoch * (epochs / EPOCHS) for epoch in MILESTONES)
            chosen |= {"optimizer.epochs": epochs, "optimizer.milestones": milestones}
        if config.optimizer.lr_scaling == "none":
            rate = TUNE_RATE * math.sqrt(batch / MIN_BATCH) if tuned else SCRATCH_RATE * batch
            chosen |= {"optimizer.learning_rate": rate, "optimizer.base_batch": batch}
    return {key: value for key, value in chosen.items() if key in free and value != FREE[key]}


def batch_size_for(images: int) -> int:
    """Return a power of two: :data:`STEPS` batches or more in an epoch, but at least :data:`MIN_BATCH` images."""
    batch = min(max(images // STEPS, MIN_BATCH), images, FREE["data.batch_size"])
    return 1 << (max(batch, 1).bit_length() - 1)


def check_batch(batch_size: int, images: int) -> None:
    """Raise a ``UserError`` if there is not one whole batch."""
    if batch_size > images:
        raise UserError(
            f"data.batch_size {batch_size} is more than the {images} training images; leave it out, and one is chosen, "
            f"or take batch_size={batch_size_for(images)} behind the config's colon."
        )


def warnings(config: ConfigDict, found: FaceCounts) -> list[str]:
    """Return lines about what a run on this data will not do."""
    lines, count = [], len(found.identities)
    if not found.verified:
        lines.append(
            f"note: {found.root or config.data.root} has no verification set (SET.bin, SET_pair.txt, pairs.txt): the "
            f"run trains, verifies nothing, and exports a model without a threshold; {pairs_hint(config.data)}"
        )
    if 0 < count <= FEW and found.images >= MANY * count:
        lines.append(
            f"note: {count} identities ({', '.join(found.identities)}) with {found.images // count} images each: are "
            f"they classes? This is verification, which learns to distinguish identities; a classifier of your own "
            f"images is --config=configs/classification.py:data=folder"
        )
    if config.data.source != "embedded" and found.images < SMALL and not config.finetune.checkpoint:
        lines.append(
            f"note: {found.images} images are few to train from scratch; start from a trained model with "
            f"--config.finetune.checkpoint=WORKDIR"
        )
    return lines


def pairs_hint(data: ConfigDict) -> str:
    """Return the advice to write a list of pairs, with a command to copy."""
    argument = data.root if data.source == "folder" else "--help"
    return f"make a list: {shlex.join(['python', '-m', 'tvconv_jax.data', 'pairs', argument])}"


def _describe(chosen: dict[str, Any], images: int, start: ConfigDict | None) -> str:
    shown = ", ".join(f"{key} {auto.describe(value)}" for key, value in chosen.items())
    reasons = [f"for {images} training images"] if len(chosen) > ("data.image_size" in chosen) else []
    if start is not None and "data.image_size" in chosen:
        reasons.append("with the image size of finetune.checkpoint")
    return f"chosen {', '.join(reasons)}, since none was given: {shown}"
