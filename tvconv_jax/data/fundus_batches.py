"""Batches of fundus images with Grain: equally many of every training domain, scaled and cropped at random."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import grain
import numpy as np
from PIL import Image

from tvconv_jax.data.fundus import FundusRecord, FundusSource, decode_pair
from tvconv_jax.data.workers import iterate

Batch = dict[str, np.ndarray]


class EvalBatch(NamedTuple):
    """Images ``uint8 [n, s, s, 3]`` at the model's size, the last ones maybe zeros, and the records of the others."""

    images: np.ndarray
    records: list[FundusRecord]


class Crop(NamedTuple):
    """The size to which an image is enlarged, and the corner of the crop in it, in pixels."""

    width: int
    height: int
    left: int
    top: int


def steps_per_epoch(sources: Mapping[int, FundusSource], per_domain: int) -> int:
    """Return the batches until the largest domain was seen once: an epoch as the reference counts it."""
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
    """Iterate over batches without end, with ``per_domain`` images of every domain in each.

    Args:
        sources: Training images by domain.
        per_domain: Images of each domain in a batch.
        image_size: Height and width of the images.
        seed: Of order and crops; the same seed gives the same batches.
        sampling: ``"shuffled"`` shows every image of a domain before any comes again; ``"replacement"`` draws them
            independently, as the reference does.
        scale_crop: Whether half of the images, drawn again every time, are enlarged by up to 1.5, height and width
            independently, and cropped.
        workers: Processes that decode; 0 decodes in threads of this process.
        rows: Rows of every batch that this process loads, ``int [n]``; ``None``: all. The number of processes changes
            neither the batches nor their order and crops.

    Returns:
        An iterator over ``{"image": uint8 [n, s, s, 3], "mask": uint8 [n, s, s], "index": int32 [n]}``, ``index``
        counting through the domains. Its ``get_state()`` and ``set_state()`` save and restore the position, and
        ``close()`` ends its threads and processes.

    Raises:
        UserError: If the prefetched batches of the workers do not fit into shared memory.
    """
    parts = list(sources.values())
    starts = np.cumsum([0, *(len(part) for part in parts[:-1])]).tolist()

    def load(indices: np.ndarray, random: np.random.Generator) -> Batch:
        crops = [draw_crop(image_size, random) if scale_crop else None for _ in indices]
        if rows is not None:
            indices, crops = indices[rows], [crops[row] for row in rows]
        pairs = []
        for index, crop in zip(indices, crops, strict=True):
            domain = int(np.searchsorted(starts, index, side="right")) - 1
            image, mask = decode_pair(parts[domain][index - starts[domain]], image_size)
            pairs.append(apply_crop(image, mask, crop) if crop else (image, mask))
        images, masks = zip(*pairs, strict=True)
        return {"image": np.stack(images), "mask": np.stack(masks), "index": indices.astype(np.int32)}

    def domain_dataset(number: int) -> grain.MapDataset:
        size, start = len(parts[number]), starts[number]
        dataset = grain.MapDataset.range(start, start + size).seed(seed * len(parts) + number)
        if sampling == "replacement":
            return dataset.random_map(lambda _, random: start + random.integers(size)).repeat()
        return dataset.shuffle().repeat()

    # Equal shares of endless datasets: their images alternate, so a batch holds equally many of every domain.
    dataset = grain.MapDataset.mix([domain_dataset(number) for number in range(len(parts))])
    dataset = dataset.batch(per_domain * len(parts)).seed(seed).random_map(load)
    loaded = per_domain * len(parts) if rows is None else len(rows)
    return iterate(dataset, workers=workers, batch_bytes=loaded * 4 * (image_size**2 + 1))


def draw_crop(image_size: int, random: np.random.Generator) -> Crop | None:
    """Draw, with probability one half, a crop of an image enlarged by 1 to 1.5, height and width independently.

    The crop has the size of the image, ``image_size``.

    Source: github.com/JierunChen/TVConv (609d4bf), od_oc_segmentation/dataloaders/custom_transforms.py.
    """
    if random.random() < 0.5:
        return None
    width, height = (int(scale * image_size) for scale in random.uniform(1, 1.5, 2))
    left, top = (int(random.integers(length - image_size + 1)) for length in (width, height))
    return Crop(width, height, left, top)


def apply_crop(image: np.ndarray, mask: np.ndarray, crop: Crop) -> tuple[np.ndarray, np.ndarray]:
    """Crop an image ``uint8 [s, s, 3]`` (interpolated) and its mask ``uint8 [s, s]`` (not); the shapes stay."""
    size = len(image)
    window = np.s_[crop.top : crop.top + size, crop.left : crop.left + size]
    enlarged = (crop.width, crop.height)
    image = Image.fromarray(image).resize(enlarged, Image.Resampling.BILINEAR)
    mask = Image.fromarray(mask).resize(enlarged, Image.Resampling.NEAREST)
    return np.asarray(image)[window], np.asarray(mask)[window]


def eval_batches(source: FundusSource, *, batch_size: int, image_size: int) -> Iterator[EvalBatch]:
    """Iterate over all images once, in order; every process reads them all, for masks are evaluated on the host."""
    for first in range(0, len(source), batch_size):
        records = [source[i] for i in range(first, min(first + batch_size, len(source)))]
        images = np.zeros((batch_size, image_size, image_size, 3), np.uint8)
        for row, record in enumerate(records):
            images[row] = decode_pair(record, image_size)[0]
        yield EvalBatch(images, records)
