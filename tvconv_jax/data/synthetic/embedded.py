"""The embedded set: synthetic faces of :mod:`tvconv_jax.data.synthetic.faces`, drawn once into the cache."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from tvconv_jax.data.cache import digest
from tvconv_jax.data.decoder import encode
from tvconv_jax.data.formats.pairs import Pairs
from tvconv_jax.data.records import ImageSource, RecordBuilder, prepare
from tvconv_jax.data.source import Record
from tvconv_jax.data.synthetic import face_rendering, faces
from tvconv_jax.data.synthetic.face_rendering import render
from tvconv_jax.data.synthetic.faces import VERIFICATION, draw_identities, draw_photos

CHUNK = 240  # images drawn at once
IMAGE_SIZE = 48
# Training identities, photographs of each, and pairs in each verification set: ten folds, half of each of one identity.
SIZES = {"full": (500, 24, 1000), "smoke": (8, 8, 20)}


class EmbeddedFaces(RecordBuilder):
    """Identities to train on, and others in four verification sets, each hard in another way."""

    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=size) for size in SIZES]
    text = "Synthetic faces drawn by tvconv_jax."


def load(size: str, root: Path) -> tuple[ImageSource, dict[str, tuple[ImageSource, Pairs]], int]:
    """Draw the set of a size in :data:`SIZES`, unless it is in the cache folder ``root``.

    Returns:
        The training images; for each verification set its images and pairs; the number of training identities.
    """
    identities, photos, count = SIZES[size]
    seeds = iter(np.random.SeedSequence(0).spawn(1 + len(VERIFICATION)))
    labels = np.repeat(np.arange(identities), photos)
    splits = {"train": _draw(next(seeds), identities, labels, {}, "person{label:04d}/{index:06d}.jpg")}
    labels = np.repeat(np.arange(count), 2)  # images 2i and 2i + 1 are pair i, of one identity where i is even
    labels[3::4] = (labels[3::4] + 1) % count
    for name, exaggerate in VERIFICATION.items():
        splits[name] = _draw(next(seeds), count, labels, exaggerate, name + "/{index:06d}.jpg")
    # Another drawing code is another set.
    code = (Path(file).read_bytes() for file in (faces.__file__, face_rendering.__file__, __file__))
    folder = root / f"embedded-{digest(*code)}"
    builder = EmbeddedFaces(splits=splits, config=size, data_dir=folder)
    prepare(builder, "the embedded faces (synthetic, drawn by tvconv_jax)")
    index = np.arange(count, dtype=np.int32)
    pairs = Pairs(left=2 * index, right=2 * index + 1, same=index % 2 == 0, folds=index * 10 // count)
    verification = {name: (ImageSource(builder, name), pairs) for name in VERIFICATION}
    return ImageSource(builder, "train"), verification, identities


def _draw(
    seed: np.random.SeedSequence, count: int, labels: np.ndarray, exaggerate: dict[str, float], pattern: str
) -> Iterator[Record]:
    random = np.random.default_rng(seed)
    identities = draw_identities(random, count)
    for start in range(0, len(labels), CHUNK):
        chosen = labels[start : start + CHUNK]
        photos = draw_photos(random, len(chosen), exaggerate)
        images = render({name: values[chosen] for name, values in identities.items()}, photos, IMAGE_SIZE)
        for index, (label, image) in enumerate(zip(chosen.tolist(), images, strict=True), start=start):
            name = pattern.format(label=label, index=index)
            yield Record(image=encode(image, "JPEG", quality=95, subsampling=0), label=label, name=name)
