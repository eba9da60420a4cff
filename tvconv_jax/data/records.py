"""Encoded pictures with a label and a name, kept as TFDS array records; TensorFlow is never imported."""

import hashlib
import os
import sys
from pathlib import Path
from typing import Protocol, TypedDict

import numpy as np
import tensorflow_datasets as tfds

FEATURES = tfds.features.FeaturesDict(
    {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "label": np.int64,
        "name": tfds.features.Text(),
    }
)


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


class ImageSource:
    """Random access to the records of one split, in the order in which the builder yielded them."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str) -> None:
        self._records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        record = self._records[int(index)]
        return Record(image=record["image"], label=int(record["label"]), name=record["name"].decode())

    def name(self, index: int) -> str:
        """Name of one picture, for messages."""
        return self[index]["name"]


def info(builder: tfds.core.DatasetBuilder, text: str) -> tfds.core.DatasetInfo:
    """What TFDS wants to know; records keep the order in which they are yielded."""
    return tfds.core.DatasetInfo(builder=builder, description=text, features=FEATURES, disable_shuffling=True)


def prepare(builder: tfds.core.DatasetBuilder, what: str) -> None:
    """Writes the records unless they are there. A killed run leaves no folder that looks complete."""
    if builder.data_path.exists():
        return
    print(f"Preparing {what}, once, into {builder.data_path}", flush=True)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    with open(os.devnull, "w") as quiet:  # TFDS prints a banner of its own
        stdout, sys.stdout = sys.stdout, quiet
        try:
            builder.download_and_prepare()
        except FileExistsError:  # another run prepared the same records meanwhile
            if not builder.data_path.exists():
                raise
        finally:
            sys.stdout = stdout


def cache_dir() -> Path:
    """``$TVCONV_JAX_CACHE``, or ``~/.cache/tvconv_jax``."""
    return Path(os.environ.get("TVCONV_JAX_CACHE") or Path.home() / ".cache" / "tvconv_jax").absolute()


def digest(*parts: bytes | str) -> str:
    """Twelve hexadecimal digits that change with any of the parts."""
    joined = hashlib.sha256()
    for part in parts:
        joined.update(part.encode() if isinstance(part, str) else part)
        joined.update(b"\0")
    return joined.hexdigest()[:12]
