"""The folders of checkpoints: which names are theirs, what each must hold, under which paths they are reached."""

import contextlib
import glob
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from tvconv_jax.training import checksums
from tvconv_jax.utils.errors import UserError

KINDS = ("last", "best")
ITEMS = ("state", "data")
MANIFEST = "_CHECKPOINT_METADATA"  # of Orbax, at the top of every checkpoint
REPLACED = ".replaced"  # a checkpoint of the same step as the one that is being written
_DROPPED = ".dropped"  # what is half deleted no longer has a checkpoint's name
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
    """Refuse a folder whose path the library that stores arrays takes for another one.

    Args:
        folder: Where checkpoints are to be written or read.
        flag: What the user set it with.

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
    faults = {
        "a backslash": b"\\" in path,
        "a part that ends in 'gs:'": any(part.endswith(b"gs:") for part in path.split(b"/")),
        "bytes that are not UTF-8": path.decode(errors="replace").encode() != path,
    }
    for fault in (fault for fault, there in faults.items() if there):
        shown = path.decode(errors="backslashreplace")
        raise UserError(
            f"{flag} {shown}: this path has {fault}, and checkpoints under such a path cannot be read again; rename "
            f"that folder, or choose another."
        )


def checkpoints_of(workdir: Path, flag: str = "--workdir") -> Path:
    """Return the absolute folder ``checkpoints`` of a workdir, without ``..``, which Orbax would take out itself.

    Args:
        workdir: Of the run.
        flag: What the user set it with.

    Raises:
        UserError: If checkpoints cannot be reached there, see :func:`check_reachable`.
    """
    workdir = workdir.absolute()
    workdir = workdir.resolve() if ".." in workdir.parts else workdir
    check_reachable(workdir, flag)
    return workdir / "checkpoints"


def found(folder: Path) -> dict[int, Path]:
    """Return the folders of ``last`` or ``best`` that are named as checkpoints are, by step.

    Files, copies and folders of other names are not listed, whoever left them. A checkpoint that was to be replaced
    when the run was killed stands for its step.
    """
    steps = {}
    if folder.is_dir():
        for path in folder.iterdir():
            name = path.name.removesuffix(REPLACED)
            if re.fullmatch(_STEP, name) and path.is_dir() and (name == path.name or int(name) not in steps):
                steps[int(name)] = path
    return steps


def lacks(folder: Path) -> str | None:
    """Say what a folder lacks of a checkpoint; ``None`` if all is there."""
    try:
        return next((f"{item} is missing" for item in ITEMS if not (folder / item).is_dir()), None)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"


def fault(folder: Path) -> str | None:
    """Say what a folder lacks of a checkpoint, or what was changed in it; ``None`` if it is whole."""
    return lacks(folder) or next(filter(None, (checksums.fault(folder / item) for item in ITEMS)), None)


def renamed(step: int, saved: object) -> str | None:
    """Say that the state in a checkpoint is of another step than its folder's name, as where one was copied."""
    return None if int(saved) == step else f"it is a copy of the checkpoint of step {int(saved)}"


def drop(folder: Path) -> None:
    """Delete a checkpoint; one that cannot be deleted stays."""
    dropped = folder.with_name(folder.name.removesuffix(REPLACED) + _DROPPED)
    remove(dropped)
    with contextlib.suppress(OSError):
        folder.rename(dropped)
        remove(dropped)


def clear(folder: Path) -> None:
    """Remove what a killed run left in ``last`` or ``best``: half of a checkpoint, or of a deleted one."""
    if not folder.is_dir():
        return
    for path in [path for path in folder.iterdir() if _LEFT_OVER.fullmatch(path.name)]:
        remove(path)
    for step, path in found(folder).items():
        if path.name == str(step):  # the new one is complete, or it would not have its name
            remove(folder / f"{step}{REPLACED}")


def remove(folder: Path) -> None:
    """Remove a folder, or a link to one, again and again while something is still written into it."""
    if folder.is_symlink():
        folder.unlink()
    for _ in range(_TRIES):
        if not folder.exists():
            return
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            time.sleep(_PAUSE)
