"""Settings of a classification run that follow from its data: one rule, whose numbers stand in a table."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from tvconv_jax.data.classes import find_classes, median_size
from tvconv_jax.data.synthetic import inspection
from tvconv_jax.tasks import auto
from tvconv_jax.tasks.configs.classification import FREE
from tvconv_jax.tasks.keys import get
from tvconv_jax.utils.errors import UserError

# Operators with kernels of their own at every position: they learn at smaller rates.
PER_POSITION = ("tvconv", "tvconv_linear", "tvconv_lowrank", "tvconv_dynamic", "locally_connected")
RATES = {"per_position": 2e-3, "shared": 1e-2}
# Largest number of training images of a row, batch size, steps of the run.
TABLE = ((500, 32, 1500), (2000, 32, 2000), (6000, 64, 3000), (math.inf, 64, 4000))
WARMUP = 0.05  # share of the epochs
MAX_SIZE, MULTIPLE = 64, 8  # of the larger side, and of both sides, in pixels
VALIDATED = 1000  # training images from which on a tenth is kept to fit the temperature
MIN_BATCH = 8


class Counted(NamedTuple):
    """Facts on a set that the rule needs."""

    images: int  # to train and to validate on
    size: tuple[int, int] | None  # median height and width
    classes: int


def settings_for(counted: Counted, operator: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run by config key.

    Args:
        counted: The set.
        operator: Of the model.
        given: Values by key of the settings that the user gave; the others are fitted to them.
    """
    _, batch, steps = next(row for row in TABLE if counted.images <= row[0])
    batch = given.get("data.batch_size", _batch(batch, counted.images))
    share = given.get("data.validation_share", 0.1 if counted.images >= VALIDATED else 0.0)
    steps_per_epoch = max(1, round(counted.images * (1 - share)) // batch)
    epochs = given.get("optimizer.epochs", float(max(1, round(steps / steps_per_epoch))))
    return {
        "data.image_size": FREE["data.image_size"] if counted.size is None else size_for(counted.size),
        "data.batch_size": batch,
        "data.validation_share": share,
        "optimizer.base_batch": batch,
        "optimizer.learning_rate": RATES["per_position" if operator in PER_POSITION else "shared"],
        "optimizer.epochs": epochs,
        "optimizer.warmup_epochs": epochs * WARMUP,
        "train.eval_every": epochs / 4,
    } | given


def size_for(size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of images, up to :data:`MAX_SIZE` with the aspect kept, in multiples of 8."""
    scale = min(1, MAX_SIZE / max(size))
    height, width = (MULTIPLE * math.ceil(side * scale / MULTIPLE - 1e-6) for side in size)
    return max(height, 2 * MULTIPLE), max(width, 2 * MULTIPLE)


def _batch(batch: int, images: int) -> int:
    """Return the batch of the table, or the power of two that leaves a small set eight steps an epoch."""
    least = min(MIN_BATCH, images)
    return min(batch, 1 << (max(images // 8, least).bit_length() - 1))


def prepare(config: ConfigDict, workdir: Path, log_fn: Callable[[str], None]) -> ConfigDict:
    """Return the config of a classification run with the choices for its data and its number of classes; print them.

    A run that goes on keeps the choices in its ``config.json``.

    Raises:
        UserError: If the set has a fault, or other classes than ``model.num_classes``.
    """
    counted = count_images(config.data)
    config = with_classes(config, counted.classes)
    if (workdir / "config.json").exists():
        return auto.resume(config, workdir, FREE)
    free = auto.unchanged_keys(config, FREE)
    if not free:
        return auto.with_choices(config, {})
    given = {key: get(config, key) for key in FREE if key not in free}
    settings = settings_for(counted, config.model.operator, given)
    chosen = {key: value for key, value in settings.items() if key in free}
    shown = ", ".join(f"{key} {auto.describe(value)}" for key, value in chosen.items())
    log_fn(f"chosen for {counted.images} training images with {config.model.operator}: {shown}")
    return auto.with_choices(config, chosen)


def count_images(data: ConfigDict) -> Counted:
    """Count the images and classes of the ``data`` part of a config; nothing is decoded."""
    if data.source == "embedded":
        return Counted(data.images, None, len(inspection.CLASSES))
    found = find_classes(data)
    return Counted(int((~found.test).sum()), median_size(found.files), len(found.classes))


def with_classes(config: ConfigDict, classes: int) -> ConfigDict:
    """Return a config with the number of classes of the data."""
    given = config.model.num_classes
    if given not in (0, classes):
        raise UserError(f"model.num_classes is {given}, and the data has {classes} classes; leave it at 0.")
    if given == classes:
        return config
    config = config.copy_and_resolve_references()
    config.model.num_classes = classes
    return config
