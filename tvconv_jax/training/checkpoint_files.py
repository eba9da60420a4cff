"""Files of checkpoints: names of their folders, what each must hold, checksums, paths that can be read again."""

import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import parse_json

KINDS = ("last", "best")
ITEMS = ("state", "data")
MANIFEST = "_CHECKPOINT_METADATA"  # of Orbax, at the top of every checkpoint
CHECKSUMS = "checksums.json"
REPLACED = ".replaced"  # a checkpoint of the same step as the one that is being written
_DROPPED = ".dropped"  # what is half deleted no longer has a checkpoint's name
_COMMITTED = "commit_success.txt"  # Orbax adds it, empty, to what is complete
_STEP = "(0|[1-9][0-9]{0,17})"
_LEFT_OVER = re.compile(rf"{_STEP}(\{_DROPPED}|\.orbax-checkpoint-tmp.*)")
_TRIES = 40  # to remove a folder that threads of Orbax may still write into
_PAUSE = 0.05  # seconds between two tries


class LiteralPath(type(epath.Path("/"))):
    """A path for Orbax, which globs below the folders it is given: special characters in their names stay names."""

    def glob(self, pattern: str) -> Iterator["LiteralPath"]:
        """Yield the paths below this one that match a pattern."""
        for found in glob.iglob(os.path.join(glob.escape(str(self)), pattern)):
            yield self._new(found)


def check_reachable(folder: Path, flag: str = "--workdir") -> None:
    """Refuse a folder whose path TensorStore takes for another one; the message names the flag that set it.

    Raises:
        UserError: If its path holds a backslash (taken for a slash), a part that ends in ``gs:`` (taken for a URL), or
            bytes that are not UTF-8; or if the system takes no such path, as one that is too long.
    """
    try:
        folder.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        raise UserError(
            f"{flag} {folder} cannot be reached ({getattr(error, 'strerror', error)}); choose another."
        ) from None
    path = os.fsencode(folder.absolute())
    errors = {
        "a backslash": b"\\" in path,
        "a part that ends in 'gs:'": any(part.endswith(b"gs:") for part in path.split(b"/")),
        "bytes that are not UTF-8": path.decode(errors="replace").encode() != path,
    }
    if error := next((error for error, there in errors.items() if there), None):
        raise UserError(
            f"{flag} {path.decode(errors='backslashreplace')}: this path has {error}, and checkpoints under such a "
            f"path cannot be read again; rename that folder, or choose another."
        )


def checkpoints_of(workdir: Path, flag: str = "--workdir") -> Path:
    """Return the absolute folder ``checkpoints`` of a workdir, without ``..``; raises as :func:`check_reachable`."""
    workdir = workdir.absolute()
    workdir = workdir.resolve() if ".." in workdir.parts else workdir  # Orbax would take .. out, past links
    check_reachable(workdir, flag)
    return workdir / "checkpoints"


def found(folder: Path) -> dict[int, Path]:
    """Return the checkpoints in ``last`` or ``best``, by step, without files, copies and folders of other names.

    A checkpoint that was to be replaced when the run was killed stands for its step.
    """
    steps = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        name = path.name.removesuffix(REPLACED)
        if re.fullmatch(_STEP, name) and path.is_dir() and (name == path.name or int(name) not in steps):
            steps[int(name)] = path
    return steps


def find_missing(folder: Path) -> str | None:
    """Return a message if a part of a checkpoint is missing; ``None`` if all are there."""
    try:
        return next((f"{item} is missing" for item in ITEMS if not (folder / item).is_dir()), None)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"


def find_error(folder: Path) -> str | None:
    """Return a message if a part of a checkpoint is missing or was changed; ``None`` if it is whole."""
    return find_missing(folder) or next(filter(None, (find_change(folder / item) for item in ITEMS)), None)


def find_copy(step: int, saved: object) -> str | None:
    """Return a message if the state in a checkpoint is of another step than its folder's name says."""
    return None if int(saved) == step else f"it is a copy of the checkpoint of step {int(saved)}"


def write_checksums(folder: Path) -> None:
    """Write size and SHA-256 of every file of a folder into its ``checksums.json``."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in (CHECKSUMS, _COMMITTED))
    files = {str(path.relative_to(folder)): _checksum(path) for path in sorted(paths)}
    (folder / CHECKSUMS).write_text(json.dumps(files))


def find_change(folder: Path) -> str | None:
    """Return a message if a file of a folder was changed since :func:`write_checksums`; ``None`` if none was."""
    if not (folder / CHECKSUMS).exists():  # as older versions left it
        return None
    try:
        files = parse_json((folder / CHECKSUMS).read_text())
        for name, (size, digest) in files.items():
            path = folder / name
            if not path.is_file():
                return f"{folder.name}/{name} is missing"
            if path.stat().st_size != size:
                return f"{folder.name}/{name} has {path.stat().st_size} bytes of {size}"
            if _checksum(path)[1] != digest:
                return f"{folder.name}/{name} was changed"
    except (ValueError, TypeError, AttributeError):
        return f"{folder.name}/{CHECKSUMS} was changed"
    except OSError as error:
        return f"{folder.name} cannot be read: {error.strerror}"
    return None


def _checksum(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def drop(folder: Path) -> None:
    """Delete a checkpoint; one that cannot be deleted stays."""
    dropped = folder.with_name(folder.name.removesuffix(REPLACED) + _DROPPED)
    remove(dropped)
    with contextlib.suppress(OSError):
        folder.rename(dropped)
        remove(dropped)


def clear(folder: Path) -> None:
    """Remove what a killed run left in ``last`` or ``best``: half of a checkpoint, or of a deleted one."""
    for path in [path for path in folder.glob("*") if _LEFT_OVER.fullmatch(path.name)]:
        remove(path)
    for step, path in found(folder).items():
        if path.name == str(step):  # the new one is complete, or it would not have its name
            remove(folder / f"{step}{REPLACED}")


def remove(folder: Path) -> None:
    """Remove a folder, or a link to one; try again while something is still written into it."""
    if folder.is_symlink():
        folder.unlink()
    for _ in range(_TRIES):
        if not folder.exists():
            return
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            time.sleep(_PAUSE)
