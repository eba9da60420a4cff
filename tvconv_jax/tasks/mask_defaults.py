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
from tvconv_jax.utils.sizes import describe_size, height_width

# Largest number of training images of a row, batch size, steps of the run.
TABLE = ((500, 16, 600), (2000, 16, 800), (math.inf, 32, 1000))
RATE = 1e-2
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
    batch = given.get("data.batch_size", auto.batch_size_for(images, least=MIN_BATCH, most=batch))
    image_size = height_width(given.get("data.image_size", size_for(size)))
    return {
        "data.image_size": image_size,
        "model.width": FREE["model.width"],
        "model.output_stride": 8 if max(image_size) <= FINE else 16,
        **auto.schedule_for(images, batch, RATE, steps, given),
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
    config = auto.with_classes(config, len(found.classes.names))
    if (workdir / "config.json").exists():
        return auto.resume(config, workdir, FREE)
    images, size = len(found.of(test=False)), found.size
    data = f"{images} training images, of {describe_size(size)} in the median"
    return auto.choose(config, FREE, lambda given: settings_for(images, size, given), data, log_fn)
