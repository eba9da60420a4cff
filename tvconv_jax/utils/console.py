"""Standard output that never ends a command: lost readers and unencodable characters are tolerated."""

import io
import os
import select
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any, TextIO

PATIENCE = 1.0  # seconds for a stream that another program made non-blocking, before a line is dropped


class _Descriptor(io.RawIOBase):
    """A file descriptor whose writes never fail: bytes that cannot be written are dropped.

    A reader that has gone (EPIPE), a closed terminal (EIO) or a full disk (ENOSPC) does not stop the work. Each write
    tries again, for a disk may have room again.
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
    """Open a text stream on a descriptor whose writes never fail; it stays open when the stream is closed.

    Encoding and buffering are those of ``like``; ``None``, as Python has it for a closed descriptor, stands for UTF-8
    and lines.
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
    """Replace standard output and standard error by streams whose writes never fail, unless a caller has set them."""
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


def make_table(columns: Sequence[str], *, left: Collection[str] = (), **options: Any) -> Any:
    """Return an empty table of rich; columns are aligned to the right, those named in ``left`` to the left."""
    from rich.table import Table  # late: every command imports this module first

    table = Table(**options)
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right")
    return table


def print_table(table: Any, *, width: int = 160) -> None:
    """Print a table of rich: as wide as the terminal, or ``width`` without one."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else width).print(table)


@contextmanager
def silent_stdout() -> Iterator[None]:
    """Discard standard output within the block."""
    with open(os.devnull, "w", encoding="utf-8", errors="backslashreplace") as nowhere, redirect_stdout(nowhere):
        yield
