"""Settings of a classification run that follow from its data: one rule, whose numbers stand in a table."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from tvconv_jax.data.classes import find_classes
from tvconv_jax.data.image_size import sample_sizes, scaled
from tvconv_jax.data.source import LooseFiles
from tvconv_jax.data.synthetic import inspection
from tvconv_jax.tasks import auto, rates
from tvconv_jax.tasks.configs.classification import FREE

# Largest number of training images of a row, batch size, steps of the run.
TABLE = ((500, 32, 1500), (2000, 32, 2000), (6000, 64, 2000), (math.inf, 64, 2500))
BOARDS, BOARD_SIZE = ((math.inf, 32, 600),), (48, 48)  # of the embedded boards: two minutes on two cores
MAX_SIZE, MULTIPLE = 64, 8  # of the larger side, and of both sides, in pixels
VALIDATED = 1000  # training images from which on a tenth is kept to fit the temperature
MIN_BATCH = 8


class Counted(NamedTuple):
    """Facts on a set that the rule needs."""

    images: int  # to train and to validate on
    size: tuple[int, int] | None  # median height and width of those to train on
    classes: int
    table: Sequence[tuple[float, int, int]] = TABLE


def settings_for(counted: Counted, operator: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run by config key.

    Args:
        counted: The set.
        operator: Of the model.
        given: Values by key of the settings that the user gave; the others are fitted to them.
    """
    share = given.get("data.validation_share", 0.1 if counted.images >= VALIDATED else 0.0)
    trained, rate = round(counted.images * (1 - share)), rates.of_classes(operator)
    return {
        "data.image_size": FREE["data.image_size"] if counted.size is None else size_for(counted.size),
        **auto.schedule_for(counted.images, counted.table, rate, given, min_batch=MIN_BATCH, trained=trained),
        "data.validation_share": share,
    } | given


def size_for(size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of images, the longer side up to :data:`MAX_SIZE`, rounded up to multiples of 8."""
    return scaled(size, MAX_SIZE, multiple=MULTIPLE, rounded=lambda length: math.ceil(length - 1e-6))


def prepare(config: ConfigDict, workdir: Path, log_fn: Callable[[str], None]) -> ConfigDict:
    """Return the config of a classification run with the choices for its data; see :func:`.auto.prepare`.

    Raises:
        UserError: If the set has a fault, or other classes than ``model.num_classes``.
    """
    counted, operator = count_images(config.data), config.model.operator
    data, settings = f"{counted.images} training images with {operator}", partial(settings_for, counted, operator)
    return auto.prepare(config, workdir, FREE, counted.classes, settings, data, log_fn)


def count_images(data: ConfigDict) -> Counted:
    """Count the images and classes of the ``data`` part of a config; nothing is decoded."""
    if data.source == "embedded":
        return Counted(data.images, BOARD_SIZE, len(inspection.CLASSES), BOARDS)
    found = find_classes(data)
    paths = [file.path for file, tested in zip(found.files, found.test, strict=True) if not tested]
    sizes = sample_sizes(LooseFiles(paths))
    median = tuple(map(int, np.median(sizes, axis=0))) if sizes else None
    return Counted(len(paths), median, len(found.classes))
