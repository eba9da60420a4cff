"""Own sets by config: a user's folder, or the embedded boards, drawn into the cache once."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tvconv_jax.data.cache import digest, fill
from tvconv_jax.data.class_files import ClassFile
from tvconv_jax.data.classes import ClassData, ClassSet, load_classes, split_sources
from tvconv_jax.data.decoded import DecodedImages, keep_drawn
from tvconv_jax.data.decoder import encode
from tvconv_jax.data.mask_classes import FILE
from tvconv_jax.data.mask_files import SPLITS
from tvconv_jax.data.masks import MaskSet, find_masks
from tvconv_jax.data.synthetic import inspection, inspection_paint
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import write_bytes, write_text
from tvconv_jax.utils.progress import reporter, track
from tvconv_jax.utils.sizes import height_width

VERSION = "1"  # raise it when the drawn images change
TESTED = 1000  # boards to test a classifier on
MASK_SIZE, MASKS_TESTED = 64, 200  # pixels of boards with masks, of which so many are to test on


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


def open_set(config: Any, cache: Path) -> MaskSet:
    """Return the set that ``config``, the ``data`` part of a config, names; see :func:`.find_masks`."""
    if config.source == "embedded":
        return find_masks(str(embedded_folder(config, cache)), cache)
    split = {"group_pattern": config.group_pattern, "test_share": config.test_share, "split_seed": config.split_seed}
    return find_masks(config.root, cache, **split)


def embedded_folder(config: Any, cache: Path) -> Path:
    """Draw the boards that ``config``, the ``data`` part of a config, asks for into the cache; return their folder."""
    counts = {"train": config.images, "test": min(MASKS_TESTED, config.images // 2)}
    settings = {"size": MASK_SIZE, "shift": config.shift, "rotation": config.rotation}
    code = [Path(module.__file__).read_bytes() for module in (inspection, inspection_paint)]
    folder = cache / f"inspection-masks-{digest(repr((counts, settings)), *code)}"

    def write() -> None:
        for seed, split in enumerate(SPLITS):
            _write_masks(folder / split, counts[split], seed, settings)
        write_text(folder / FILE, json.dumps({name: i for i, name in enumerate(inspection.MASK_CLASSES)}))

    fill(folder, FILE, write, "the embedded boards")
    return folder


def _write_masks(folder: Path, count: int, seed: int, settings: dict[str, Any]) -> None:
    images, _, masks = inspection.draw(count, seed=seed, **settings)
    for kind, arrays in (("image", images), ("mask", masks)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for index, array in enumerate(track(arrays, total=count, text=f"Drawing boards, {kind}s")):
            write_bytes(folder / kind / f"{index:05d}.png", encode(array, "PNG"), durable=False)
