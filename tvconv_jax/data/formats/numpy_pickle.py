"""Pickles of plain values and numpy arrays of numbers, in the forms that Python 2 and 3 write; nothing is executed."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np

from tvconv_jax.utils import restricted_pickle
from tvconv_jax.utils.restricted_pickle import Refused, is_dotted_name

# numpy's types without pointers in them.
DTYPES = {f"{kind}{size}" for kind in "iuf" for size in (1, 2, 4, 8)} - {"f1"} | {"b1"}


class _DType:
    """A dtype under construction."""

    def __init__(self, code: Any, *_: Any) -> None:
        code = _text(code)
        if code not in DTYPES:
            raise Refused(f"an array of dtype {code!r}" if is_dotted_name(code) else "an array of an unknown dtype")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order, rest = _text(state[1]), state[2:5]
        if order not in ("<", ">", "|", "=") or any(part is not None for part in rest):
            raise Refused("a structured dtype")
        self.dtype = self.dtype.newbyteorder(order)


class Array:
    """An array under construction; its ``array`` is ``None`` until the file has given the content."""

    array: np.ndarray | None = None

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(raw, (bytes, bytearray)):
            raise Refused("an array without bytes")
        self.array = np.frombuffer(raw, dtype.dtype).reshape(shape, order="F" if fortran else "C")


KINDS = {Array: "an array", _DType: "a dtype", type(None): "None", int: "an integer", bool: "a flag", float: "a float"}
KINDS |= {str: "a text", bytes: "bytes", bytearray: "bytes", dict: "a dictionary", list: "a list", tuple: "a tuple"}


def load(data: bytes) -> Any:
    """Read a pickle of plain values.

    Returns:
        Lists, tuples, dictionaries, numbers, ``str``, ``bytes``, ``bool``, ``None`` and :class:`Array`.

    Raises:
        Refused: If it names anything else; the message names that.
        ValueError: If it is damaged, or is not a pickle.
    """
    return restricted_pickle.load(io.BytesIO(data), _table(len(data)), encoding="bytes")


def kind_of(value: Any) -> str:
    """Name a value's kind, for messages."""
    return KINDS.get(type(value), "a function" if callable(value) else "something else")


def _text(value: Any) -> str:  # Python 2 wrote names as bytes
    return value.decode("ascii") if isinstance(value, bytes) else value


def _scalar(dtype: _DType, raw: Any) -> Any:
    return np.frombuffer(raw, dtype.dtype)[0].item()


def _from_buffer(buffer: Any, dtype: _DType, shape: Any, order: str) -> Array:
    array = Array()
    array.__setstate__((1, shape, dtype, order == "F", buffer))
    return array


def _table(room: int) -> dict[str, Callable[..., Any]]:
    """Build the table for a file of ``room`` bytes."""

    def encode(text: str, encoding: str = "latin1") -> bytes:
        nonlocal room
        if encoding not in ("latin1", "latin-1"):
            raise Refused("a text of another encoding")
        room -= len(text)  # each call makes new bytes, possibly of the same text
        if room < 0:
            raise Refused("more bytes than the file has")
        return text.encode("latin1")

    arrays = {"multiarray._reconstruct": Array, "multiarray.scalar": _scalar, "numeric._frombuffer": _from_buffer}
    table = {f"numpy.{core}.{name}": call for core in ("core", "_core") for name, call in arrays.items()}
    table |= {f"{module}.bytes": lambda: b"" for module in ("builtins", "__builtin__")}
    return table | {"numpy.dtype": _DType, "numpy.ndarray": Array, "_codecs.encode": encode}
