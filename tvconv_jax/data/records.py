"""TFDS array records of encoded images: a builder, a source, and their preparation. TensorFlow is never imported."""

import io
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from tensorflow_datasets.proto import tf_example_pb2

from tvconv_jax.data.source import Record
from tvconv_jax.utils.console import silent_stdout
from tvconv_jax.utils.files import read_json, write_json
from tvconv_jax.utils.progress import reporter
from tvconv_jax.utils.storage import one_writer


class Names:
    """The names of a split's records: from the list that :func:`prepare` keeps beside them, else from a record."""

    def __init__(self, folder: Path, split: str) -> None:
        self._key, self._names = (folder, split), None

    def __reduce__(self) -> tuple:  # worker processes do not need the names
        return Names, self._key

    def __call__(self, records: Sequence[bytes], index: int) -> str:
        """Return the name of one record."""
        if self._names is None and (file := _names_file(*self._key)).exists():
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

    @staticmethod
    def _parse(column: Mapping[str, Any]) -> Record:
        name = column["name"].bytes_list.value[0].decode()
        return Record(image=column["image"].bytes_list.value[0], label=column["label"].int64_list.value[0], name=name)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        return self._parse(columns(self._records[int(index)]))

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        return [self._parse(columns(data)) for data in self._records.__getitems__([int(index) for index in indices])]

    def name(self, index: int) -> str:
        """Return the name of one image, without reading the image."""
        return self._name(self._records, int(index))


def columns(example: bytes) -> Any:
    """Parse a ``tf.train.Example`` by column, straight from its message: ten times faster than TFDS."""
    return tf_example_pb2.Example.FromString(example).features.feature


class RecordBuilder(tfds.core.GeneratorBasedBuilder):
    """A builder of records from encoded images, byte for byte; their names are also kept beside the records.

    Subclasses set ``name``, and may set ``text`` (the description) and :meth:`features`. The records of ``splits`` are
    read once, while they are written; ``identities`` are the names of the labels, if they have any.
    """

    VERSION = tfds.core.Version("1.0.0")
    SKIP_REGISTERING = True
    text = "Faces of the user's."

    def __init__(
        self, *, splits: Mapping[str, Iterable[Record]], identities: Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        self._splits, self._identities = splits, identities
        self.names: dict[str, list[str]] = {}
        super().__init__(file_format="array_record", **kwargs)

    def features(self) -> dict[str, Any]:
        """Return the TFDS feature of every column."""
        label = tfds.features.ClassLabel(names=self._identities) if self._identities else np.int64
        image = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
        return {"image": image, "label": label, "name": tfds.features.Text()}

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(self.features())
        return tfds.core.DatasetInfo(builder=self, description=self.text, features=features, disable_shuffling=True)

    def _split_generators(self, _: Any) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in self._splits}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        names = self.names[split] = []
        for index, record in enumerate(self._splits[split]):
            names.append(record["name"])
            yield index, {key: io.BytesIO(x) if isinstance(x, bytes) else x for key, x in record.items()}


def prepare(builder: RecordBuilder, title: str) -> None:
    """Write the records unless they exist. A killed run leaves no folder that looks complete."""
    if not builder.data_path.exists():
        with one_writer(Path(builder.data_path)):
            if not builder.data_path.exists():  # no other process wrote them while this one waited
                _write(builder, title)
    if not builder.info.splits:  # another process wrote them after this builder was made
        builder.info.read_from_directory(builder.data_path)


def _write(builder: RecordBuilder, title: str) -> None:
    print(f"Preparing {title}, once, into {builder.data_path}", flush=True)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    with reporter.doing(f"preparing {title}"), silent_stdout():  # TFDS prints a banner of its own
        try:
            with tempfile.TemporaryDirectory() as nothing:  # nothing is downloaded, yet TFDS makes the folder
                builder.download_and_prepare(download_dir=nothing)
            for split, names in builder.names.items():
                write_json(_names_file(Path(builder.data_path), split), {"names": names})
        except FileExistsError:  # another machine prepared the same records meanwhile
            if not builder.data_path.exists():
                raise
