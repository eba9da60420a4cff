"""Files: atomic writes, protection of the user's files, and text, JSON and NumPy files read safely."""

import codecs
import errno
import json
import math
import os
import re
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.signatures import describe_instead_of_text

MAX_BYTES = 2**32  # of the unpacked arrays of one file
_LEFT_OVER = re.compile(r"\.[0-9a-f]{16}\.part(\..*)?")
_UNSYNCED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # of file systems that know no fsync


def user_path(text: str | Path) -> Path:
    """Expand a leading ``~`` of a path from a flag, a config key or an environment variable.

    Raises:
        UserError: If it is empty or a URL, or the home directory or the user is unknown.
    """
    if not str(text):
        raise UserError("a path is empty; name a file or a folder.")
    if scheme := re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", str(text)):
        raise UserError(f"{text} is a URL ({scheme[0]}); give a path on this machine, such as where it is mounted.")
    try:
        if str(text).split("/")[0] == "~" and os.environ.get("HOME") == "":  # Python would take the root of all files
            raise RuntimeError
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{text}: no home directory is known that ~ could stand for; give the whole path.") from None


def check_absent(*paths: Path) -> None:
    """Raise a ``UserError`` if one of these paths exists."""
    for path in map(Path, paths):
        if path.exists():
            raise UserError(f"{path} exists and is not written over; choose another name or remove it.")


def announce_overwrite(path: Path) -> Path:
    """Print a note if a file that the user named exists and will be overwritten; return its path."""
    if path.is_file():
        print(f"note: {path} existed and is overwritten", file=sys.stderr)
    return path


def check_unclaimed(folder: Path, names: Iterable[str], *, marker: str, flag: str) -> None:
    """Raise a ``UserError`` for a folder with files that a command would overwrite but did not write.

    Args:
        folder: The folder that the user named.
        names: Names of the files that the command writes there.
        marker: The first file that the command writes; where it exists, the others are the command's own.
        flag: The flag that named the folder, for the message.
    """
    if (folder / marker).is_file():
        return
    if foreign := [name for name in sorted(names) if os.path.lexists(folder / name)]:
        raise UserError(
            f"{folder} holds {foreign[0]}, which would be overwritten, but no {marker} says that this command wrote "
            f"it; choose another {flag}, or move it away."
        )


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file atomically; with ``durable``, wait until it is on the disk."""
    with replacing(path, durable=durable) as part:
        part.write_bytes(content)


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Replace a file atomically: yield a temporary file that is renamed when the block ends, removed if it fails.

    The temporary file is empty, in the same folder, with the same suffix and default permissions. Of several writers
    the last one wins, and no reader sees an incomplete file. Links are followed. A path that is not a regular file,
    such as ``/dev/stdout``, is written directly. With ``durable`` the file is complete even after a power failure. A
    killed process leaves the temporary file behind; :func:`is_left_over` recognizes its name.
    """
    target = Path(os.path.realpath(path))
    if _is_open_elsewhere(path) or target.exists() and not target.is_file():
        yield path
        return
    part = target.with_name(f".{secrets.token_hex(8)}.part{target.suffix[:32]}")
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield part
        if durable:
            sync(part)
        os.replace(part, target)
        if durable:
            sync(target.parent)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(part):
            error.filename, error.filename2 = str(path), None  # the name that the user knows
        raise


def _is_open_elsewhere(path: Path) -> bool:
    """Return whether a path is a process's open file, as ``/dev/stdout`` is, which must not be replaced."""
    link = os.readlink(path) if path.is_symlink() else ""
    return link.startswith("/proc/") or os.path.realpath(path.parent).startswith("/proc/")


def is_left_over(name: str) -> bool:
    """Return whether a name is that of a temporary file of :func:`replacing` whose writer was killed."""
    return _LEFT_OVER.fullmatch(name) is not None


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk, where the file system supports it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _UNSYNCED:
            raise
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; see :func:`as_json`."""
    write_text(path, as_json(value, indent=2, default=str) + "\n")


def as_json(value: Any, **options: Any) -> str:
    """Return a value as standard JSON: numbers that are not finite become ``null``; options of :func:`json.dumps`."""

    def finite(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: finite(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [finite(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(value), allow_nan=False, **options)


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; raise a ``ValueError`` if it is damaged or nested too deeply for Python."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_arrays(path: Path) -> dict[str, Any]:
    """Read all NumPy arrays of an ``.npz``, without pickles.

    Raises:
        OSError: If it cannot be opened.
        ValueError: If it is damaged, is not an ``.npz``, holds objects, or unpacks to more than :data:`MAX_BYTES`.
    """
    import numpy as np  # late: every command imports this module first

    with path.open("rb") as opened:
        try:
            with np.load(opened) as arrays:
                if sum(entry.file_size for entry in arrays.zip.infolist()) > MAX_BYTES:
                    raise ValueError("it unpacks to more than memory may hold")
                found = dict(arrays)
            if not all(isinstance(array, np.ndarray) for array in found.values()):
                raise ValueError("it holds other files than arrays")
            return found
        except Exception as error:  # zipfile, zlib and numpy raise many kinds for damaged files
            raise ValueError(f"it is damaged or is not an .npz ({type(error).__name__})") from None


def read_json(path: Path, hint: str) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        UserError: If it is damaged or cannot be read; the message ends with the hint.
    """
    try:
        value = parse_json(path.read_text())
        if not isinstance(value, dict):
            raise ValueError("not an object")
    except (OSError, ValueError):
        raise UserError(f"{path} is damaged or cannot be read; {hint}.") from None
    return value


# Byte-order marks that editors and Windows PowerShell write; UTF-32 comes first, for its mark begins like UTF-16's.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_lines(path: Path, hint: str = "give a text file in UTF-8") -> list[str]:
    """Read the lines of a user's text file, in UTF-8 or the encoding of its byte-order mark.

    Lines end at line feeds, carriage returns or both; other separators may be part of a name.

    Raises:
        UserError: If it is not text or cannot be read; the message ends with the hint.
    """
    try:
        data = Path(path).read_bytes()
        if what := describe_instead_of_text(data):
            raise UserError(f"{path} is {what}, not lines of text; {hint}.")
        text = data.decode(next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {hint}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read ({error}); {hint}.") from None
    if "\0" in text:
        raise UserError(f"{path} cannot be read (it holds zero bytes, as no text does); {hint}.")
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n") if text else []


def whole_number(text: str) -> int | None:
    """Return the integer that a text of at most 18 plain digits stands for, else ``None``."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


def posix(name: str) -> str:
    """Return a path with forward slashes, also from a list written on Windows."""
    return name if "/" in name else name.replace("\\", "/")


def check_fit_a_line(names: Iterable[str], where: str | Path) -> None:
    """Raise a ``UserError`` for a name that a list cannot hold: with a tab or a line end, or not in UTF-8."""
    for name in names:
        error = "holds a tab or a line end" if set(name) & set("\t\n\r\0") else ""
        try:
            name.encode()
        except UnicodeEncodeError:
            error = "is not in UTF-8"
        if error:
            raise UserError(f"the name {ascii(name)} {error}, which {where} cannot hold; rename it.")


def check_names(paths: Iterable[Path]) -> None:
    """Raise a ``UserError`` for a file name that is not in UTF-8, as names in old archives may be."""
    for path in paths:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise UserError(f"the name of {os.fsencode(path)!r} is not in UTF-8; rename the file.") from None
