"""Settings of a segmentation run that follow from its masks: one rule, whose numbers stand in a table."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from tvconv_jax.data.cache import cache_dir
from tvconv_jax.data.image_size import scaled
from tvconv_jax.data.own_sets import open_set
from tvconv_jax.tasks import auto, rates
from tvconv_jax.tasks.configs.segmentation import FREE
from tvconv_jax.utils.sizes import describe_size, height_width

# Largest number of training images of a row, batch size, steps of the run.
TABLE = ((500, 16, 600), (2000, 16, 800), (math.inf, 32, 1000))
MAX_SIZE = 128  # of the larger side, in pixels
FINE = 96  # pixels of the larger side up to which the last grid is twice as fine
MIN_BATCH = 4


def settings_for(images: int, size: tuple[int, int], given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run by config key.

    Args:
        images: Number of training images.
        size: Their median height and width.
        given: Values by key of the settings that the user gave; the others are fitted to them.
    """
    image_size = height_width(given.get("data.image_size", scaled(size, MAX_SIZE)))
    return {
        "data.image_size": image_size,
        "model.width": FREE["model.width"],
        "model.output_stride": 8 if max(image_size) <= FINE else 16,
        **auto.schedule_for(images, TABLE, rates.MASKS, given, min_batch=MIN_BATCH),
    } | given


def prepare(config: ConfigDict, workdir: Path, log_fn: Callable[[str], None]) -> ConfigDict:
    """Return the config of a segmentation run with the choices for its data; see :func:`.auto.prepare`.

    Raises:
        UserError: If the set has a fault, or other classes than ``model.num_classes``.
    """
    found = open_set(config.data, cache_dir())
    images, size = len(found.of(test=False)), found.size
    data = f"{images} training images, of {describe_size(size)} in the median"
    settings = partial(settings_for, images, size)
    return auto.prepare(config, workdir, FREE, len(found.classes.names), settings, data, log_fn)
