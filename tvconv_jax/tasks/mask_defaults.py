"""Settings of a segmentation run that follow from its masks: one rule, whose numbers stand in a table."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from tvconv_jax.data.cache import cache_dir
from tvconv_jax.data.mask_sets import open_set
from tvconv_jax.tasks import auto
from tvconv_jax.tasks.configs.segmentation import FREE
from tvconv_jax.tasks.keys import get
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.sizes import height_width

# Largest number of training images of a row, batch size, steps of the run.
TABLE = ((500, 16, 600), (2000, 16, 800), (math.inf, 32, 1000))
RATE, WARMUP = 2e-3, 0.05  # learning rate, share of the epochs
MAX_SIZE, MIN_SIZE = 128, 16  # of the larger side, and of both sides, in pixels
FINE = 96  # pixels of the larger side up to which the last grid is twice as fine
MIN_BATCH = 4


def settings_for(images: int, size: tuple[int, int], given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run by config key.

    Args:
        images: Number of training images.
        size: Their median height and width.
        given: Values by key of the settings that the user gave; the others are fitted to them.
    """
    _, batch, steps = next(row for row in TABLE if images <= row[0])
    batch = given.get("data.batch_size", min(batch, 1 << (max(images // 8, min(MIN_BATCH, images)).bit_length() - 1)))
    image_size = given.get("data.image_size", size_for(size))
    epochs = given.get("optimizer.epochs", float(max(1, round(steps / max(1, images // batch)))))
    return {
        "data.image_size": image_size,
        "data.batch_size": batch,
        "model.width": FREE["model.width"],
        "model.output_stride": 8 if max(image_size) <= FINE else 16,
        "optimizer.base_batch": batch,
        "optimizer.learning_rate": RATE,
        "optimizer.epochs": epochs,
        "optimizer.warmup_epochs": epochs * WARMUP,
        "train.eval_every": epochs / 4,
    } | given


def size_for(size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of images, with the aspect kept, the longer side up to :data:`MAX_SIZE`."""
    scale = min(1, MAX_SIZE / max(size))
    height, width = (max(MIN_SIZE, round(side * scale)) for side in size)
    return height, width


def prepare(config: ConfigDict, workdir: Path, log_fn: Callable[[str], None]) -> ConfigDict:
    """Return the config of a segmentation run with the choices for its data and its number of classes; print them.

    A run that goes on keeps the choices in its ``config.json``.

    Raises:
        UserError: If the set has a fault, or other classes than ``model.num_classes``.
    """
    found = open_set(config.data, cache_dir())
    config = with_classes(config, len(found.classes.names))
    if (workdir / "config.json").exists():
        return auto.resume(config, workdir, FREE)
    free = auto.unchanged_keys(config, FREE)
    given = {key: get(config, key) for key in FREE if key not in free} | {"data.image_size": _given_size(config, free)}
    given = {key: value for key, value in given.items() if value is not None}
    images = len(found.of(test=False))
    chosen = {key: value for key, value in settings_for(images, found.size, given).items() if key in free}
    if chosen:
        shown = ", ".join(f"{key} {auto.describe(value)}" for key, value in chosen.items())
        log_fn(f"chosen for {images} training images, of {found.size[0]}x{found.size[1]} in the median: {shown}")
    return auto.with_choices(config, chosen)


def _given_size(config: ConfigDict, free: list[str]) -> tuple[int, int] | None:
    return None if "data.image_size" in free else height_width(config.data.image_size)


def with_classes(config: ConfigDict, classes: int) -> ConfigDict:
    """Return a config with the number of classes of the data."""
    given = config.model.num_classes
    if given not in (0, classes):
        raise UserError(f"model.num_classes is {given}, and the data has {classes} classes; leave it at 0.")
    config = config.copy_and_resolve_references()
    config.model.num_classes = classes
    return config
