"""Choices of a verification run for its data, see :mod:`tvconv_jax.tasks.auto`, and notes before it is read."""

import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from tvconv_jax.data.faces import FaceCounts, count_faces
from tvconv_jax.data.image_size import choose_size, sample_sizes
from tvconv_jax.data.listing import DECODED_SUFFIXES, SUFFIXES, printable
from tvconv_jax.tasks import auto
from tvconv_jax.tasks.configs.face import EPOCHS, FREE, MILESTONES, OWN_FREE
from tvconv_jax.tasks.finetune_check import check_file, check_same_model, start_config
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.sizes import Size, describe_size, height_width

SMALL = auto.STEPS * FREE["data.batch_size"]  # images; fewer give no such epoch in batches of 512
MIN_BATCH = 8
# From scratch the learning rate grows linearly with the batch, as docs/train.md recommends. For fine-tuning it belongs
# to the smallest batch and grows with the square root: of 0.001, 0.002 and 0.004 the first verified best.
SCRATCH_RATE, TUNE_RATE, TUNE_EPOCHS = 0.1 / 512, 0.001, 10.0
FEW, MANY = 3, 50  # so few folders with so many images each may be classes


def prepare(config: ConfigDict, workdir: Path, log_fn: Callable[[str], None]) -> ConfigDict:
    """Return the config of a run with the choices for its data; print them, and what the run cannot do.

    A run that goes on keeps the choices in its ``config.json``.

    Raises:
        UserError: If the batch is larger than the set, or ``finetune.checkpoint`` is missing or another model's.
    """
    resumed = (workdir / "config.json").exists()
    start = None if resumed else start_config(config)
    if not resumed:
        check_file(config)
    found = count_faces(config.data, suffixes_of(config.task))
    if resumed:  # its start may be gone
        config = resume(config, workdir)
    else:
        if chosen := choose(config, found.images, start, _size_for(config, found)):
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
    return auto.resume(config, workdir, _free_of(config))


def resume_verified(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Return :func:`resume`'s config; raise a ``UserError`` if there is nothing to verify on."""
    check_verified(config)
    return resume(config, workdir)


def check_verified(config: ConfigDict) -> None:
    """Raise a ``UserError`` if the data of a config has nothing to verify on."""
    found = count_faces(config.data, suffixes_of(config.task))
    if not found.verified:
        root = found.root or config.data.root
        raise UserError(f"{root} has no verification set to evaluate on; {pairs_hint(config.data)}")


def suffixes_of(task: str) -> tuple[str, ...]:
    """Return the suffixes of files that a task reads as images of identities: of faces, .jpg and .png alone."""
    return DECODED_SUFFIXES if task == "verification" else SUFFIXES


def _free_of(config: ConfigDict) -> dict[str, Any]:
    return OWN_FREE if config.task == "verification" else FREE


def _size_for(config: ConfigDict, found: FaceCounts) -> Size | None:
    """Return the size of own images, if it is open and they are not drawn; ``None`` keeps the config's."""
    free = auto.open_keys(config, _free_of(config))
    if config.task != "verification" or "data.image_size" not in free or found.source is None:
        return None
    return choose_size(
        sample_sizes(found.source), longest=_longest(found.images), step=config.model.get("patch_size", 1)
    )


def _longest(images: int) -> int:
    """Return the longer side, in pixels, to which own images are scaled down: 64 in small sets, which train sooner."""
    return 64 if images < SMALL else 96


def choose(
    config: ConfigDict, images: int, start: ConfigDict | None = None, size: Size | None = None
) -> dict[str, Any]:
    """Return values by key for a set of so many images of a size, and a run that starts from another one.

    A set of :data:`SMALL` images or more keeps the paper's settings. So do keys that are not open, or that a config
    file has changed, and runs from scratch whose batch size is given.
    """
    defaults = _free_of(config)
    free = auto.unchanged_keys(config, defaults)
    size = size if start is None else start.data.image_size
    chosen = {} if size is None else {"data.image_size": _like(config.data.image_size, size)}
    chosen |= {} if start is None else {"model.hidden_channels": start.model.hidden_channels}
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
    return {key: value for key, value in chosen.items() if key in free and value != defaults[key]}


def _like(old: Size, size: Size) -> Size:
    """Return a size as one number or as two, as another one is."""
    return size if isinstance(old, int) else height_width(size)


def batch_size_for(images: int) -> int:
    """Return the batch size for a set of so many images, from :data:`MIN_BATCH` to that of the paper."""
    return auto.batch_size_for(images, least=MIN_BATCH, most=FREE["data.batch_size"])


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
    few = found.images < SMALL and not config.finetune.checkpoint
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
    if config.task == "verification" and found.single:
        lines.append(
            f"note: {len(found.single)} of {count} identities have one image each ({printable(found.single[0])}): they "
            f"show what differs between identities, but not what stays the same within one"
        )
    if config.task == "face" and config.data.source != "embedded" and few:
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
    shown = ", ".join(f"{key} {_shown(key, value, images)}" for key, value in chosen.items())
    reasons = [f"for {images} training images"] if start is None or len(chosen) > 1 else []
    names = {"data.image_size": "image size", "model.hidden_channels": "generator"}
    if start is not None and (taken := [name for key, name in names.items() if key in chosen]):
        reasons.append(f"with the {' and '.join(taken)} of finetune.checkpoint")
    return f"chosen {', '.join(reasons)}, since none was given: {shown}"


def _shown(key: str, value: Any, images: int) -> str:
    if key != "data.image_size" or isinstance(value, int):
        return auto.describe(value)
    return f"{describe_size(value)} (height x width: the median, {_longest(images)} at most)"
