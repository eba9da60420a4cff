"""Standard streams that never end a command: what nobody reads is dropped, what cannot be encoded is replaced."""

import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

PATIENCE = 1.0  # seconds for a stream that another program made non-blocking, before a line is dropped


class _Descriptor(io.RawIOBase):
    """A file descriptor that takes every byte: those that cannot be written are dropped.

    A reader that has gone (EPIPE), a closed terminal (EIO), a full disk (ENOSPC): none of these concern the work. Each
    write tries anew, for a disk may have room again.
    """

    mode = "w"

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor, self.name = descriptor, name

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, content: bytes) -> int:
        left = memoryview(content).cast("B")
        size = len(left)
        with suppress(OSError):
            while left:
                try:
                    left = left[os.write(self._descriptor, left) :]
                except BlockingIOError:
                    if not select.select([], [self._descriptor], [], PATIENCE)[1]:
                        break
        return size


def courteous(descriptor: int, like: TextIO | None, name: str) -> TextIO:
    """Open a text stream on a descriptor, of which no write fails.

    Args:
        descriptor: Of the file, pipe or terminal; stays open when the stream is closed.
        like: The stream whose encoding and buffering it takes; ``None`` is the one that Python makes of a closed
            descriptor.
        name: As in ``"<stdout>"``.
    """
    raw = _Descriptor(descriptor, name)
    unbuffered = getattr(like, "write_through", False)
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        encoding=getattr(like, "encoding", None) or "utf-8",
        errors="backslashreplace",  # as Python's own stderr; loses nothing of a file name
        line_buffering=getattr(like, "line_buffering", True),
        write_through=unbuffered,
    )


def install() -> None:
    """Replace this process's standard streams by courteous ones; streams that a caller has set stay."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: else the next file that is opened would get the number, and what is printed
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):
            continue
        if stream is not None:
            with suppress(OSError):
                stream.flush()
        stream = courteous(descriptor, stream, f"<{name}>")
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


@contextmanager
def silent_stdout() -> Iterator[None]:
    """Drop what is printed within."""
    stdout = sys.stdout
    with open(os.devnull, "w", encoding="utf-8", errors="backslashreplace") as nowhere:
        try:
            sys.stdout = nowhere
            yield
        finally:
            sys.stdout = stdout
