"""A restricted interpreter of pickles: it builds plain values and the objects of a given table, and executes nothing.

It is Python's own unpickler, in its version written in Python. Every opcode is replaced that could call, look up or
allocate something that the file names. Error messages show no bytes of the file. Opcodes: Python's ``pickletools``.
"""

import pickle
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

_DOTTED = re.compile(r"[A-Za-z_][\w.]{0,79}", re.ASCII)  # a name that an error may repeat
_CODE = "something that only code could make"


class Refused(ValueError):
    """Something that is not in the table; the message fits behind "it holds"."""


class StandIn:
    """An empty stand-in for an object that is not in the table; it ignores its arguments, state and items."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, *_: Any) -> None: ...

    def append(self, _: Any) -> None: ...

    def extend(self, _: Any) -> None: ...


def load(
    file: BinaryIO,
    table: Mapping[str, Callable[..., Any]],
    *,
    encoding: str,
    stand_ins: bool = False,
    persistent_load: Callable[[Any], Any] | None = None,
) -> Any:
    """Read the next pickle of a file.

    Args:
        file: The file, at the start of the pickle.
        table: By dotted name, the functions that are called in place of those that the file names. An object that they
            return takes state from the file only by a ``__setstate__`` of its class.
        encoding: Of Python 2's strings; ``"bytes"`` leaves them as bytes.
        stand_ins: Whether a :class:`StandIn` takes the place of everything else, which is refused otherwise.
        persistent_load: Returns the object of a persistent id.

    Raises:
        Refused: If the pickle names something that is not in the table.
        ValueError: If it is damaged, or is not a pickle.
    """
    unpickler = _Unpickler(file, encoding=encoding)
    unpickler.table, unpickler.stand_ins = table, stand_ins
    if persistent_load:
        unpickler.persistent_load = persistent_load
    try:
        return unpickler.load()
    except Refused:
        raise
    except Exception:  # whatever a damaged pickle makes of Python; its messages repeat bytes of the file
        raise ValueError("a damaged pickle") from None


def is_dotted_name(text: Any) -> bool:
    """Return whether a text is a name that an error may repeat."""
    return isinstance(text, str) and _DOTTED.fullmatch(text) is not None


def check_keys(keys: list[Any]) -> None:
    """Raise :class:`Refused` for keys that are nested: Python hashes these recursively, until its stack ends."""
    parts = [part for key in keys for part in (key if type(key) is tuple else (key,))]
    if not all(isinstance(part, str | int | float | bytes | StandIn | None) for part in parts):
        raise Refused("a dictionary with keys that are not texts or numbers")


class _Unpickler(pickle._Unpickler):
    table: Mapping[str, Callable[..., Any]]
    stand_ins: bool

    def find_class(self, module: str, name: str) -> Any:
        dotted = f"{module}.{name}"
        if dotted in self.table or self.stand_ins:
            return self.table.get(dotted, StandIn)
        raise Refused(dotted if is_dotted_name(dotted) else _CODE)

    def _append_stand_in(self) -> None:
        if not self.stand_ins:
            raise Refused("an object that only code could make")
        self.append(StandIn())

    def load_build(self) -> None:
        state = self.stack.pop()
        if not hasattr(type(self.stack[-1]), "__setstate__"):
            raise Refused("a state for what has none")
        self.stack[-1].__setstate__(state)

    def load_bytearray8(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(size)))  # Python would take memory for all of it before it reads

    def load_setitem(self) -> None:
        check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        check_keys(self.stack[::2])
        super().load_setitems()

    def load_dict(self) -> None:
        check_keys(self.stack[::2])
        super().load_dict()

    def load_newobj(self) -> None:
        del self.stack[-2:]  # class, arguments
        self._append_stand_in()

    def load_newobj_ex(self) -> None:
        del self.stack[-3:]  # class, arguments, keyword arguments
        self._append_stand_in()

    def load_obj(self) -> None:
        self.pop_mark()
        self._append_stand_in()

    def load_inst(self) -> None:
        self.readline(), self.readline()  # module, class
        self.load_obj()

    def load_frozenset(self) -> None:
        self.load_obj()

    def load_empty_set(self) -> None:
        self._append_stand_in()

    def load_additems(self) -> None:
        self.pop_mark()

    def _refuse(self) -> None:
        raise Refused(_CODE)

    dispatch = dict(pickle._Unpickler.dispatch)
    for _name in ("NEXT_BUFFER", "READONLY_BUFFER", "EXT1", "EXT2", "EXT4"):
        dispatch[getattr(pickle, _name)[0]] = _refuse
    for _name, _load in list(locals().items()):
        if _name.startswith("load_"):
            dispatch[getattr(pickle, _name.removeprefix("load_").upper())[0]] = _load
