"""Folders of TFDS sets, opened without importing anything that they name; every error is one line.

TFDS imports any module that ``features.json`` names. So the file is checked first: it may name only classes of TFDS.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import parse_json
from tvconv_jax.utils.signatures import describe

FEATURES = "features.json"
_CLASS = re.compile(r"tensorflow_datasets\.core\.features\.[a-z_0-9]+\.[A-Z]\w*")
_NAMES = ("type", "pythonClassName", "python_class_name")  # keys under which TFDS looks for a class
_NESTED = ("json", "jsonFeature", "json_feature")  # keys under which it looks for JSON within a text


def open_folder(path: Path) -> tfds.core.DatasetBuilder:
    """Return a builder that describes the prepared set in a folder, and builds nothing.

    Raises:
        UserError: If the folder is damaged, or names classes that are not TFDS's own.
    """
    with one_line(path):
        _check_features(path / FEATURES)
        return tfds.builder_from_directory(path)


def shards(builder: tfds.core.DatasetBuilder, split: str, path: Path) -> list[Path]:
    """List the files of a split; raise a ``UserError`` if one is missing, or lies outside of the folder."""
    with one_line(path):
        files = [Path(os.path.normpath(file)) for file in builder.info.splits[split].filepaths]
    for file in files:
        if not file.is_relative_to(os.path.normpath(path)):
            raise UserError(f"{path} names the file {str(file)!r}, which is outside of the folder; get the set again.")
        if not file.is_file():
            raise UserError(f"{path} lacks {file.name}, of {len(files)} files of the split {split}; get the set again.")
        if what := _other_kind(file):
            raise UserError(f"{file} is {what}, not records of TFDS; get the set again.")
    return files


def _other_kind(file: Path) -> str | None:
    """Name a file that does not begin as records do: with the length of the first one, or with Riegeli's header."""
    with open(file, "rb") as content:
        head = content.read(512)
    return describe(head) if head and head[4:8] != bytes(4) else None


@contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Turn any error of TFDS about a damaged folder into one line."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # TFDS, protobuf and array_record have exceptions of their own
        text = " ".join(str(error).split()).encode("ascii", "replace").decode()[:120]
        kind = type(error).__name__
        raise UserError(
            f"{path} is not a TFDS set that can be read ({kind}{': ' if text else ''}{text}); get the set again."
        ) from None


def _check_features(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path.parent} holds no {FEATURES}, as every set of TFDS 4 does; get the set again.")
    try:
        features = parse_json(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path} is damaged or is not JSON; get the set again.") from None
    for name in _named_classes(features):
        if not isinstance(name, str) or not _CLASS.fullmatch(name):
            raise UserError(
                f"{path} names the feature class {str(name)[:80]!r}, which TFDS would import; only TFDS's own classes "
                f"are read, as Image, ClassLabel, Text and Tensor. Nothing of it was executed."
            )


def _named_classes(features: Any) -> Iterator[Any]:
    """Yield every class that TFDS may look up, at any depth, and all that cannot be searched for classes."""
    waiting = [features]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            yield from (value[key] for key in _NAMES if key in value and not isinstance(value[key], dict))
            yield from (value[key] for key in _NESTED if isinstance(value.get(key), str))
            waiting += value.values()
