"""Faces in TFDS sets: those of the user, and those that ``convert`` writes."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource

from tvconv_jax.data.formats.tfds_folder import one_line, open_folder, shards
from tvconv_jax.data.formats.tfrecord import TFRecords
from tvconv_jax.data.listing import is_junk
from tvconv_jax.data.records import Names, RecordBuilder, columns, prepare
from tvconv_jax.data.source import Record, read
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import user_path

PREFIX = "tfds:"
INFO = "dataset_info.json"


class TfdsFaces:
    """Random access to the images of a prepared TFDS set, in the set's order; TensorFlow is never imported.

    Raises:
        UserError: If the set has no images with labels, or several splits but none called ``train``, or is damaged,
            or names code.
    """

    named: bool  # whether the images have names
    identities: list[str] | None = None  # names of the labels, from a ClassLabel or from texts, which LFW has as labels

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        builder = open_folder(self.path)
        splits = builder.info.splits
        split = "train" if "train" in splits else next(iter(splits), "")
        if not split or (split != "train" and len(splits) > 1):
            raise UserError(f"{path} has the splits {', '.join(splits) or '(none)'}; one called train is needed.")
        self._set, features = f"{builder.name}/{split}", builder.info.features
        self._image, self._label = _columns(features, self.path)
        kind = builder.info.file_format.value if builder.info.file_format else "nothing"
        if kind not in ("array_record", "tfrecord"):
            raise UserError(f"{path} is kept as {kind}; array_record and tfrecord can be read.")
        files = shards(builder, split, self.path)
        self.named, self._name = "name" in features, Names(self.path, split)
        self._label_of_text: dict[bytes, int] = {}
        with one_line(self.path):
            names = [str(file) for file in files]
            self._records = ArrayRecordDataSource(names) if kind == "array_record" else TFRecords(files)
            if isinstance(features[self._label], tfds.features.ClassLabel):
                self.identities = features[self._label].names
            elif isinstance(features[self._label], tfds.features.Text):
                examples = (columns(self._records[index]) for index in range(len(self)))
                texts = sorted({example[self._label].bytes_list.value[0] for example in examples})
                self.identities = [text.decode() for text in texts]
                self._label_of_text = {text: label for label, text in enumerate(texts)}

    def __reduce__(self) -> tuple:
        return TfdsFaces, (self.path,)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        with one_line(self.path):
            examples = read(self._records, [int(index) for index in indices])
            return [self._record(int(index), example) for index, example in zip(indices, examples, strict=True)]

    def name(self, index: int) -> str:
        """Return an image's name in messages: its own, or the set's name and the image's place."""
        if not self.named:
            return f"{self._set}:{index}"
        with one_line(self.path):
            return self._name(self._records, int(index))

    def _record(self, index: int, example: bytes) -> Record:
        column = columns(example)
        label = column[self._label]
        return Record(
            image=column[self._image].bytes_list.value[0],
            label=self._label_of_text[label.bytes_list.value[0]] if self._label_of_text else label.int64_list.value[0],
            name=column["name"].bytes_list.value[0].decode() if self.named else f"{self._set}:{index}",
        )


def _columns(features: tfds.features.FeaturesDict, path: Path) -> tuple[str, str]:
    """Return the names of the image and the label features; ``image`` and ``label`` if there are several."""
    images = [name for name, feature in features.items() if isinstance(feature, tfds.features.Image)]
    labels = [name for name, feature in features.items() if name != "name" and _is_label(feature)]
    if not images or not labels:
        raise UserError(f"{path} must hold images with labels; its features are {', '.join(features)}.")
    return "image" if "image" in images else images[0], "label" if "label" in labels else labels[0]


def _is_label(feature: Any) -> bool:
    kinds = (tfds.features.ClassLabel, tfds.features.Text)
    return isinstance(feature, kinds) or (feature.shape == () and np.issubdtype(feature.np_dtype, np.integer))


def is_tfds(path: Path) -> bool:
    """Return whether a folder is a prepared TFDS set: it, or one of its versions, holds ``dataset_info.json``."""
    return _newest(path) is not None


def _newest(path: Path) -> Path | None:
    """Return a set's own folder or its newest version, without those that TFDS did not complete."""
    if (path / INFO).exists():
        return path
    folders = [found.parent for found in path.glob(f"*/{INFO}")]
    whole = [folder for folder in folders if not is_junk(folder.name) and ".incomplete" not in folder.name]
    return max(whole, key=lambda folder: _version(folder.name), default=None)


def locate(name: str) -> Path:
    """Return the folder of a prepared set: ``name``, or a set in ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``.

    A ``UserError`` names the folders that were searched if there is none.
    """
    base = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    places = [user_path(name).absolute()]
    with suppress(UserError):  # without a home directory
        places.append(user_path(base) / name)
    for place in places:
        if found := _newest(place):
            return found
    raise UserError(f"no prepared TFDS set {name!r} in {' or '.join(map(str, places))}; name its folder as tfds:DIR.")


def _version(text: str) -> tuple:
    return tuple(int(part) if part.isdecimal() else -1 for part in text.split("."))


def write_tfds(target: Path, records: Iterable[Record], identities: Sequence[str]) -> Path:
    """Write a set that TFDS and :class:`TfdsFaces` read, whole or not at all; return the folder of its version.

    Args:
        target: The set's folder, with the name of the set; a ``UserError`` if TFDS does not accept it, or it exists.
        records: The images; labels index ``identities``.
        identities: Names of the labels.
    """
    target = target.absolute()
    if not target.name.isidentifier() or target.name != target.name.lower():
        raise UserError(f"{target.name!r} is not a name for a TFDS set; use lowercase letters, digits and underscores.")
    if is_tfds(target):
        raise UserError(f"{target} exists and is not written over; choose another name or remove it.")
    kind = type("ConvertedFaces", (RecordBuilder,), {"name": target.name}, skip_registration=True)
    builder = kind(splits={"train": records}, identities=identities, data_dir=target.parent)
    prepare(builder, target.name)
    return Path(builder.data_path)
