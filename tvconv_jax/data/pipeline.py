"""From records to batches, with Grain: shuffled, flipped, batched; its position can be saved and set again."""

from collections.abc import Iterator

import grain
import numpy as np

from tvconv_jax.data.augment import NONE, Strengths, draw, transform
from tvconv_jax.data.decoder import ImageError, decode
from tvconv_jax.data.records import Record, Source, read
from tvconv_jax.data.workers import iterate
from tvconv_jax.utils.errors import UserError

Batch = dict[str, np.ndarray]


def pixels(record: Record, side: int) -> np.ndarray:
    """A picture decoded, ``uint8 [side, side, 3]``; a ``UserError`` that names it if that cannot be."""
    try:
        return decode(record["image"], side)
    except ImageError as error:
        raise UserError(
            f"picture {record['name']} cannot be decoded ({error}); repair or remove it. Where it is part of a packed "
            f"set, 'python -m tvconv_jax.data convert SET FOLDER' makes loose pictures of that, and a run on these, in "
            f"a new --workdir, leaves broken ones out."
        ) from None


def steps_per_epoch(source: Source, batch_size: int) -> int:
    """Whole batches in one pass; the remainder of each shuffled pass is dropped, as in the reference.

    Raises:
        UserError: If there is not even one whole batch.
    """
    if len(source) < batch_size:
        raise UserError(
            f"data.batch_size {batch_size} is more than the {len(source)} training pictures; make it smaller."
        )
    return len(source) // batch_size


def train_batches(
    source: Source,
    *,
    batch_size: int,
    image_size: int,
    seed: int,
    flip: bool = True,
    strengths: Strengths = NONE,
    workers: int = 0,
    rows: np.ndarray | None = None,
) -> grain.DatasetIterator:
    """Batches without end, every epoch in an order of its own.

    Args:
        source: Training pictures.
        batch_size: Pictures in a batch of all processes together.
        image_size: Side to which pictures are brought.
        seed: Of order, flips and transformations; the same seed gives the same batches.
        flip: Whether half of the pictures, drawn anew every epoch, are mirrored.
        strengths: How far pictures are turned, sheared, scaled and moved, drawn anew every epoch.
        workers: Processes that decode; 0 decodes in threads of this one.
        rows: Which rows of every batch this process loads, ``int [n]``; ``None``: all. Batches, their order and
            their flips are the same however many processes share them.

    Returns:
        An iterator over ``{"image": uint8 [n, s, s, 3], "label": int32 [n], "index": int32 [n]}``; its
        ``get_state()`` and ``set_state()`` save and restore the position exactly, whatever the rows; ``close()`` ends
        its threads and processes.

    Raises:
        UserError: If what the workers prefetch does not fit into shared memory.
    """

    def load(indices: np.ndarray, random: np.random.Generator) -> Batch:
        mirrored = random.random(len(indices)) < (0.5 if flip else 0.0)
        drawn = draw(random, len(indices)) if any(strengths) else None
        if rows is not None:
            indices, mirrored = indices[rows], mirrored[rows]
            drawn = None if drawn is None else drawn[rows]
        images = np.empty((len(indices), image_size, image_size, 3), np.uint8)
        labels = np.empty(len(indices), np.int32)
        for row, record in enumerate(read(source, indices)):
            image = pixels(record, image_size)
            image = image[:, ::-1] if mirrored[row] else image
            images[row] = image if drawn is None else transform(image, strengths, drawn[row])
            labels[row] = record["label"]
        return {"image": images, "label": labels, "index": indices.astype(np.int32)}

    # Batches of indices, so that what Grain does for each element it does once a batch: twice as fast altogether.
    dataset = grain.MapDataset.range(len(source)).seed(seed).shuffle()
    dataset = dataset.batch(batch_size, drop_remainder=True).random_map(load).repeat()
    loaded = batch_size if rows is None else len(rows)
    return iterate(dataset, workers=workers, batch_bytes=loaded * (3 * image_size**2 + 4) + 4 * batch_size)


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    image_size: int,
    start: int = 0,
    stop: int | None = None,
    rows: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Every picture once, in order; the last batch is filled up with zeros, ``mask`` False there.

    Args:
        source: The pictures.
        batch_size: Pictures in a batch.
        image_size: Side to which pictures are brought.
        start: The first picture.
        stop: The one behind the last; ``None``: all.
        rows: Which rows of every batch this process loads, ``int [n]``; ``None``: all.

    Yields:
        ``{"image": uint8 [n, s, s, 3], "mask": bool [batch_size]}``: the mask is the whole batch's.
    """
    stop = len(source) if stop is None else stop
    rows = np.arange(batch_size) if rows is None else rows
    for first in range(start, stop, batch_size):
        images = np.zeros((len(rows), image_size, image_size, 3), np.uint8)
        for row, record in enumerate(read(source, [int(first + row) for row in rows if first + row < stop])):
            images[row] = pixels(record, image_size)  # rows ascend, so those beyond the end are the last
        yield {"image": images, "mask": np.arange(first, first + batch_size) < stop}
