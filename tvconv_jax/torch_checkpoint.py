"""Checkpoints of PyTorch and PyTorch Lightning, read without either, and without executing anything.

A checkpoint is a zip of a pickle and of raw numbers. Python's unpickler calls whatever a file names, but it finds names
by ``find_class`` alone, and the one here knows tensors and gives an empty stand-in for all else: Lightning keeps the
arguments of the program, callbacks and optimisers beside the weights, in classes of its own.
"""

import io
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tvconv_jax.errors import UserError
from tvconv_jax.pretrained import first_line, read_torch_file

_STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class _Storage(NamedTuple):
    """The kind of numbers that a storage holds."""

    dtype: str


class _Dict(dict):
    """In the place of an ``OrderedDict`` with attributes."""


class _StandIn:
    """In the place of everything that is no tensor; takes what it is given and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __new__(cls, *_: Any, **__: Any) -> "_StandIn":
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, *_: Any) -> None: ...

    def append(self, _: Any) -> None: ...

    def extend(self, _: Any) -> None: ...

    def add(self, _: Any) -> None: ...

    def __hash__(self) -> int:
        return id(self)


def _tensor(storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_: Any) -> np.ndarray:
    """``torch._utils._rebuild_tensor_v2``; a file cannot make it look beyond its storage, or grow."""
    values = (offset, *shape, *strides)
    if not isinstance(storage, np.ndarray) or any(type(value) is not int or value < 0 for value in values):
        raise ValueError("a tensor without numbers")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if math.prod(shape) > storage.size or (0 not in shape and last >= storage.size):
        raise ValueError("a tensor larger than its storage")
    strides = tuple(stride * storage.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides).copy()


class _Reader(pickle.Unpickler):
    """Python's unpickler without anything that it could call."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{folder}data.pkl")))
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in _STORAGES:
            return _Storage(_STORAGES[name])
        return _Dict if (module, name) == ("collections", "OrderedDict") else _StandIn

    def persistent_load(self, pid: Any) -> np.ndarray:
        _, storage, key, *_ = pid
        if not isinstance(storage, _Storage):
            raise ValueError("numbers of an unknown kind")
        numbers = self._archive.read(f"{self._folder}data/{key}")
        if storage.dtype == "bfloat16":  # the upper halves of float32, which numpy lacks
            return (np.frombuffer(numbers, "<u2").astype("<u4") << 16).view("<f4")
        return np.frombuffer(numbers, storage.dtype)


def read_torch_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """The weights in a file of PyTorch (``.pth``) or of PyTorch Lightning (``.ckpt``); nothing in it is executed.

    Args:
        path: What ``torch.save`` wrote: a ``state_dict``, or a dictionary with one under ``state_dict``. Files of
            PyTorch before 1.6, which are no zips, are left to PyTorch and its ``weights_only``.

    Raises:
        UserError: If the file cannot be read, or holds no weights.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; name a file of PyTorch weights.")
    if not zipfile.is_zipfile(path):
        return read_torch_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            (pickled,) = (name for name in archive.namelist() if name.split("/")[-1] == "data.pkl")
            content = _Reader(archive, pickled.removesuffix("data.pkl")).load()
    except Exception as error:  # whatever a damaged file makes of zipfile and of the unpickler
        raise UserError(f"{path} is no checkpoint of PyTorch ({first_line(error)}); name one.") from None
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state:
        raise UserError(f"{path} holds no state_dict (names and tensors); save model.state_dict().")
    for name, value in state.items():
        if not isinstance(value, np.ndarray):
            raise UserError(
                f"{path} holds no state_dict: {name} is no tensor, and what only code could make of it is not made; "
                f"save model.state_dict()."
            )
    return {str(name): value for name, value in state.items()}
