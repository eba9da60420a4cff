"""Batches of fundus pictures with Grain: as many of every training domain, scaled and cropped at random."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import grain
import numpy as np
from PIL import Image

from tvconv_jax.data.fundus import FundusRecord, FundusSource, pixels
from tvconv_jax.data.workers import iterate

Batch = dict[str, np.ndarray]


class Tested(NamedTuple):
    """Pictures at the model's size, and where they come from.

    Attributes:
        images: ``uint8 [n, s, s, 3]``; the last ones may be filled up with zeros.
        records: The records of those that are not.
    """

    images: np.ndarray
    records: list[FundusRecord]


class Crop(NamedTuple):
    """The size to which a picture is enlarged, and where in it the crop begins, in pixels."""

    width: int
    height: int
    left: int
    top: int


def steps_per_epoch(sources: Mapping[int, FundusSource], per_domain: int) -> int:
    """Batches until the largest domain was seen once, as the reference counts an epoch."""
    return math.ceil(max(len(source) for source in sources.values()) / per_domain)


def train_batches(
    sources: Mapping[int, FundusSource],
    *,
    per_domain: int,
    image_size: int,
    seed: int,
    sampling: str = "shuffled",
    scale_crop: bool = True,
    workers: int = 0,
    rows: np.ndarray | None = None,
) -> grain.DatasetIterator:
    """Batches without end, ``per_domain`` pictures of every domain in each.

    Args:
        sources: Training pictures by domain.
        per_domain: Pictures of each.
        image_size: Side of the pictures.
        seed: Of order and crops; the same seed gives the same batches.
        sampling: ``"shuffled"`` shows every picture of a domain before any comes again; ``"replacement"`` draws
            them independently, as the reference does.
        scale_crop: Whether half of the pictures, drawn anew every time, are enlarged by up to 1.5, height and width
            apart, and cropped.
        workers: Processes that decode; 0 decodes in threads of this one.
        rows: Which rows of every batch this process loads, ``int [n]``; ``None``: all. Batches, their order and
            their crops are the same however many processes share them.

    Returns:
        An iterator over ``{"image": uint8 [n, s, s, 3], "mask": uint8 [n, s, s], "index": int32 [n]}``, ``index``
        counting through the domains; its ``get_state()`` and ``set_state()`` save and restore the position, and
        ``close()`` ends its threads and processes.

    Raises:
        UserError: If what the workers prefetch does not fit into shared memory.
    """
    parts, first, starts = list(sources.values()), 0, []
    for source in parts:
        starts.append(first)
        first += len(source)

    def load(indices: np.ndarray, random: np.random.Generator) -> Batch:
        crops = [draw_crop(image_size, random) if scale_crop else None for _ in indices]
        if rows is not None:
            indices, crops = indices[rows], [crops[row] for row in rows]
        pairs = []
        for index, crop in zip(indices, crops, strict=True):
            domain = int(np.searchsorted(starts, index, side="right")) - 1
            image, mask = pixels(parts[domain][index - starts[domain]], image_size)
            pairs.append(cut(image, mask, crop) if crop else (image, mask))
        images, masks = zip(*pairs, strict=True)
        return {"image": np.stack(images), "mask": np.stack(masks), "index": indices.astype(np.int32)}

    def domain_of(number: int) -> grain.MapDataset:
        size, start = len(parts[number]), starts[number]
        dataset = grain.MapDataset.range(start, start + size).seed(seed * len(parts) + number)
        if sampling == "replacement":
            return dataset.random_map(lambda _, random: start + random.integers(size)).repeat()
        return dataset.shuffle().repeat()

    # Equal shares of datasets without end: one of each in turn, so a batch holds as many of every domain.
    dataset = grain.MapDataset.mix([domain_of(number) for number in range(len(parts))])
    dataset = dataset.batch(per_domain * len(parts)).seed(seed).random_map(load)
    loaded = per_domain * len(parts) if rows is None else len(rows)
    return iterate(dataset, workers=workers, batch_bytes=loaded * 4 * (image_size**2 + 1))


def draw_crop(side: int, random: np.random.Generator) -> Crop | None:
    """With probability one half a crop of a picture enlarged by 1 to 1.5, height and width apart; else ``None``.

    Args:
        side: Of the picture, and of the crop.
        random: Where the numbers come from.

    Source: github.com/JierunChen/TVConv (609d4bf), od_oc_segmentation/dataloaders/custom_transforms.py.
    """
    if random.random() < 0.5:
        return None
    width, height = (int(scale * side) for scale in random.uniform(1, 1.5, 2))
    return Crop(width, height, int(random.integers(width - side + 1)), int(random.integers(height - side + 1)))


def cut(image: np.ndarray, mask: np.ndarray, crop: Crop) -> tuple[np.ndarray, np.ndarray]:
    """A crop of a picture ``uint8 [s, s, 3]`` and its mask ``uint8 [s, s]``, both at the same size as before.

    The picture is interpolated, the mask keeps its values.
    """
    side = image.shape[0]
    window = np.s_[crop.top : crop.top + side, crop.left : crop.left + side]
    size = (crop.width, crop.height)
    large = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
    large_mask = Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)
    return np.asarray(large)[window], np.asarray(large_mask)[window]


def eval_batches(source: FundusSource, *, batch_size: int, image_size: int) -> Iterator[Tested]:
    """Every picture once, in order; every process reads them all, for the masks are measured on the host."""
    for first in range(0, len(source), batch_size):
        records = [source[i] for i in range(first, min(first + batch_size, len(source)))]
        images = np.zeros((batch_size, image_size, image_size, 3), np.uint8)
        for row, record in enumerate(records):
            images[row] = pixels(record, image_size)[0]
        yield Tested(images, records)
