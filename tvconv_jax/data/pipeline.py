"""Batches of images with Grain: shuffled, flipped, transformed; the position can be saved and restored."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import grain
import numpy as np
from grain.experimental import index_shuffle

from tvconv_jax.data.augment import NONE, Magnitudes, draw, draw_shades, shade, transform
from tvconv_jax.data.decoder import ImageError, decode
from tvconv_jax.data.mask_classes import IGNORE
from tvconv_jax.data.source import Record, Source, read
from tvconv_jax.data.workers import iterate
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.sizes import Size, height_width

Batch = dict[str, np.ndarray]


def decode_record(record: Record, image_size: Size) -> np.ndarray:
    """Decode an image to ``uint8 [h, w, 3]`` of that size; a ``UserError`` names one that cannot be decoded.

    The record of a source that decoded its images before, at their size, holds the pixels.
    """
    if isinstance(record["image"], np.ndarray):
        return record["image"]
    try:
        return decode(record["image"], image_size)
    except ImageError as error:
        raise UserError(
            f"image {record['name']} cannot be decoded ({error}); repair or remove it. If it is part of a packed set, "
            f"convert that to loose images with 'python -m tvconv_jax.data convert SET FOLDER'. A run on these, in a "
            f"new --workdir, leaves broken ones out."
        ) from None


def steps_per_epoch(source: Source, batch_size: int) -> int:
    """Return the whole batches in one pass; the remainder of each pass is dropped, as in the reference.

    Raises:
        UserError: If there is not even one whole batch.
    """
    if len(source) < batch_size:
        raise UserError(
            f"data.batch_size {batch_size} is more than the {len(source)} training images; take fewer, as with "
            f"--config.data.batch_size={1 << len(source).bit_length() - 1}."
        )
    return len(source) // batch_size


def train_batches(
    source: Source,
    *,
    batch_size: int,
    image_size: Size,
    seed: int,
    flip: bool = True,
    magnitudes: Magnitudes = NONE,
    workers: int = 0,
    rows: np.ndarray | None = None,
) -> grain.DatasetIterator:
    """Iterate over batches without end, every epoch in another order.

    Args:
        source: Training images.
        batch_size: Images in a batch of all processes together.
        image_size: Height and width to which images are resized.
        seed: Seed of order, flips and transformations.
        flip: Whether half of the images, drawn again every epoch, are mirrored.
        magnitudes: Largest random transformations, drawn again every epoch.
        workers: Processes that decode; 0 decodes in threads of this process.
        rows: Rows of every batch that this process loads, ``int [n]``; ``None``: all. The number of processes changes
            neither the batches nor their order and flips.

    Returns:
        An iterator over ``{"image": uint8 [n, h, w, 3], "label": int32 [n], "index": int32 [n]}``. Its
        ``get_state()`` and ``set_state()`` save and restore the position exactly, whatever the rows; ``close()`` ends
        its threads and processes.

    Raises:
        UserError: If the prefetched batches of the workers do not fit into shared memory.
    """
    load = partial(_load, source, image_size, flip, magnitudes, rows)
    loaded = batch_size if rows is None else len(rows)
    return iterate(
        _batched(len(source), batch_size, seed, load),
        workers=workers,
        batch_bytes=loaded * (_image_bytes(image_size) + 4) + 4 * batch_size,
    )


def mask_batches(
    source: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    batch_size: int,
    image_size: Size,
    seed: int,
    flip: bool = False,
    magnitudes: Magnitudes = NONE,
    workers: int = 0,
    rows: np.ndarray | None = None,
) -> grain.DatasetIterator:
    """Iterate over batches of images with masks without end, as :func:`train_batches`.

    An image and its mask are mirrored and moved alike; pixels from beyond the edge are black, and belong to no class.

    Returns:
        An iterator as there, over ``{"image": uint8 [n, h, w, 3], "mask": uint8 [n, h, w], "index": int32 [n]}``.
    """
    load = partial(_load_masks, source, flip, magnitudes, rows)
    loaded = batch_size if rows is None else len(rows)
    batch_bytes = loaded * (_image_bytes(image_size) * 4 // 3 + 4)
    return iterate(_batched(len(source), batch_size, seed, load), workers=workers, batch_bytes=batch_bytes)


def index_batches(
    length: int, *, batch_size: int, seed: int, flip: bool = True, workers: int = 0
) -> grain.DatasetIterator:
    """Iterate over the batches of :func:`train_batches` without their images.

    Order, flips and positions are those of :func:`train_batches` for the same arguments and ``length`` images, so a
    position that one of them saved can be restored by the other.

    Returns:
        An iterator as there, over ``{"index": int32 [batch_size], "mirrored": bool [batch_size]}``.
    """
    dataset = _batched(length, batch_size, seed, partial(_draw_flips, flip))
    return iterate(dataset, workers=workers, batch_bytes=5 * batch_size)


def decoded_parts(
    source: Source, parts: Sequence[range], *, image_size: Size, workers: int = 0
) -> grain.DatasetIterator:
    """Iterate once over parts of the images, in order: ``{"image": uint8 [n, h, w, 3], "label": int32 [n]}``."""
    dataset = grain.MapDataset.source(parts).map(partial(_load_part, source, image_size))
    longest = max(map(len, parts), default=0)
    return iterate(dataset, workers=workers, batch_bytes=longest * (_image_bytes(image_size) + 4))


def _batched(length: int, batch_size: int, seed: int, load: Callable) -> grain.MapDataset:
    rows = _Rows(length, batch_size, _derived_seed(seed, 1))
    return rows.random_map(load, seed=_derived_seed(seed, 3)).repeat()


def _derived_seed(seed: int, depth: int) -> int:
    """Return the seed that Grain derives for a step ``depth`` steps behind ``MapDataset.seed``."""
    return int(np.random.SeedSequence((seed, depth)).generate_state(1, np.uint32)[0])


class _Rows(grain.MapDataset):
    """The rows of every batch, in another order every epoch, whose remainder is dropped.

    The order is that of ``MapDataset.range(length).shuffle(seed)``. Grain's cost for each element is paid once a batch,
    which takes a third of the time.
    """

    def __init__(self, length: int, batch_size: int, seed: int) -> None:
        super().__init__()
        self._images, self._batch_size, self._seed = length, batch_size, seed

    def __len__(self) -> int:
        return self._images // self._batch_size

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        epoch, number = divmod(index, len(self))
        last, seed, first = self._images - 1, (self._seed + epoch) % 2**32, number * self._batch_size
        return np.array([index_shuffle(row, last, seed, 4) for row in range(first, first + self._batch_size)])


def _image_bytes(image_size: Size) -> int:
    return 3 * math.prod(height_width(image_size))


def _draw_flips(flip: bool, indices: np.ndarray, random: np.random.Generator) -> Batch:
    return {"index": indices.astype(np.int32), "mirrored": random.random(len(indices)) < (0.5 if flip else 0.0)}


def _load_part(source: Source, image_size: Size, part: range) -> Batch:
    images, labels = np.empty((len(part), *height_width(image_size), 3), np.uint8), np.empty(len(part), np.int32)
    for row, record in enumerate(read(source, list(part))):
        images[row], labels[row] = decode_record(record, image_size), record["label"]
    return {"image": images, "label": labels}


def _load(
    source: Source,
    image_size: Size,
    flip: bool,
    magnitudes: Magnitudes,
    rows: np.ndarray | None,
    indices: np.ndarray,
    random: np.random.Generator,
) -> Batch:
    mirrored = _draw_flips(flip, indices, random)["mirrored"]
    drawn = draw(random, len(indices)) if magnitudes.moves else None
    shades = draw_shades(random, len(indices)) if magnitudes.shades else None
    if rows is not None:
        indices, mirrored = indices[rows], mirrored[rows]
        drawn = None if drawn is None else drawn[rows]
        shades = None if shades is None else shades[rows]
    images = np.empty((len(indices), *height_width(image_size), 3), np.uint8)
    labels = np.empty(len(indices), np.int32)
    for row, record in enumerate(read(source, indices)):
        image = decode_record(record, image_size)
        image = image[:, ::-1] if mirrored[row] else image
        image = image if drawn is None else transform(image, magnitudes, drawn[row])
        images[row] = image if shades is None else shade(image, magnitudes, shades[row])
        labels[row] = record["label"]
    return {"image": images, "label": labels, "index": indices.astype(np.int32)}


def _load_masks(
    source: Sequence[tuple[np.ndarray, np.ndarray]],
    flip: bool,
    magnitudes: Magnitudes,
    rows: np.ndarray | None,
    indices: np.ndarray,
    random: np.random.Generator,
) -> Batch:
    mirrored = _draw_flips(flip, indices, random)["mirrored"]
    moves, shades = draw(random, len(indices)), draw_shades(random, len(indices))
    pairs = []
    for row in range(len(indices)) if rows is None else rows:
        image, mask = source[int(indices[row])]
        if mirrored[row]:
            image, mask = image[:, ::-1], mask[:, ::-1]
        if magnitudes.moves:
            mask = transform(mask, magnitudes, moves[row], outside=IGNORE)
            image = transform(image, magnitudes, moves[row])
        pairs.append((shade(image, magnitudes, shades[row]) if magnitudes.shades else image, mask))
    images, masks = zip(*pairs, strict=True)
    indices = indices if rows is None else indices[rows]
    return {"image": np.stack(images), "mask": np.stack(masks), "index": indices.astype(np.int32)}


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    image_size: Size,
    start: int = 0,
    stop: int | None = None,
    rows: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Iterate once over the images ``start`` to ``stop``, in order; the last batch is padded with zeros.

    Args:
        source: The images.
        batch_size: Images in a batch.
        image_size: Height and width to which images are resized.
        start: The first image.
        stop: The first image that is not read; ``None``: all are.
        rows: Rows of every batch that this process loads, ``int [n]``; ``None``: all.

    Yields:
        ``{"image": uint8 [n, h, w, 3], "mask": bool [batch_size]}``: the mask, of the whole batch, is False where it
        is padded.
    """
    stop = len(source) if stop is None else stop
    rows = np.arange(batch_size) if rows is None else rows
    for first in range(start, stop, batch_size):
        images = np.zeros((len(rows), *height_width(image_size), 3), np.uint8)
        for row, record in enumerate(read(source, [int(first + row) for row in rows if first + row < stop])):
            images[row] = decode_record(record, image_size)  # rows ascend, so those beyond the end are the last
        yield {"image": images, "mask": np.arange(first, first + batch_size) < stop}
