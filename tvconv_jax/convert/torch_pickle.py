"""Files of ``torch.save``, read without PyTorch and without executing anything.

A file is a pickle of nested values and the raw numbers of tensors. Since PyTorch 1.6 it is a zip of both; before, one
follows the other. The table knows tensors and puts an empty stand-in in the place of everything else: Lightning keeps
arguments, callbacks and optimizers beside the weights, in classes of its own. Source of both layouts: PyTorch
``torch/serialization.py``.
"""

import io
import math
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from tvconv_jax.utils.restricted_pickle import Refused, StandIn, check_keys, load

_STORAGES = {"Float": "f4", "Double": "f8", "Half": "f2", "BFloat16": "bfloat16", "Long": "i8", "Int": "i4"}
_STORAGES |= {"Short": "i2", "Char": "i1", "Byte": "u1", "Bool": "?", "ComplexFloat": "c8", "ComplexDouble": "c16"}
LEGACY = 0x1950A86A20F9469CFC6C  # the number that opens a file of before PyTorch 1.6
# A file may be packed again, but one that unpacks to so much more is a bomb.
_MAX_RATIO, _MAX_EXTRA = 16, 2**24
_DAMAGED = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError)  # errors of zipfile on a damaged archive


class Unreadable(ValueError):
    """An error of a file that cannot be read; the message shows none of its bytes."""


class _Dict(dict):
    """An ``OrderedDict``, whose attributes are left out."""

    def __setstate__(self, _: Any) -> None: ...


class _DType(str):
    """The dtype of a storage."""


class _Storage(NamedTuple):
    """Numbers that are not read yet."""

    dtype: str
    key: str


class Tensor(NamedTuple):
    """A tensor whose numbers are not read yet; its place in a storage is counted in numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor | StandIn:
    """Stand for ``torch._utils._rebuild_tensor`` and its second version; a conjugate or negative view is left out."""
    values = (offset, *shape, *strides)
    known = isinstance(storage, _Storage) and len(shape) == len(strides) and not (len(rest) > 2 and rest[2])
    if not known or any(type(value) is not int or value < 0 for value in values):
        return StandIn()
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _ordered(pairs: Any = ()) -> _Dict:  # of pairs, in Python 2
    check_keys([pair[0] for pair in pairs])
    return _Dict(pairs)


TABLE = {f"torch.{name}Storage": _DType(dtype) for name, dtype in _STORAGES.items()}
TABLE |= {f"torch._utils.{name}": _tensor for name in ("_rebuild_tensor", "_rebuild_tensor_v2")}
_PARAMETERS = ("_rebuild_parameter", "_rebuild_parameter_with_state")
TABLE |= {f"torch._utils.{name}": lambda tensor, *_: tensor for name in _PARAMETERS}
TABLE |= {"collections.OrderedDict": _ordered}


class Content(NamedTuple):
    """The content of a file.

    Attributes:
        value: Nested values, with :class:`Tensor` in the places of tensors.
        array: Returns the numbers of a tensor; raises :class:`Unreadable`.
    """

    value: Any
    array: Callable[[Tensor], np.ndarray]


def read_zip(file: BinaryIO, size: int) -> Content:
    """Read a file of PyTorch 1.6 or newer.

    Args:
        file: The open file; keep it open until all arrays are read.
        size: Its size in bytes.

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
        value, _ = _unpickle(io.BytesIO(archive.read(pickles[0])))
    except _DAMAGED as error:
        raise Unreadable(_message(error)) from None
    known: dict[_Storage, np.ndarray] = {}

    def array(tensor: Tensor) -> np.ndarray:
        storage = tensor.storage
        if storage not in known:
            try:
                known[storage] = to_array(archive.read(f"{folder}data/{storage.key}"), storage.dtype, order)
            except (*_DAMAGED, KeyError) as error:
                raise Unreadable(_message(error)) from None
        return _view(tensor, known[storage])

    return Content(value, array)


def read_legacy(file: BinaryIO) -> Content:
    """Read a file of before PyTorch 1.6: five pickles, and behind them the storages in the order of the last.

    Raises:
        Unreadable: If it is something else, or damaged.
    """
    if _unpickle(file)[0] != LEGACY or _unpickle(file)[0] != 1001:
        raise Unreadable("it is a pickle that torch.save did not write")
    (system, _), (value, dtypes), (keys, _) = (_unpickle(file) for _ in range(3))
    order = "<" if not isinstance(system, dict) or system.get("little_endian", True) else ">"
    if not isinstance(keys, list):
        raise Unreadable("it does not list its storages")
    known: dict[str, np.ndarray] = {}
    for key in map(str, keys):
        count = int.from_bytes(file.read(8), "little" if order == "<" else "big")
        if key not in dtypes:  # so its size is unknown
            raise Unreadable("it has numbers of an unknown kind")
        size = element_size(dtypes[key])
        data = file.read(count * size) if count < 2**48 else b""
        if len(data) < count * size:
            raise Unreadable("it is truncated")
        known[key] = to_array(data, dtypes[key], order)
    return Content(value, lambda tensor: _view(tensor, known.get(tensor.storage.key, np.zeros(0))))


def _unpickle(file: BinaryIO) -> tuple[Any, dict[str, str]]:
    """Return the next pickle of a file, and the dtypes of the storages that it names, by their keys."""
    dtypes: dict[str, str] = {}

    def storage(pid: Any) -> Any:
        kind, dtype, key, _, _, view = (*pid, *[None] * 6)[:6] if isinstance(pid, tuple) else [None] * 6
        if kind == "module":  # in a whole model of before 1.6, in the place of its class
            return StandIn
        if not isinstance(dtype, _DType) or not isinstance(key, (str, int)):
            return StandIn()
        dtypes[str(key)] = dtype
        return _Storage(dtype, str(key)) if view is None else StandIn()

    try:
        return load(file, TABLE, encoding="latin1", stand_ins=True, persistent_load=storage), dtypes
    except Refused as error:
        raise Unreadable(f"it has {error}") from None
    except ValueError:
        raise Unreadable("its pickle is damaged") from None


def to_array(data: bytes, dtype: str, order: str) -> np.ndarray:
    """Return numbers in this machine's byte order; bfloat16, the upper halves of float32, as float32."""
    data = data[: len(data) // element_size(dtype) * element_size(dtype)]
    if dtype == "bfloat16":
        return (np.frombuffer(data, f"{order}u2").astype("<u4") << 16).view("<f4")
    numbers = np.frombuffer(data, np.dtype(dtype).newbyteorder(order))
    return numbers.astype(dtype, copy=False)


def element_size(dtype: str) -> int:
    """Return the bytes of a number."""
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _view(tensor: Tensor, storage: np.ndarray) -> np.ndarray:
    """Return the tensor's view of its storage; a file cannot make it reach beyond that."""
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if math.prod(tensor.shape) > storage.size or (0 not in tensor.shape and last >= storage.size):
        raise Unreadable("a tensor larger than its storage")
    strides = tuple(stride * storage.itemsize for stride in tensor.strides)
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides, writeable=False)


def _message(error: Exception) -> str:
    """Return an error's message, in characters that every terminal prints."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return "".join(letter for letter in text if letter.isascii() and letter.isprintable())[:100] or "it is damaged"
