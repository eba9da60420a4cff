"""Files that runs and commands leave behind: written whole or not at all, and read with a word on what to do."""

import codecs
import errno
import json
import math
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.plain_files import parse_json
from tvconv_jax.utils.signatures import describe_instead_of_text

_LEFT_OVER = re.compile(r"\.[0-9a-f]{16}\.part(\..*)?")
_UNSYNCED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # of file systems that know no fsync


def user_path(text: str | Path) -> Path:
    """Expand a leading ``~`` of a path that a user gave, in a flag, a config key or an environment variable.

    Raises:
        UserError: If it is empty or a URL, or there is no home directory, or no such user.
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


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file whole or not at all.

    Args:
        path: The file.
        content: What it is to hold.
        durable: Whether to wait until it is on the disk; not worth it for thousands of files that can be made again.
    """
    with replacing(path, durable=durable) as part:
        part.write_bytes(content)


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Give a new file that takes the place of another one when the block ends; it is removed if the block fails.

    Of several that write at once the last one wins, and no reader sees half of a file. Links are followed, and what is
    no regular file, such as ``/dev/stdout``, is written as it is. A killed process leaves the new file behind, under a
    name that no other one takes; :func:`is_left_over` knows it.

    Args:
        path: The file to be replaced, or not yet there.
        durable: Whether to wait until it is on the disk, so that not even a power failure leaves half of it.

    Yields:
        The new file, empty, in the same folder, with the same suffix and the permissions of any new file.
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
    """Whether a path is one of a process's open files, as ``/dev/stdout`` is, which may be a file that goes on."""
    link = os.readlink(path) if path.is_symlink() else ""
    return link.startswith("/proc/") or os.path.realpath(path.parent).startswith("/proc/")


def is_left_over(name: str) -> bool:
    """Whether a file's name is that of a new file whose writer was killed, see :func:`replacing`."""
    return _LEFT_OVER.fullmatch(name) is not None


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk, where the file system knows how."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _UNSYNCED:
            raise
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON, whole or not at all; see :func:`as_json`."""
    write_text(path, as_json(value, indent=2, default=str) + "\n")


def as_json(value: Any, **options: Any) -> str:
    """Format JSON that every program can read: it has no numbers that are not finite, so they become ``null``.

    Args:
        value: Dictionaries, lists and what stands in them.
        **options: Of :func:`json.dumps`.
    """

    def finite(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: finite(one) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return [finite(one) for one in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(value), allow_nan=False, **options)


def read_json(path: Path, hint: str) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        path: The file.
        hint: What to do if it is damaged.

    Raises:
        UserError: If it is, or cannot be read.
    """
    try:
        value = parse_json(path.read_text())
        if not isinstance(value, dict):
            raise ValueError("no object")
    except (OSError, ValueError):
        raise UserError(f"{path} is damaged or cannot be read; {hint}.") from None
    return value


# Byte-order marks that editors and Windows PowerShell put first; UTF-32's begins as UTF-16's does.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_lines(path: Path, hint: str = "give a text file in UTF-8") -> list[str]:
    """Read the lines of a user's text file, in UTF-8 or whatever its byte-order mark says.

    Lines end at line feeds, carriage returns or both, and nowhere else: other separators may stand in a name.

    Args:
        path: The file.
        hint: What to do if it is not one.

    Raises:
        UserError: If it is not text, or cannot be read.
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
    """The number that a field of a list holds in plain digits, up to 18 of them; ``None`` if it is not one."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


def posix(name: str) -> str:
    """A path with slashes, also from a list that Windows wrote."""
    return name if "/" in name else name.replace("\\", "/")


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
