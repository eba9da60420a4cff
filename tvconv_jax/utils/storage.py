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

from tvconv_jax.utils.errors import TrainingError, UserError

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

    The file ``.lock`` stays, see :func:`lock`.

    Args:
        workdir: The folder of the run.
        say: Prints a line; used where the file system knows no locks.

    Raises:
        UserError: If the folder cannot be written, or another process holds it.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file, known = lock(workdir / ".lock", wait=False)
    except BlockingIOError:
        holder = (workdir / ".lock").read_text().strip() or "another process"
        raise UserError(f"{workdir} is in use by {holder}; wait for it, or choose another --workdir.") from None
    except OSError as error:
        if is_full(error):
            raise full(workdir, "the run") from error
        raise UserError(f"{workdir} cannot be written ({error.strerror}); choose another --workdir.") from None
    with file:
        if not known:
            say(f"{workdir} is on a file system without locks: nothing keeps a second run out of it.")
        with writing(workdir, "the run"):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield


def lock(path: Path, *, wait: bool, mode: str = "a+") -> tuple[IO, bool]:
    """Open a file, made if it is not there, and lock it for this process and thread alone until it is closed.

    The kernel lets the lock go when the process ends, however it ends. The file may be removed or renamed by who holds
    it: whoever waited for it then has the lock of a file without that name, while the next one that comes locks a new
    file. So it is looked at again once it is locked, and if it is not the file of that name, that one is taken instead.

    Args:
        path: The file.
        wait: Whether to wait for who holds it.
        mode: In which it is opened.

    Returns:
        The file, and ``False`` where the file system knows no locks.

    Raises:
        BlockingIOError: If another one holds it, and is not waited for.
    """
    while True:
        file = path.open(mode)
        try:
            known = _flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not known or _has_name(file, path):
                return file, known
        except BaseException:
            file.close()
            raise
        file.close()


def _flock(file: IO, operation: int) -> bool:
    try:
        fcntl.flock(file, operation)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _has_name(file: IO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
