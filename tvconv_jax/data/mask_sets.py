"""Sets of images with masks by config: a user's folder, or the embedded boards, drawn into one of the same layout."""

import json
from pathlib import Path
from typing import Any

from tvconv_jax.data.cache import digest
from tvconv_jax.data.decoder import encode
from tvconv_jax.data.mask_classes import FILE
from tvconv_jax.data.mask_files import SPLITS
from tvconv_jax.data.masks import MaskSet, find_masks
from tvconv_jax.data.synthetic import inspection, inspection_paint
from tvconv_jax.utils.files import write_bytes, write_text
from tvconv_jax.utils.progress import track
from tvconv_jax.utils.storage import one_writer, writing

SIZE, TESTED = 64, 200  # pixels, test images


def open_set(config: Any, cache: Path) -> MaskSet:
    """Return the set that ``config``, the ``data`` part of a config, names; see :func:`.find_masks`."""
    if config.source == "embedded":
        return find_masks(str(embedded_folder(config, cache)), cache)
    split = {"group_pattern": config.group_pattern, "test_share": config.test_share, "split_seed": config.split_seed}
    return find_masks(config.root, cache, **split)


def embedded_folder(config: Any, cache: Path) -> Path:
    """Draw the boards that ``config``, the ``data`` part of a config, asks for into the cache; return their folder."""
    counts = {"train": config.images, "test": min(TESTED, config.images // 2)}
    settings = {"size": SIZE, "shift": config.shift, "rotation": config.rotation}
    code = [Path(module.__file__).read_bytes() for module in (inspection, inspection_paint)]
    folder = cache / f"inspection-masks-{digest(repr((counts, settings)), *code)}"
    if (folder / FILE).exists():
        return folder
    with one_writer(folder), writing(cache, "the embedded boards"):
        if not (folder / FILE).exists():
            for seed, split in enumerate(SPLITS):
                _write(folder / split, counts[split], seed, settings)
            write_text(folder / FILE, json.dumps({name: i for i, name in enumerate(inspection.MASK_CLASSES)}))
    return folder


def _write(folder: Path, count: int, seed: int, settings: dict[str, Any]) -> None:
    images, _, masks = inspection.draw(count, seed=seed, **settings)
    for kind, arrays in (("image", images), ("mask", masks)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for index, array in enumerate(track(arrays, total=count, text=f"Drawing boards, {kind}s")):
            write_bytes(folder / kind / f"{index:05d}.png", encode(array, "PNG"), durable=False)
