"""What can go wrong where a run writes: a full disk, a folder that takes no files, another run in the same folder."""

import errno
import fcntl
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tvconv_jax.errors import TrainingError, UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What libraries that hand errors on as text write for the same three.
_FULL_WORDS = tuple(os.strerror(number) for number in _FULL)
_NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is a disk, a quota or a file that takes no more bytes."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL or any(word in str(error) for word in _FULL_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def full(folder: Path, what: str) -> TrainingError:
    """The error of a disk that is full.

    Args:
        folder: Where was to be written.
        what: What was to be written, and what is still whole.
    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return TrainingError(
        f"no space left in {folder} ({free:,} bytes free) for {what}. Free some; the same command goes on."
    )


@contextmanager
def writing(folder: Path, what: str) -> Iterator[None]:
    """Makes a full disk one line: a ``TrainingError`` that names the folder and the bytes free."""
    try:
        yield
    except Exception as error:
        if not is_full(error):
            raise
        raise full(folder, what) from error


@contextmanager
def locked(workdir: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Holds a workdir for this process alone; makes it if it is not there.

    The kernel lets the lock go when the process ends, however it ends. The file ``.lock`` stays: to remove it would
    let two processes hold two files of one name.

    Args:
        workdir: The folder of the run.
        say: Prints a line; used where the file system knows no locks.

    Raises:
        UserError: If the folder cannot be written, or another process holds it.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / ".lock").open("a+")
    except OSError as error:
        if is_full(error):
            raise full(workdir, "the run") from error
        raise UserError(f"{workdir} cannot be written ({error.strerror}); choose another --workdir.") from None
    with file:
        _take(file, workdir, say)
        yield


def lock(file: IO, operation: int) -> bool:
    """Locks a file as ``fcntl.flock`` does; ``False`` where the file system knows no locks."""
    try:
        fcntl.flock(file, operation)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _take(file: IO, workdir: Path, say: Callable[[str], None]) -> None:
    try:
        known = lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        raise UserError(f"{workdir} is in use by {holder}; wait for it, or choose another --workdir.") from None
    if not known:
        say(f"{workdir} is on a file system without locks: nothing keeps a second run out of it.")
    with writing(workdir, "the run"):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
