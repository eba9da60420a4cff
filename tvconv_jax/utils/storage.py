"""Full disks, and locks that keep a folder to one process."""

import errno
import fcntl
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from tvconv_jax.utils.errors import TrainingError, UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# The same three errors as text, from libraries that pass errors on as text.
_FULL_WORDS = tuple(os.strerror(number) for number in _FULL)
_NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)


def is_full(error: BaseException | None) -> bool:
    """Return whether an error, or its cause, is a full disk, an exceeded quota or a file at its size limit."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL or any(word in str(error) for word in _FULL_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def full(folder: Path, what: str) -> TrainingError:
    """Return the error for a full disk; ``what`` names the object that was written, and what is still complete."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return TrainingError(
        f"no space left in {folder} ({free:,} bytes free) for {what}. Free some; the same command goes on."
    )


@contextmanager
def writing(folder: Path, what: str) -> Iterator[None]:
    """Raise a ``TrainingError`` that names the folder and the free bytes if the disk is full within the block."""
    try:
        yield
    except Exception as error:
        if not is_full(error):
            raise
        raise full(folder, what) from error


@contextmanager
def locked(workdir: Path, log_fn: Callable[[str], None]) -> Iterator[None]:
    """Lock a workdir for this process, creating it if necessary; its file ``.lock`` stays.

    ``log_fn`` gets a line where the file system has no locks.

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
            log_fn(f"{workdir} is on a file system without locks: nothing keeps a second run out of it.")
        with writing(workdir, "the run"):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield


def lock(path: Path, *, wait: bool, mode: str = "a+") -> tuple[IO, bool]:
    """Open a file, creating it if necessary, and hold an exclusive lock on it until it is closed.

    The kernel releases the lock when the process ends. The holder may remove or rename the file: then a waiting process
    gets the lock of a file without that name, while the next one locks a new file. So after locking, the inode is
    compared with that of the path, and if they differ the new file is locked instead.

    Returns:
        The file, and ``False`` where the file system has no locks.

    Raises:
        BlockingIOError: If another process or thread holds the lock and ``wait`` is false.
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


@contextmanager
def one_writer(path: Path) -> Iterator[bool]:
    """Let only one process of this machine at a time write ``path``; yield ``False`` where there are no locks.

    The process that holds the lock file ``.NAME.lock`` beside it removes it, so a cache does not collect them;
    :func:`lock` lets those who wait go on with a new one.
    """
    name = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file, known = lock(name, wait=True)  # a file system without locks lets several write
    except OSError as error:
        if is_full(error):
            raise
        raise UserError(
            f"{path.parent} cannot be written ({error.strerror}); set TVCONV_JAX_CACHE to a folder that can."
        ) from None
    with file:
        try:
            yield known
        finally:
            name.unlink(missing_ok=True)


def _flock(file: IO, operation: int) -> bool:
    try:
        fcntl.flock(file, operation)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _has_name(file: IO, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False
