"""Batches of images with masks with Grain: shuffled, and changed at random, image and mask alike."""

import math
from functools import partial

import grain
import numpy as np

from tvconv_jax.data.augment import NONE, Magnitudes, draw, draw_shades, shade, transform
from tvconv_jax.data.mask_classes import IGNORE
from tvconv_jax.data.masks import MaskedImages
from tvconv_jax.data.workers import iterate

Batch = dict[str, np.ndarray]


def train_batches(
    source: MaskedImages,
    *,
    batch_size: int,
    image_size: tuple[int, int],
    seed: int,
    flip: bool = False,
    magnitudes: Magnitudes = NONE,
    workers: int = 0,
    rows: np.ndarray | None = None,
) -> grain.DatasetIterator:
    """Iterate over batches without end, every epoch in another order.

    The arguments are those of :func:`tvconv_jax.data.pipeline.train_batches`. An image and its mask are mirrored and
    moved alike; pixels from beyond the edge are black, and belong to no class.

    Returns:
        An iterator as there, over ``{"image": uint8 [n, h, w, 3], "mask": uint8 [n, h, w], "index": int32 [n]}``.

    Raises:
        UserError: If the prefetched batches of the workers do not fit into shared memory.
    """
    load = partial(_load, source, flip, magnitudes, rows)
    dataset = grain.MapDataset.range(len(source)).seed(seed).shuffle()
    dataset = dataset.batch(batch_size, drop_remainder=True).random_map(load).repeat()
    loaded = batch_size if rows is None else len(rows)
    return iterate(dataset, workers=workers, batch_bytes=loaded * 4 * (math.prod(image_size) + 1))


def _load(
    source: MaskedImages,
    flip: bool,
    magnitudes: Magnitudes,
    rows: np.ndarray | None,
    indices: np.ndarray,
    random: np.random.Generator,
) -> Batch:
    mirrored = random.random(len(indices)) < (0.5 if flip else 0.0)
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
