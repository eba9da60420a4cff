"""Pickles of plain values, read by an interpreter of our own that can execute nothing.

Python's unpickler calls whatever a file names. This one knows lists, tuples, dictionaries, numbers, text, bytes and
numpy arrays of numbers, in what Python 2 and 3 write, and refuses everything else by name. Errors show no bytes of the
file.
Opcodes: Python's ``pickletools``.
"""

import codecs
import io
import pickletools
import re
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# numpy's types without pointers in them.
DTYPES = {f"{kind}{size}" for kind in "iuf" for size in (1, 2, 4, 8)} - {"f1"} | {"b1"}
_MARK = object()
_DOTTED = re.compile(r"[A-Za-z_][\w.]{0,79}", re.ASCII)  # a name that an error may repeat


class Refused(ValueError):
    """Something that is no plain value; the message says what, and fits behind "it holds"."""


class _Name(NamedTuple):
    """A function that the file names; never looked up."""

    module: str
    name: str


class _DType:
    """A dtype under construction."""

    def __init__(self, code: Any) -> None:
        code = _text(code)
        if code not in DTYPES:
            raise Refused(f"an array of dtype {code!r}" if _is_name(code) else "an array of an unknown dtype")
        self.dtype = np.dtype(code)

    def build(self, state: Any) -> None:
        order, rest = _text(state[1]), state[2:5]
        if order not in ("<", ">", "|", "=") or any(part is not None for part in rest):
            raise Refused("a structured dtype")
        self.dtype = self.dtype.newbyteorder(order)


class Array:
    """An array under construction.

    Attributes:
        array: The array, or ``None`` as long as the file has not said what is in it.
    """

    array: np.ndarray | None = None

    def build(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(raw, (bytes, bytearray)):
            raise Refused("an array without bytes")
        flat = np.frombuffer(raw, dtype.dtype)
        self.array = flat.reshape(shape, order="F" if fortran else "C")


def _text(value: Any) -> str:
    """Python 2 knows no text: its names arrive as bytes."""
    return value.decode("ascii") if isinstance(value, bytes) else value


def _is_name(text: Any) -> bool:
    return isinstance(text, str) and _DOTTED.fullmatch(text) is not None


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise Refused("a text of another encoding")
    return text.encode("latin1")


def _scalar(dtype: _DType, raw: Any) -> Any:
    return np.frombuffer(raw, dtype.dtype)[0].item()


def _from_buffer(buffer: Any, dtype: _DType, shape: Any, order: str) -> Array:
    array = Array()
    array.build((1, shape, dtype, order == "F", buffer))
    return array


# What a file may "call", and what happens instead.
_CALLS: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": lambda *_: Array(),
    "numpy._core.multiarray._reconstruct": lambda *_: Array(),
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy._core.numeric._frombuffer": _from_buffer,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.dtype": lambda code, *_: _DType(code),
    "_codecs.encode": _encode,
    "__builtin__.bytes": lambda: b"",
    "builtins.bytes": lambda: b"",
}
_NAMES = {*_CALLS, "numpy.ndarray"}
_CONSTANTS = {
    "NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (),
}  # fmt: skip
_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "BINSTRING", "SHORT_BINSTRING", "BINBYTES",
    "BINBYTES8", "BYTEARRAY8", "SHORT_BINBYTES", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "FLOAT", "BINFLOAT",
}  # fmt: skip
# What a damaged file makes of the machine, besides Refused.
_DAMAGED = (
    ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError, RecursionError, struct.error
)  # fmt: skip


def load(data: bytes) -> Any:
    """Read a pickle of plain values.

    Returns:
        Lists, tuples, dictionaries, numbers, ``str``, ``bytes``, ``bool``, ``None`` and :class:`Array`.

    Raises:
        Refused: If it names anything else; says what.
        ValueError: If it is damaged, or is not a pickle.
    """
    try:
        return _Machine().run(data)
    except Refused:
        raise
    except _DAMAGED:  # their messages repeat bytes of the file
        raise ValueError("a damaged pickle") from None


def kind_of(value: Any) -> str:
    """Name a value's kind, for messages."""
    kinds = {Array: "an array", _Name: "a function", _DType: "a dtype", object: "a mark", type(None): "None"}
    kinds |= {int: "an integer", bool: "a flag", float: "a float", str: "a text", bytes: "bytes", bytearray: "bytes"}
    kinds |= {dict: "a dictionary", list: "a list", tuple: "a tuple"}
    return kinds.get(type(value), "something else")


class _Machine:
    """Stack, memo, and what each opcode does to them."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.room = 0

    def run(self, data: bytes) -> Any:
        self.room = len(data)
        file = io.BytesIO(data)
        while code := file.read(1):
            opcode = pickletools.code2op.get(code.decode("latin1"))
            if opcode is None:
                raise ValueError("this is not a pickle")
            if opcode.name == "STRING":  # pickletools takes ASCII only, but Python 2 quotes any byte
                quoted = file.readline().strip()
                self.stack.append(codecs.escape_decode(quoted[1:-1])[0])
                continue
            argument = opcode.arg.reader(file) if opcode.arg else None
            if opcode.name in ("BINSTRING", "SHORT_BINSTRING"):  # Python 2's bytes
                argument = argument.encode("latin1")
            if opcode.name == "STOP":
                return self.stack.pop()
            self.step(opcode.name, argument)
        raise ValueError("no end")

    def step(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif (act := getattr(self, f"on_{name.lower()}", None)) is not None:
            act(argument)
        else:
            raise Refused("an object that only code could make")

    def on_proto(self, _: Any) -> None: ...

    def on_frame(self, _: Any) -> None: ...

    def on_mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def on_empty_list(self, _: Any) -> None:
        self.stack.append([])

    def on_list(self, _: Any) -> None:
        self.stack.append(self.since_mark())

    def on_append(self, _: Any) -> None:
        value = self.stack.pop()
        self.list_on_top().append(value)

    def on_appends(self, _: Any) -> None:
        values = self.since_mark()
        self.list_on_top().extend(values)

    def on_empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def on_dict(self, _: Any) -> None:
        values = self.since_mark()
        self.stack.append({})
        self.set_items(values)

    def on_setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def on_setitems(self, _: Any) -> None:
        self.set_items(self.since_mark())

    def set_items(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict) or not all(isinstance(key, (str, bytes, int)) for key in values[::2]):
            raise Refused("a dictionary with keys that are not texts")
        self.stack[-1].update(zip(values[::2], values[1::2], strict=True))

    def on_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.since_mark()))

    def on_tuple1(self, _: Any) -> None:
        self.stack[-1:] = [(self.stack[-1],)]

    def on_tuple2(self, _: Any) -> None:
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]

    def on_tuple3(self, _: Any) -> None:
        self.stack[-3:] = [(self.stack[-3], self.stack[-2], self.stack[-1])]

    def on_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def on_put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def on_get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    on_binput = on_long_binput = on_put
    on_binget = on_long_binget = on_get

    def on_global(self, names: str) -> None:
        self.push_name(*names.rsplit(" ", 1))

    def on_stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.push_name(module, name)

    def push_name(self, module: Any, name: Any) -> None:
        if f"{module}.{name}" not in _NAMES:
            name = f"{module}.{name}"
            raise Refused(name if _is_name(name) else "something that only code could make")
        self.stack.append(_Name(module, name))

    def on_reduce(self, _: Any) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, _Name) or ".".join(name) not in _CALLS:
            raise Refused("a call of what is not a function")
        value = _CALLS[".".join(name)](*arguments)
        if isinstance(value, bytes):  # made anew on every call, from text that may be one and the same
            self.room -= len(value)
            if self.room < 0:
                raise Refused("more bytes than the file has")
        self.stack.append(value)

    def on_build(self, _: Any) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], (Array, _DType)):
            raise Refused("a state for what has none")
        self.stack[-1].build(state)

    def list_on_top(self) -> list[Any]:
        if not isinstance(self.stack[-1], list):
            raise Refused("an item for what is not a list")
        return self.stack[-1]

    def since_mark(self) -> list[Any]:
        values = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]
