"""What ``torch.save`` wrote, read without PyTorch and without executing anything.

A file is a pickle of nested values and the raw numbers of tensors: a zip of both since PyTorch 1.6, one behind the
other before. The unpickler here is Python's own, written in Python. It finds names by ``find_class`` alone, which knows
tensors and gives an empty stand-in for all else: Lightning keeps arguments, callbacks and optimizers beside the
weights, in classes of its own. Source of both layouts: PyTorch ``torch/serialization.py``.
"""

import io
import math
import pickle
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import numpy as np

_STORAGES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
    "ComplexFloatStorage": "c8",
    "ComplexDoubleStorage": "c16",
}
_TENSORS = ("_rebuild_tensor", "_rebuild_tensor_v2")
_PARAMETERS = ("_rebuild_parameter", "_rebuild_parameter_with_state")
LEGACY = 0x1950A86A20F9469CFC6C  # the number that opens a file of before PyTorch 1.6
# A file may be packed again, but one that unpacks to so much more is a bomb.
_MAX_RATIO, _MAX_EXTRA = 16, 2**24


class Unreadable(ValueError):
    """What is wrong with a file; the message shows none of its bytes."""


class StandIn:
    """In the place of everything that is no tensor; takes what it is given and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __new__(cls, *_: Any, **__: Any) -> "StandIn":
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, *_: Any) -> None: ...

    def append(self, _: Any) -> None: ...

    def extend(self, _: Any) -> None: ...

    def add(self, _: Any) -> None: ...


class _Dict(dict):
    """In the place of an ``OrderedDict`` with attributes."""


class _Kind(NamedTuple):
    """The kind of numbers that a storage holds."""

    dtype: str


class _Storage(NamedTuple):
    """Numbers that are not read yet."""

    dtype: str
    key: str


class Tensor(NamedTuple):
    """A tensor whose numbers are not read yet: where they are in a storage, counted in numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor | StandIn:
    """``torch._utils._rebuild_tensor`` and its second version; a conjugate or negative view is left out."""
    values = (offset, *shape, *strides)
    known = isinstance(storage, _Storage) and len(shape) == len(strides) and not (len(rest) > 2 and rest[2])
    if not known or any(type(value) is not int or value < 0 for value in values):
        return StandIn()
    return Tensor(storage, offset, tuple(shape), tuple(strides))


class _Machine(pickle._Unpickler):
    """Python's unpickler without anything that it could call, and without what a few bytes can make huge or deep."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")
        self.dtypes: dict[str, str] = {}  # of storages, by key

    dispatch = dict(pickle._Unpickler.dispatch)
    for _code in (pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.EXT1, pickle.EXT2, pickle.EXT4):
        del dispatch[_code[0]]

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch._utils" and name in _TENSORS:
            return _tensor
        if module == "torch._utils" and name in _PARAMETERS:
            return lambda tensor, *_: tensor
        if module == "torch" and name in _STORAGES:
            return _Kind(_STORAGES[name])
        return _Dict if (module, name) == ("collections", "OrderedDict") else StandIn

    def persistent_load(self, pid: Any) -> _Storage | StandIn:
        kind, storage, key, _, _, view = (*pid, *[None] * 6)[:6] if isinstance(pid, tuple) else [None] * 6
        if kind == "module":  # of a whole model of before 1.6, in the place of its class
            return StandIn
        if not isinstance(storage, _Kind) or not isinstance(key, (str, int)):
            return StandIn()
        self.dtypes[str(key)] = storage.dtype
        return _Storage(storage.dtype, str(key)) if view is None else StandIn()

    def _check_keys(self, keys: list[Any]) -> None:
        """Python hashes a key however deep it is nested, until its stack ends."""
        simple = (str, int, float, bytes, StandIn, type(None))
        parts = [part for key in keys for part in (key if type(key) is tuple else (key,))]
        if not all(isinstance(part, simple) for part in parts):
            raise Unreadable("it has a dictionary with keys that are not texts or numbers")

    def load_setitem(self) -> None:
        self._check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        self._check_keys(self.stack[::2])
        super().load_setitems()

    def load_dict(self) -> None:
        self._check_keys(self.stack[::2])
        super().load_dict()

    def load_reduce(self) -> None:
        if self.stack[-2] is _Dict:  # of pairs, in Python 2
            self._check_keys([pair[0] for pairs in self.stack[-1] for pair in pairs])
        super().load_reduce()

    def load_additems(self) -> None:
        self.pop_mark()

    def load_frozenset(self) -> None:
        self.pop_mark()
        self.append(StandIn())

    for _code, _load in (
        (pickle.SETITEM, load_setitem),
        (pickle.SETITEMS, load_setitems),
        (pickle.DICT, load_dict),
        (pickle.REDUCE, load_reduce),
        (pickle.ADDITEMS, load_additems),
        (pickle.FROZENSET, load_frozenset),
    ):
        dispatch[_code[0]] = _load


class Content(NamedTuple):
    """What a file holds.

    Attributes:
        value: Nested values, with :class:`Tensor` in the places of tensors.
        array: Gives the numbers of a tensor; raises :class:`Unreadable`.
    """

    value: Any
    array: Callable[[Tensor], np.ndarray]


def read_zip(file: BinaryIO, size: int) -> Content:
    """Read a file of PyTorch 1.6 or newer.

    Args:
        file: Opened; it must stay so as long as arrays are read.
        size: Its bytes.

    Raises:
        Unreadable: If it is something else, or damaged.
    """
    try:
        archive = zipfile.ZipFile(file)
        members = {info.filename: info for info in archive.infolist()}
        if sum(info.file_size for info in members.values()) > _MAX_RATIO * size + _MAX_EXTRA:
            raise Unreadable("it unpacks to many times its size")
        pickles = [name for name in members if name.split("/")[-1] == "data.pkl"]
        if len(pickles) != 1:
            raise Unreadable("it has no data.pkl" if not pickles else "it has several data.pkl")
        folder = pickles[0].removesuffix("data.pkl")
        order = ">" if members.get(f"{folder}byteorder") and archive.read(f"{folder}byteorder") == b"big" else "<"
        value, _ = _unpickled(io.BytesIO(archive.read(pickles[0])))
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise Unreadable(_said(error)) from None
    known: dict[_Storage, np.ndarray] = {}

    def array(tensor: Tensor) -> np.ndarray:
        storage = tensor.storage
        if storage not in known:
            try:
                known[storage] = _numbers(archive.read(f"{folder}data/{storage.key}"), storage.dtype, order)
            except (zipfile.BadZipFile, zlib.error, OSError, EOFError, KeyError, RuntimeError) as error:
                raise Unreadable(_said(error)) from None
        return _placed(tensor, known[storage])

    return Content(value, array)


def read_legacy(file: BinaryIO) -> Content:
    """Read a file of before PyTorch 1.6: five pickles, and behind them the storages in the order of the last.

    Raises:
        Unreadable: If it is something else, or damaged.
    """
    if _unpickled(file)[0] != LEGACY or _unpickled(file)[0] != 1001:
        raise Unreadable("it is a pickle that torch.save did not write")
    (system, _), (value, dtypes), (keys, _) = (_unpickled(file) for _ in range(3))
    order = "<" if not isinstance(system, dict) or system.get("little_endian", True) else ">"
    if not isinstance(keys, list):
        raise Unreadable("it does not say where its numbers are")
    known: dict[str, np.ndarray] = {}
    for key in map(str, keys):
        count = int.from_bytes(file.read(8), "little" if order == "<" else "big")
        if key not in dtypes:  # nothing tells the size
            raise Unreadable("it has numbers of an unknown kind")
        size = 2 if dtypes[key] == "bfloat16" else np.dtype(dtypes[key]).itemsize
        data = file.read(count * size) if count < 2**48 else b""
        if len(data) < count * size:
            raise Unreadable("it is truncated")
        known[key] = _numbers(data, dtypes[key], order)
    return Content(value, lambda tensor: _placed(tensor, known.get(tensor.storage.key, np.zeros(0))))


def _unpickled(file: BinaryIO) -> tuple[Any, dict[str, str]]:
    """The next pickle of a file, and the kinds of numbers in the storages that it names."""
    machine = _Machine(file)
    try:
        return machine.load(), machine.dtypes
    except Unreadable:
        raise
    except Exception:  # whatever a damaged pickle makes of Python; its messages repeat bytes of the file
        raise Unreadable("its pickle is damaged") from None


def _numbers(data: bytes, dtype: str, order: str) -> np.ndarray:
    """Numbers in this machine's order; bfloat16, the upper halves of float32, as float32."""
    size = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
    data = data[: len(data) // size * size]
    if dtype == "bfloat16":
        return (np.frombuffer(data, f"{order}u2").astype("<u4") << 16).view("<f4")
    numbers = np.frombuffer(data, np.dtype(dtype).newbyteorder(order))
    return numbers.astype(dtype, copy=False)


def _placed(tensor: Tensor, storage: np.ndarray) -> np.ndarray:
    """The tensor's view of its storage: a file cannot make it look beyond that, or grow."""
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if math.prod(tensor.shape) > storage.size or (0 not in tensor.shape and last >= storage.size):
        raise Unreadable("a tensor larger than its storage")
    strides = tuple(stride * storage.itemsize for stride in tensor.strides)
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides, writeable=False)


def _said(error: Exception) -> str:
    """What went wrong, in characters that are printed on every terminal."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return "".join(letter for letter in text if letter.isascii() and letter.isprintable())[:100] or "it is damaged"
