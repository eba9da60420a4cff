"""Faces in TFDS sets: those that the user has already, and those that ``convert`` writes."""

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
    """Random access to the pictures of a prepared TFDS set, in the set's order; TensorFlow is never imported.

    Args:
        path: The folder of the set's version, as :func:`locate` finds it.

    Attributes:
        identities: Names of the labels, where the set says them: of a ``ClassLabel``, or the texts by which LFW tells
            people apart; ``None`` otherwise.
        named: Whether the pictures have names.

    Raises:
        UserError: If the set has no pictures with labels, or several splits but none called ``train``, or is damaged,
            or names code.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        builder = open_folder(self.path)
        splits = builder.info.splits
        split = "train" if "train" in splits else next(iter(splits), "")
        if not split or (split != "train" and len(splits) > 1):
            raise UserError(f"{path} has the splits {', '.join(splits) or '(none)'}; one called train is needed.")
        self._set = f"{builder.name}/{split}"
        self._features = builder.info.features
        self._image, self._label = _columns(self._features, self.path)
        kind = builder.info.file_format.value if builder.info.file_format else "nothing"
        if kind not in ("array_record", "tfrecord"):
            raise UserError(f"{path} is kept as {kind}; array_record and tfrecord can be read.")
        files = shards(builder, split, self.path)
        with one_line(self.path):
            names = [str(file) for file in files]
            self._records = ArrayRecordDataSource(names) if kind == "array_record" else TFRecords(files)
        self.named = "name" in self._features
        self._name = Names(self.path, split)
        self.identities: list[str] | None = None
        self._label_of_text: dict[bytes, int] = {}
        feature = self._features[self._label]
        if isinstance(feature, tfds.features.ClassLabel):
            self.identities = feature.names
        elif isinstance(feature, tfds.features.Text):
            with one_line(self.path):
                texts = sorted({self._text(index) for index in range(len(self))})
                self.identities = [text.decode() for text in texts]
            self._label_of_text = {text: label for label, text in enumerate(texts)}

    def __reduce__(self) -> tuple:
        return TfdsFaces, (self.path,)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        with one_line(self.path):
            return self._record(int(index), self._records[int(index)])

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        with one_line(self.path):
            examples = read(self._records, [int(index) for index in indices])
            return [self._record(int(index), example) for index, example in zip(indices, examples, strict=True)]

    def name(self, index: int) -> str:
        """What a picture is called in messages: its own name, or the set's and its place."""
        if not self.named:
            return f"{self._set}:{index}"
        with one_line(self.path):
            return self._name(self._records, int(index))

    def _text(self, index: int) -> bytes:
        return columns(self._records[index])[self._label].bytes_list.value[0]

    def _record(self, index: int, example: bytes) -> Record:
        column = columns(example)
        label = column[self._label]
        return Record(
            image=column[self._image].bytes_list.value[0],
            label=self._label_of_text[label.bytes_list.value[0]] if self._label_of_text else label.int64_list.value[0],
            name=column["name"].bytes_list.value[0].decode() if self.named else f"{self._set}:{index}",
        )


def _columns(features: tfds.features.FeaturesDict, path: Path) -> tuple[str, str]:
    """The features that hold the picture and whose it is; ``image`` and ``label`` where there are several."""
    images = [name for name, feature in features.items() if isinstance(feature, tfds.features.Image)]
    labels = [name for name, feature in features.items() if name != "name" and _tells_apart(feature)]
    if not images or not labels:
        raise UserError(f"{path} must hold pictures with labels; its features are {', '.join(features)}.")
    return "image" if "image" in images else images[0], "label" if "label" in labels else labels[0]


def _tells_apart(feature: Any) -> bool:
    kinds = (tfds.features.ClassLabel, tfds.features.Text)
    return isinstance(feature, kinds) or (feature.shape == () and np.issubdtype(feature.np_dtype, np.integer))


def is_tfds(path: Path) -> bool:
    """Whether a folder is a prepared TFDS set: it, or one of its versions, holds ``dataset_info.json``."""
    return (path / INFO).exists() or bool(_versions(path))


def _versions(path: Path) -> list[Path]:
    """The folders of a set's versions, without those of which TFDS was stopped while it wrote them."""
    folders = [found.parent for found in path.glob(f"*/{INFO}")]
    return [folder for folder in folders if not is_junk(folder.name) and ".incomplete" not in folder.name]


def locate(name: str) -> Path:
    """The folder of a prepared set.

    Args:
        name: What stands behind ``tfds:``: a folder, or a set in ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``.

    Raises:
        UserError: If there is none; says where it was looked for.
    """
    base = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    places = [user_path(name).absolute()]
    with suppress(UserError):  # without a home directory
        places.append(user_path(base) / name)
    for place in places:
        if (place / INFO).exists():
            return place
        if versions := _versions(place):
            return max(versions, key=lambda folder: _version(folder.name))
    raise UserError(f"no prepared TFDS set {name!r} in {' or '.join(map(str, places))}; name its folder as tfds:DIR.")


def _version(text: str) -> tuple:
    return tuple(int(part) if part.isdecimal() else -1 for part in text.split("."))


def write_tfds(target: Path, records: Iterable[Record], identities: Sequence[str]) -> Path:
    """Writes a set that TFDS and :class:`TfdsFaces` read, as ``target/1.0.0``; whole or not at all.

    Args:
        target: The set's folder; its name is the set's.
        records: The pictures; labels index ``identities``.
        identities: Names of the labels.

    Returns:
        The folder of the version.

    Raises:
        UserError: If the set is there, or its name is none that TFDS takes.
    """
    target = target.absolute()
    if not target.name.isidentifier() or target.name != target.name.lower():
        raise UserError(f"{target.name!r} is no name for a TFDS set; use small letters, digits and underscores.")
    if is_tfds(target):
        raise UserError(f"{target} exists and is not written over; choose another name or remove it.")
    kind = type("ConvertedFaces", (RecordBuilder,), {"name": target.name}, skip_registration=True)
    builder = kind(splits={"train": records}, identities=identities, data_dir=target.parent)
    prepare(builder, f"{target.name}")
    return Path(builder.data_path)
