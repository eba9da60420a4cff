"""Files that runs and commands leave behind: written whole or not at all, and read with a word on what to do."""

import codecs
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tvconv_jax.errors import UserError


def user_path(text: str | Path) -> Path:
    """Expand a leading ``~`` of a path that a user gave, in a flag, a config key or an environment variable.

    Raises:
        UserError: If there is no home directory, or no such user.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{text}: no home directory is known that ~ could stand for; give the whole path.") from None


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def read_json(path: Path, way_out: str) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        path: The file.
        way_out: What to do if it is damaged.

    Raises:
        UserError: If it is, or cannot be read.
    """
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, dict):
            raise ValueError("no object")
    except (OSError, ValueError):
        raise UserError(f"{path} is damaged or cannot be read; {way_out}.") from None
    return value


# Byte-order marks that editors and Windows PowerShell put first; UTF-32's begins as UTF-16's does.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_lines(path: Path, way_out: str = "give a text file in UTF-8") -> list[str]:
    """Read the lines of a user's text file, in UTF-8 or whatever its byte-order mark says.

    Lines end at line feeds, carriage returns or both, and nowhere else: other separators may stand in a name.

    Args:
        path: The file.
        way_out: What to do if it is not one.

    Raises:
        UserError: If it is not text, or cannot be read.
    """
    try:
        data = Path(path).read_bytes()
        text = data.decode(next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {way_out}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read ({error}); {way_out}.") from None
    if "\0" in text:
        raise UserError(f"{path} cannot be read (it holds zero bytes, as no text does); {way_out}.")
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n") if text else []


def check_fit_a_line(names: Iterable[str], where: str | Path) -> None:
    """Raise a ``UserError`` if a list cannot hold one of these names: with a tab or line end, or not in UTF-8."""
    for name in names:
        fault = "holds a tab or a line end" if set(name) & set("\t\n\r\0") else ""
        try:
            name.encode()
        except UnicodeEncodeError:
            fault = "is not in UTF-8"
        if fault:
            raise UserError(f"the name {ascii(name)} {fault}, which {where} cannot hold; rename it.")


def check_names(paths: Iterable[Path]) -> None:
    """Raises a ``UserError`` if the name of a file is no UTF-8, as those of old archives may be."""
    for path in paths:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise UserError(f"the name of {os.fsencode(path)!r} is not in UTF-8; rename the file.") from None
