"""Batches of fundus pictures with Grain: as many of every training domain, scaled and cropped at random."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import grain
import numpy as np
from absl import flags
from PIL import Image

from tvconv_jax.data.fundus import FundusRecord, FundusSource, pixels

Batch = dict[str, np.ndarray]


class Tested(NamedTuple):
    """Pictures at the model's size, and where they come from.

    Attributes:
        images: ``uint8 [n, s, s, 3]``; the last ones may be filled up with zeros.
        records: The records of those that are not.
    """

    images: np.ndarray
    records: list[FundusRecord]


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

    Returns:
        An iterator over ``{"image": uint8 [n, s, s, 3], "mask": uint8 [n, s, s], "index": int32 [n]}``, ``index``
        counting through the domains; its ``get_state()`` and ``set_state()`` save and restore the position.
    """
    if not flags.FLAGS.is_parsed():  # Grain reads absl's flags; in a program without absl.app nobody parsed them
        flags.FLAGS.mark_as_parsed()
    parts, first, starts = list(sources.values()), 0, []
    for source in parts:
        starts.append(first)
        first += len(source)

    def load(indices: np.ndarray, random: np.random.Generator) -> Batch:
        pairs = []
        for index in indices:
            domain = int(np.searchsorted(starts, index, side="right")) - 1
            image, mask = pixels(parts[domain][index - starts[domain]], image_size)
            pairs.append(random_scale_crop(image, mask, random) if scale_crop else (image, mask))
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
    batches = dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
    if workers:
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(batches)


def random_scale_crop(
    image: np.ndarray, mask: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """With probability one half, a crop of the picture enlarged by 1 to 1.5, height and width apart.

    Args:
        image: ``uint8 [s, s, 3]``.
        mask: ``uint8 [s, s]``.
        random: Where the numbers come from.

    Returns:
        Both at the same size as before; the picture is interpolated, the mask keeps its values.

    Source: github.com/JierunChen/TVConv (609d4bf), od_oc_segmentation/dataloaders/custom_transforms.py.
    """
    if random.random() < 0.5:
        return image, mask
    side = image.shape[0]
    width, height = (int(scale * side) for scale in random.uniform(1, 1.5, 2))
    left, top = random.integers(width - side + 1), random.integers(height - side + 1)
    window = np.s_[top : top + side, left : left + side]
    large = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    large_mask = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(large)[window], np.asarray(large_mask)[window]


def eval_batches(source: FundusSource, *, batch_size: int, image_size: int) -> Iterator[Tested]:
    """Every picture once, in order."""
    for first in range(0, len(source), batch_size):
        records = [source[i] for i in range(first, min(first + batch_size, len(source)))]
        images = np.zeros((batch_size, image_size, image_size, 3), np.uint8)
        for row, record in enumerate(records):
            images[row] = pixels(record, image_size)[0]
        yield Tested(images, records)
