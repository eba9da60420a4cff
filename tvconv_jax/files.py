"""Files that runs and commands leave behind: written whole or not at all, and read with a word on what to do."""

import json
import os
from pathlib import Path
from typing import Any

from tvconv_jax.errors import UserError


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


def read_json(path: Path, way_out: str) -> Any:
    """What a JSON file holds.

    Args:
        path: The file.
        way_out: What to do if it is damaged.

    Raises:
        UserError: If it is, or cannot be read.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        raise UserError(f"{path} is damaged or cannot be read; {way_out}.") from None
