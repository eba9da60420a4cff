"""The embedded set: synthetic faces of :mod:`tvconv_jax.data.synthetic.faces`, drawn once into the cache."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from tvconv_jax.data.formats.pairs import Pairs
from tvconv_jax.data.records import ImageSource, NamedBuilder, digest, info, prepare
from tvconv_jax.data.synthetic import faces as draw
from tvconv_jax.data.synthetic.faces import VERIFICATION, draw_people, draw_photos, render

CHUNK = 240  # pictures drawn at once


class EmbeddedFacesConfig(tfds.core.BuilderConfig):
    """How many faces are drawn.

    Attributes:
        identities: People to train on.
        photos: Photographs of each of them.
        pairs: Pairs in each verification set, a multiple of 20: ten folds, half of each the same person.
        side: Height and width of a picture in pixels.
        seed: Of everything that is drawn.
    """

    def __init__(
        self,
        name: str,
        *,
        identities: int,
        photos: int,
        pairs: int,
        side: int = 48,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.identities, self.photos, self.pairs, self.side, self.seed = identities, photos, pairs, side, seed


class EmbeddedFaces(NamedBuilder):
    """People to train on, other people in four verification sets, each hard in another way."""

    BUILDER_CONFIGS = [
        EmbeddedFacesConfig("full", identities=500, photos=24, pairs=1000),
        EmbeddedFacesConfig("smoke", identities=8, photos=8, pairs=20),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return info(self, "Synthetic faces drawn by tvconv_jax.")

    def _examples_of(self) -> dict[str, Iterator]:
        names = ("train", *VERIFICATION)
        seeds = dict(zip(names, np.random.SeedSequence(self.builder_config.seed).spawn(len(names)), strict=True))
        verification = {name: self._verification(name, seeds[name]) for name in VERIFICATION}
        return {"train": self._train(seeds["train"]), **verification}

    def _train(self, seed: np.random.SeedSequence) -> Iterator[tuple[int, dict]]:
        config, random = self.builder_config, np.random.default_rng(seed)
        people = draw_people(random, config.identities)
        labels = np.repeat(np.arange(config.identities), config.photos)
        yield from _examples(random, people, labels, {}, config.side, "person{label:04d}/{index:06d}.jpg")

    def _verification(self, name: str, seed: np.random.SeedSequence) -> Iterator[tuple[int, dict]]:
        """Pictures 2i and 2i + 1 are pair i; they show the same person where i is even."""
        config, random = self.builder_config, np.random.default_rng(seed)
        people = draw_people(random, config.pairs)
        labels = np.repeat(np.arange(config.pairs), 2)
        labels[3::4] = (labels[3::4] + 1) % config.pairs  # odd pairs: the second is somebody else
        pattern = name + "/{index:06d}.jpg"
        yield from _examples(random, people, labels, VERIFICATION[name], config.side, pattern)


def load(size: str, root: Path) -> tuple[ImageSource, dict[str, tuple[ImageSource, Pairs]], int]:
    """Draws the set unless the cache holds it.

    Args:
        size: ``"full"`` or ``"smoke"``.
        root: The cache folder.

    Returns:
        The training pictures; for each verification set its pictures and pairs; how many people to train on.
    """
    # Another drawing code is another set.
    folder = root / f"embedded-{digest(Path(draw.__file__).read_bytes(), Path(__file__).read_bytes())}"
    builder = EmbeddedFaces(config=size, data_dir=folder, file_format="array_record")
    prepare(builder, "the embedded faces (synthetic, drawn by tvconv_jax)")
    count = builder.builder_config.pairs
    index = np.arange(count, dtype=np.int32)
    pairs = Pairs(left=2 * index, right=2 * index + 1, same=index % 2 == 0, folds=index * 10 // count)
    verification = {name: (ImageSource(builder, name), pairs) for name in VERIFICATION}
    return ImageSource(builder, "train"), verification, builder.builder_config.identities


def _examples(
    random: np.random.Generator, people: dict, labels: np.ndarray, exaggerate: dict, side: int, pattern: str
) -> Iterator[tuple[int, dict]]:
    for start in range(0, len(labels), CHUNK):
        chosen = labels[start : start + CHUNK]
        photos = draw_photos(random, len(chosen), exaggerate)
        pictures = render({name: values[chosen] for name, values in people.items()}, photos, side)
        for index, (label, picture) in enumerate(zip(chosen, pictures, strict=True), start=start):
            name = pattern.format(label=label, index=index)
            yield index, {"image": _jpeg(picture), "label": int(label), "name": name}


def _jpeg(picture: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=95, subsampling=0)
    file.seek(0)
    return file
