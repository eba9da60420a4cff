"""Encoded pictures with a label and a name, kept as TFDS array records; TensorFlow is never imported."""

import hashlib
import io
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from tensorflow_datasets.proto import tf_example_pb2

from tvconv_jax.utils import storage
from tvconv_jax.utils.console import silent_stdout
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import read_json, user_path, write_json
from tvconv_jax.utils.progress import reporter


class Record(TypedDict):
    """One encoded picture."""

    image: bytes
    label: int
    name: str


class Source(Protocol):
    """Random access to encoded pictures; can be pickled, so that worker processes read too."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def name(self, index: int) -> str:
        """Name of one picture, for messages."""
        ...


def read(source: Source, indices: Sequence[int]) -> list[Record]:
    """Many pictures of a source; at once, where it offers ``__getitems__``, which is several times as fast."""
    if not len(indices):  # of which array records would make an error
        return []
    many = getattr(source, "__getitems__", None)
    return many(indices) if many else [source[index] for index in indices]


class Names:
    """The names of a split's records: from the list that :func:`prepare` keeps beside them, else from a record.

    Args:
        folder: Where the records lie.
        split: Theirs.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self._folder, self._split = folder, split
        self._names: list[str] | None = None

    def __reduce__(self) -> tuple:  # worker processes have no use for them
        return Names, (self._folder, self._split)

    def __call__(self, records: Sequence[bytes], index: int) -> str:
        """Name of one record."""
        file = _names_file(self._folder, self._split)
        if self._names is None and file.exists():
            names = read_json(file, "remove it")["names"]
            self._names = names if len(names) == len(records) else []
        if self._names:
            return self._names[index]
        return columns(records[int(index)])["name"].bytes_list.value[0].decode()


def _names_file(folder: Path, split: str) -> Path:
    return folder / f"names_{split}.json"


class ImageSource:
    """Random access to the records of one split, in the order in which the builder yielded them."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str) -> None:
        self._records = ArrayRecordDataSource([str(path) for path in builder.info.splits[split].filepaths])
        self._name = Names(Path(builder.data_path), split)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        return _record(self._records[int(index)])

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        return [_record(example) for example in self._records.__getitems__([int(index) for index in indices])]

    def name(self, index: int) -> str:
        """Name of one picture, without reading the picture."""
        return self._name(self._records, int(index))


def columns(example: bytes) -> Any:
    """A serialized ``tf.train.Example`` by column, straight from its message: a tenth of the time TFDS takes."""
    return tf_example_pb2.Example.FromString(example).features.feature


def _record(example: bytes) -> Record:
    column = columns(example)
    name = column["name"].bytes_list.value[0].decode()
    return Record(image=column["image"].bytes_list.value[0], label=column["label"].int64_list.value[0], name=name)


def info(
    builder: tfds.core.DatasetBuilder, text: str, identities: Sequence[str] | None = None
) -> tfds.core.DatasetInfo:
    """What TFDS wants to know; records keep the order in which they are yielded.

    Args:
        builder: Whose records.
        text: What they are.
        identities: Names of the labels, where they have any.
    """
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=identities) if identities else np.int64,
            "name": tfds.features.Text(),
        }
    )
    return tfds.core.DatasetInfo(builder=builder, description=text, features=features, disable_shuffling=True)


class NamedBuilder(tfds.core.GeneratorBasedBuilder):
    """A builder whose examples have names, which are kept beside the records. Subclasses give ``_examples_of``."""

    VERSION = tfds.core.Version("1.0.0")
    SKIP_REGISTERING = True

    def _examples_of(self) -> dict[str, Iterator[tuple[int, dict]]]:
        """The examples of every split."""
        raise NotImplementedError

    def _split_generators(self, _: Any) -> dict[str, Iterator]:
        self.names: dict[str, list[str]] = {}
        return {split: self._noted(split, examples) for split, examples in self._examples_of().items()}

    def _noted(self, split: str, examples: Iterable[tuple[int, dict]]) -> Iterator[tuple[int, dict]]:
        names = self.names[split] = []
        for index, example in examples:
            names.append(example["name"])
            yield index, example

    def _generate_examples(self) -> Iterator:
        raise NotImplementedError("_split_generators yields the examples itself")


class RecordBuilder(NamedBuilder):
    """Encoded pictures of other formats, their bytes as they are. Subclasses give the set's ``name``.

    Args:
        splits: The records of every split; read once, while they are written.
        identities: Names of the labels, where they have any.
        **kwargs: Of :class:`tfds.core.DatasetBuilder`.
    """

    def __init__(
        self, *, splits: Mapping[str, Iterable[Record]], identities: Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        self._splits, self._identities = splits, identities
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return info(self, "Faces of the user's.", self._identities)

    def _examples_of(self) -> dict[str, Iterator]:
        return {split: self._examples(records) for split, records in self._splits.items()}

    def _examples(self, records: Iterable[Record]) -> Iterator[tuple[int, dict]]:
        for index, record in enumerate(records):
            yield index, {**record, "image": io.BytesIO(record["image"])}


def prepare(builder: NamedBuilder, what: str) -> None:
    """Writes the records unless they are there. A killed run leaves no folder that looks complete."""
    if not builder.data_path.exists():
        with one_writer(Path(builder.data_path)):
            if not builder.data_path.exists():  # no other process wrote them while this one waited
                _write(builder, what)
    if not builder.info.splits:  # another one wrote them after this builder had looked
        builder.info.read_from_directory(builder.data_path)


@contextmanager
def one_writer(path: Path) -> Iterator[None]:
    """Let the processes of this machine that want to write ``path`` do so one after the other.

    The lock file ``.NAME.lock`` beside it is removed by who holds it, so that a cache is not littered with them;
    :func:`tvconv_jax.utils.storage.lock` sees that those who wait go on with a new one.
    """
    name = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Where there are no locks, several write.
        file, _ = storage.lock(name, wait=True)
    except OSError as error:
        if storage.is_full(error):
            raise
        raise UserError(
            f"{path.parent} cannot be written ({error.strerror}); set TVCONV_JAX_CACHE to a folder that can."
        ) from None
    with file:
        try:
            yield
        finally:
            name.unlink(missing_ok=True)


def _write(builder: NamedBuilder, what: str) -> None:
    print(f"Preparing {what}, once, into {builder.data_path}", flush=True)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    with reporter.doing(f"preparing {what}"), silent_stdout():  # TFDS prints a banner of its own
        try:
            with tempfile.TemporaryDirectory() as nothing:  # nothing is downloaded, yet TFDS makes the folder
                builder.download_and_prepare(download_dir=nothing)
            for split, names in builder.names.items():
                write_json(_names_file(Path(builder.data_path), split), {"names": names})
        except FileExistsError:  # another machine prepared the same records meanwhile
            if not builder.data_path.exists():
                raise


def cache_dir() -> Path:
    """``$TVCONV_JAX_CACHE``, or ``~/.cache/tvconv_jax``.

    Raises:
        UserError: If neither is known.
    """
    if given := os.environ.get("TVCONV_JAX_CACHE"):
        return user_path(given).absolute()
    try:
        return user_path("~/.cache/tvconv_jax").absolute()
    except UserError:  # nor in the folder for temporary files, where others could put programs into it
        raise UserError(
            "there is no home directory to keep prepared data and compiled programs in; set TVCONV_JAX_CACHE to a "
            "folder that can be written."
        ) from None


def digest(*parts: bytes | str) -> str:
    """Twelve hexadecimal digits that change with any of the parts."""
    joined = hashlib.sha256()
    for part in parts:
        joined.update(part.encode() if isinstance(part, str) else part)
        joined.update(b"\0")
    return joined.hexdigest()[:12]
