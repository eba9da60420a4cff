"""The file of the evidence: a line of JSON for every command, set and run, appended when it ended."""

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import as_json, parse_json
from tvconv_jax.utils.storage import lock

Line = dict[str, Any]
Key = tuple[str, ...]
# Lines by kind, and the fields that name one. A later line of the same name replaces an earlier one.
NAMES = {
    "command": ("settings", "device", "versions"),
    "set": ("set",),
    "rate": ("set", "variant", "exponent", "seed"),
    "final": ("set", "variant", "seed"),
}
BEGIN = '{"kind": "'  # of every line
LEVELS = 65535  # of a score in two bytes


def pack(scores: np.ndarray) -> str:
    """Write scores in 0 to 1, one an item, as text: a bit each if all are 0 or 1, else two bytes each."""
    bits = np.isin(scores, (0, 1)).all()
    data = np.packbits(scores.astype(bool)) if bits else np.rint(LEVELS * scores).astype("<u2")
    return ("bits:" if bits else "bytes:") + base64.b64encode(data.tobytes()).decode()


def unpack(text: str, items: int) -> np.ndarray:
    """Return the scores that :func:`pack` wrote, float64 ``[items]``."""
    kind, _, code = text.partition(":")
    data = base64.b64decode(code)
    if kind == "bits":
        return np.unpackbits(np.frombuffer(data, np.uint8), count=items).astype(np.float64)
    return np.frombuffer(data, "<u2", count=items) / LEVELS


def pack_groups(groups: np.ndarray) -> str:
    """Write which items belong together, at most 65,536 groups, as text; empty if each is alone."""
    numbers = np.unique(groups, return_inverse=True)[1]
    alone = len(groups) == 0 or numbers.max() == len(groups) - 1
    return "" if alone else base64.b64encode(numbers.astype("<u2").tobytes()).decode()


def unpack_groups(text: str, items: int) -> np.ndarray:
    """Return the number of each item's group, from 0, as :func:`pack_groups` wrote them."""
    return np.frombuffer(base64.b64decode(text), "<u2", count=items).astype(int) if text else np.arange(items)


class Record:
    """The lines of a file, which may be missing; several commands may append to it.

    A last line that a killed process left incomplete is dropped.

    Raises:
        UserError: If another line is damaged, or the file is not of this command.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.lines: dict[str, dict[Key, Line]] = {kind: {} for kind in NAMES}
        *whole, rest = self._text().split("\n") if file.exists() else [""]
        if not (rest.startswith(BEGIN) or BEGIN.startswith(rest)):  # a file of the user's own is not cut
            raise UserError(f"{file} does not end in a line of this command; name another --out.")
        for number, text in enumerate(whole, start=1):
            try:
                self._keep(parse_json(text))
            except (ValueError, LookupError, TypeError, AttributeError):
                raise UserError(
                    f"{file}, line {number}, is damaged; remove the line, and its run is made again."
                ) from None

    def _text(self) -> str:
        try:
            held, _ = lock(self.file, wait=True, mode="r")
            with held:
                return held.read()
        except (OSError, ValueError):
            raise UserError(f"{self.file} cannot be read as text; name another --out.") from None

    def _keep(self, line: Line) -> None:
        names = NAMES[line["kind"]]
        self.lines[line["kind"]][tuple(str(line[name]) for name in names)] = line

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Raise a ``UserError`` if the file holds runs of other settings."""
        for line in self.lines["command"].values():
            for name, value in line["settings"].items():
                if settings.get(name) != value:
                    raise UserError(
                        f"{self.file} holds runs with {name} {value}, this command has {settings.get(name)}; give the "
                        f"same options, or another --out."
                    )

    def append(self, kind: str, **fields: Any) -> None:
        """Add a line; it is on the disk when this returns."""
        text = as_json({"kind": kind, **fields}) + "\n"
        held, _ = lock(self.file, wait=True, mode="a+b")
        with held:
            held.seek(0)
            held.truncate(held.read().rfind(b"\n") + 1)  # what a killed process left behind the last whole line
            held.write(text.encode())
            held.flush()
            os.fsync(held.fileno())
        self._keep(parse_json(text))

    def append_new(self, kind: str, **fields: Any) -> None:
        """Add a line, unless the file has it."""
        if parse_json(as_json({"kind": kind, **fields})) not in self.lines[kind].values():
            self.append(kind, **fields)

    def rates(self, name: str, variant: str) -> dict[int, dict[int, Line]]:
        """Return the runs that choose the learning rate of a set and a variant, by exponent and seed."""
        found: dict[int, dict[int, Line]] = {}
        for line in self._of("rate", name, variant):
            found.setdefault(line["exponent"], {})[line["seed"]] = line
        return found

    def finals(self, name: str, variant: str) -> dict[int, Line]:
        """Return the final runs of a set and a variant, by seed."""
        return {line["seed"]: line for line in self._of("final", name, variant)}

    def _of(self, kind: str, name: str, variant: str) -> list[Line]:
        return [line for line in self.lines[kind].values() if (line["set"], line["variant"]) == (name, variant)]
