"""Files that runs and commands leave behind: written whole or not at all, and read with a word on what to do."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tvconv_jax.errors import UserError


def user_path(text: str | Path) -> Path:
    """Expand a leading ``~`` of a path that a user gave, in a flag, a config key or an environment variable.

    Raises:
        UserError: If it is empty, or there is no home directory, or no such user.
    """
    if not str(text):
        raise UserError("a path is empty; name a file or a folder.")
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


def read_lines(path: Path, way_out: str) -> list[str]:
    """The lines of a text file in UTF-8.

    Args:
        path: The file.
        way_out: What to do if it is none.

    Raises:
        UserError: If it is none, or cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); {way_out}.") from None


def check_names(paths: Iterable[Path]) -> None:
    """Raises a ``UserError`` if the name of a file is no UTF-8, as those of old archives may be."""
    for path in paths:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise UserError(f"the name of {os.fsencode(path)!r} is not in UTF-8; rename the file.") from None
