"""The embedded set: synthetic faces of :mod:`tvconv_jax.data.synthetic.faces`, drawn once into the cache."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from tvconv_jax.data.cache import digest
from tvconv_jax.data.decoder import encode_jpeg
from tvconv_jax.data.formats.pairs import Pairs
from tvconv_jax.data.records import ImageSource, RecordBuilder, prepare
from tvconv_jax.data.source import Record
from tvconv_jax.data.synthetic import face_rendering, faces
from tvconv_jax.data.synthetic.face_rendering import render
from tvconv_jax.data.synthetic.faces import VERIFICATION, draw_identities, draw_photos
from tvconv_jax.utils.errors import UserError

CHUNK = 240  # images drawn at once
IMAGE_SIZE = 48
# By default training identities and photographs of each; pairs in each verification set: ten folds, half of each of one
# identity.
SIZES = {"full": (500, 24, 1000), "smoke": (8, 8, 20)}


class EmbeddedFaces(RecordBuilder):
    """Identities to train on, and others in four verification sets, each hard in another way."""

    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=size) for size in SIZES]
    text = "Synthetic faces drawn by tvconv_jax."


def count(size: str, identities: int = 0, photos: int = 0) -> tuple[int, int]:
    """Return the number of training identities, and of photographs of each; 0 stands for those of :data:`SIZES`.

    Raises:
        UserError: If there is one identity.
    """
    if identities == 1:
        raise UserError("data.identities is 1; training needs two or more.")
    return identities or SIZES[size][0], photos or SIZES[size][1]


def load(
    size: str, root: Path, *, identities: int = 0, photos: int = 0, seed: int = 0
) -> tuple[ImageSource, dict[str, tuple[ImageSource, Pairs]], int]:
    """Draw the set of a size in :data:`SIZES`, unless it is in the cache folder ``root``.

    The verification sets depend on size and seed alone. The identities depend on their number, and not on that of their
    photographs.

    Args:
        size: A key of :data:`SIZES`.
        root: The cache folder.
        identities: To train on; 0: as many as the size has.
        photos: Photographs of each; 0: as many as the size has.
        seed: Of all sets; those of two seeds have no identity in common.

    Returns:
        The training images; for each verification set its images and pairs; the number of training identities.

    Raises:
        UserError: If there is one identity.
    """
    (identities, photos), pairs_count = count(size, identities, photos), SIZES[size][2]
    seeds = iter(np.random.SeedSequence(seed).spawn(1 + len(VERIFICATION)))
    labels = np.repeat(np.arange(identities), photos)
    splits = {"train": _draw(next(seeds), identities, labels, {}, "person{label:04d}/{index:06d}.jpg")}
    labels = np.repeat(np.arange(pairs_count), 2)  # images 2i and 2i + 1 are pair i, of one identity where i is even
    labels[3::4] = (labels[3::4] + 1) % pairs_count
    for name, exaggerate in VERIFICATION.items():
        splits[name] = _draw(next(seeds), pairs_count, labels, exaggerate, name + "/{index:06d}.jpg")
    # Another drawing code is another set.
    code = (Path(file).read_bytes() for file in (faces.__file__, face_rendering.__file__, __file__))
    given = "" if (identities, photos, seed) == (*count(size), 0) else f"-{identities}x{photos}-{seed}"
    folder = root / f"embedded-{digest(*code)}{given}"
    builder = EmbeddedFaces(splits=splits, config=size, data_dir=folder)
    prepare(builder, "the embedded faces (synthetic, drawn by tvconv_jax)")
    index = np.arange(pairs_count, dtype=np.int32)
    pairs = Pairs(left=2 * index, right=2 * index + 1, same=index % 2 == 0, folds=index * 10 // pairs_count)
    verification = {name: (ImageSource(builder, name), pairs) for name in VERIFICATION}
    return ImageSource(builder, "train"), verification, identities


def _draw(
    seed: np.random.SeedSequence, count: int, labels: np.ndarray, exaggerate: dict[str, float], pattern: str
) -> Iterator[Record]:
    random = np.random.default_rng(seed)
    identities = draw_identities(random, count)

    def draw(start: int) -> np.ndarray:
        chosen = labels[start : start + CHUNK]
        photos = draw_photos(random, len(chosen), exaggerate)
        return render({name: values[chosen] for name, values in identities.items()}, photos, IMAGE_SIZE)

    images = chain.from_iterable(_ahead(map(draw, range(0, len(labels), CHUNK))))
    for index, (label, image) in enumerate(zip(labels.tolist(), images, strict=True)):
        yield Record(image=encode_jpeg(image), label=label, name=pattern.format(label=label, index=index))


def _ahead(items: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield items, each made while the one before is used."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, items, None)
        while (item := following.result()) is not None:
            following = pool.submit(next, items, None)
            yield item
