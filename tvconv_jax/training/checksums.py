"""Checksums of a checkpoint: written into its folder before it gets its name, compared before it is read."""

import hashlib
import json
from pathlib import Path

from tvconv_jax.utils.plain_files import parse_json

NAME = "checksums.json"
_MARKER = "commit_success.txt"  # Orbax adds it, empty, to what is complete


def write(folder: Path) -> None:
    """Writes size and SHA-256 of every file of a folder into its ``checksums.json``."""
    files = {str(path.relative_to(folder)): _sum(path) for path in sorted(_files(folder))}
    (folder / NAME).write_text(json.dumps(files))


def fault(folder: Path) -> str | None:
    """What is wrong with a folder that :func:`write` saw, in a few words; ``None`` if nothing is.

    A folder without ``checksums.json``, as older versions left it, passes.
    """
    if not (folder / NAME).exists():
        return None
    try:
        files = parse_json((folder / NAME).read_text())
        for name, (size, digest) in files.items():
            path = folder / name
            if not path.is_file():
                return f"{folder.name}/{name} is missing"
            if path.stat().st_size != size:
                return f"{folder.name}/{name} has {path.stat().st_size} bytes of {size}"
            if _sum(path)[1] != digest:
                return f"{folder.name}/{name} was changed"
    except (ValueError, TypeError, AttributeError):
        return f"{folder.name}/{NAME} was changed"
    except OSError as error:
        return f"{folder.name} cannot be read: {error.strerror}"
    return None


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name not in (NAME, _MARKER)]


def _sum(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
