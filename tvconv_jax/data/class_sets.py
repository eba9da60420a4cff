"""Data of a classification run by its source: embedded boards, or a set of the user's."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tvconv_jax.data.cache import digest
from tvconv_jax.data.class_files import ClassFile
from tvconv_jax.data.classes import ClassData, ClassSet, load_classes, split_sources
from tvconv_jax.data.decoded import DecodedImages, keep_drawn
from tvconv_jax.data.synthetic import inspection
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.progress import reporter
from tvconv_jax.utils.sizes import height_width

VERSION = "1"  # raise it when the drawn images change
TESTED = 1000  # boards to test on


def load_data(config: Any, cache: Path) -> ClassData:
    """Open the data of ``config``, the ``data`` part of a classification config.

    Raises:
        UserError: If the source is unknown, or the set has a fault.
    """
    if config.source == "folder":
        return load_classes(config, cache)
    if config.source != "embedded":
        raise UserError(f"data.source {config.source!r} is unknown; there are: embedded, folder.")
    return _boards(config, cache)


def _boards(config: Any, cache: Path) -> ClassData:
    """Return boards to train on and boards of another seed to test on, drawn once into the cache."""
    size = height_width(config.image_size)
    options = {"size": size, "shift": config.shift, "rotation": config.rotation}
    counts = {"train": config.images, "test": TESTED}
    key = digest(VERSION, repr([counts, config.split_seed, options]))
    file, labels = keep_drawn(f"boards-{key}", partial(_draw, counts, config.split_seed, options), cache)
    names = [f"{split}/{index:06d}" for split, number in counts.items() for index in range(number)]
    of = [inspection.CLASSES[label] for label in labels]
    files = [ClassFile(Path(name), name, label, "", None) for name, label in zip(names, of, strict=True)]
    test = np.arange(len(labels)) >= counts["train"]
    kept = ClassSet(files, list(inspection.CLASSES), labels, test, [])
    images = DecodedImages(file, np.arange(len(labels)), labels, names)
    return split_sources(images, kept, "embedded boards drawn by tvconv_jax", config, [])


def _draw(counts: dict[str, int], seed: int, options: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    with reporter.doing(f"drawing {sum(counts.values())} boards"):
        drawn = [inspection.draw(count, seed=2 * seed + at, **options) for at, count in enumerate(counts.values())]
    images, labels, _ = zip(*drawn, strict=True)
    return np.concatenate(images), np.concatenate(labels).astype(np.int32)
