"""The folder of prepared data and compiled programs, and the keys of what lies in it."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import is_left_over, user_path
from tvconv_jax.utils.storage import one_writer, writing


def cache_dir() -> Path:
    """Return ``$TVCONV_JAX_CACHE`` or ``~/.cache/tvconv_jax``; raise a ``UserError`` if neither is known."""
    if given := os.environ.get("TVCONV_JAX_CACHE"):
        return user_path(given).absolute()
    try:
        return user_path("~/.cache/tvconv_jax").absolute()
    except UserError:  # never the folder for temporary files: others could put programs into it
        raise UserError(
            "there is no home directory to keep prepared data and compiled programs in; set TVCONV_JAX_CACHE to a "
            "folder that can be written."
        ) from None


def stamp(path: Path) -> str:
    """Return a text that changes with a file's path, size or time."""
    status = path.stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def digest(*parts: bytes | str) -> str:
    """Return twelve hexadecimal digits that change with any of the parts."""
    joined = b"".join((part.encode() if isinstance(part, str) else part) + b"\0" for part in parts)
    return hashlib.sha256(joined).hexdigest()[:12]


def fill(
    folder: Path, last: str, write: Callable[[], None], what: str = "decoded images (TVCONV_JAX_CACHE names the cache)"
) -> None:
    """Let one process fill a folder of the cache, unless its last file is there; remove what killed ones left.

    A full disk is a ``TrainingError`` that names ``what`` was written.
    """
    if (folder / last).exists():
        return
    with one_writer(folder) as alone, writing(folder.parent, what):
        if not (folder / last).exists():  # another process may have written it meanwhile
            folder.mkdir(exist_ok=True)
            for path in filter(lambda path: alone and is_left_over(path.name), folder.iterdir()):
                path.unlink()
            write()
