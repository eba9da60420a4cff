"""Progress: a live line or a bar on a terminal, else a plain line at least every 30 seconds."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple, TextIO, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

Item = TypeVar("Item")
EVERY = 25.0  # seconds; with what a late thread adds, lines are at most 30 apart


def minutes(seconds: float) -> str:
    """Format seconds as ``m:ss``."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def time_left(seconds: float) -> str:
    """Return ``m:ss left``, at least a second, or an empty text if nothing is left."""
    return f"{minutes(max(1.0, seconds))} left" if seconds > 0 else ""


class _Activity(NamedTuple):
    text: Callable[[], str]
    stream: TextIO


class Reporter:
    """The nested activities of a process, and a thread that prints the progress of the innermost one.

    Lines go to the stream of the outermost activity, unless it is a terminal, where bars and status lines are shown.

    Args:
        clock: Returns seconds; tests pass their own and call :meth:`poll`.
        every: Longest silence in seconds.
        threaded: Whether a thread calls :meth:`poll` during activities.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, every: float = EVERY, threaded: bool = True
    ) -> None:
        self.clock, self._every, self._threaded = clock, every, threaded
        self._activities: list[_Activity] = []
        self._last, self._lock, self._idle = clock(), threading.Lock(), threading.Event()

    @contextmanager
    def doing(self, text: str | Callable[[], str], stream: TextIO | None = None) -> Iterator[None]:
        """Report an activity during the block, within the current ones; several may end in any order.

        Args:
            text: A phrase, to which the elapsed time is added, or a function that returns the whole line.
            stream: Output stream if this activity is the outermost; default: the current ``sys.stdout``.
        """
        since = self.clock()
        line = text if callable(text) else lambda: f"{text}, {minutes(self.clock() - since)} so far"
        activity = _Activity(line, stream or sys.stdout)
        with self._lock:
            self._activities.append(activity)
            if len(self._activities) == 1:
                self._last, self._idle = since, threading.Event()
                if self._threaded:
                    threading.Thread(target=self._watch, args=[self._idle], name="progress", daemon=True).start()
        try:
            yield
        finally:
            with self._lock:
                self._activities.remove(activity)
                if not self._activities:
                    self._idle.set()

    def poll(self) -> None:
        """Print the line of the innermost activity if nothing was printed for ``every`` seconds."""
        with self._lock:
            if not self._activities or self.clock() - self._last < self._every:
                return
            activity, stream, self._last = self._activities[-1], self._activities[0].stream, self.clock()
        with suppress(ValueError):  # the stream was closed meanwhile, as by the command's end
            if not stream.isatty():
                print(activity.text(), file=stream, flush=True)

    def _watch(self, idle: threading.Event) -> None:
        while not idle.wait(max(1.0, self._every - (self.clock() - self._last))):
            self.poll()


reporter = Reporter()  # of this process


@contextmanager
def working(text: str) -> Iterator[None]:
    """Show a phrase during a long call: a live line on a terminal, else a line every half minute."""
    from rich.console import Console  # late, as in track

    console = Console(file=sys.stdout)
    with reporter.doing(text), console.status(text, spinner=_spinner(console)):
        yield


def _spinner(console: "Console") -> str:
    return "dots" if console.encoding.startswith("utf") else "line"


def track(items: Iterable[Item], *, total: int, text: str, reporter: Reporter = reporter) -> Iterator[Item]:
    """Yield the items; a bar on a terminal, or a plain line every half minute, shows how many of ``total`` are done."""
    from rich.console import Console  # late: most who import this module never show a bar
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    done, since = 0, reporter.clock()

    def line() -> str:
        left = time_left((reporter.clock() - since) / done * (total - done)) if done else ""
        return f"{text}: {done:,} of {total:,}{left and f', {left}'}"

    with (
        reporter.doing(line, sys.stderr),
        Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress,
    ):
        for item in progress.track(items, total=total, description=text):
            yield item
            done += 1


class ProgressLine:
    """Step, loss, images/s and time left of a run of ``total`` steps, each with ``batch_size`` images."""

    def __init__(self, total: int, batch_size: int) -> None:
        from rich.console import Console

        self._total, self._batch_size = total, batch_size
        self._console, self._open = Console(file=sys.stdout), ExitStack()
        self._since: float | None = None
        self._begin, self._seen = time.monotonic(), (0, 0.0)
        self.steps = 0  # timed ones
        self._status = None
        if self._console.is_terminal:
            status = self._console.status("Compiling the training step", spinner=_spinner(self._console))
            self._status = self._open.enter_context(status)
        self._open.enter_context(reporter.doing(self._text))

    def update(self, step: int, loss: float) -> None:
        """Show a step; the first call, after compilation, starts the clock."""
        self._seen = step, loss
        if self._since is None:
            self._since = time.monotonic()
            return
        self.steps += 1
        if self._status:
            self._status.update(self._text())

    def _text(self) -> str:
        step, loss = self._seen
        if not self.steps:
            return f"compiling the training step, {minutes(time.monotonic() - self._begin)} so far"
        speed = self.images_per_second
        left = time_left((self._total - step) * self._batch_size / speed)
        return f"step {step}/{self._total}  loss {loss:.3f}  {speed:,.0f} images/s  {left}".rstrip()

    def pause(self, seconds: float) -> None:
        """Take time of an evaluation off the clock."""
        if self._since is not None:
            self._since += seconds

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Take the live line away during the block, which shows progress of its own, and its time off the clock."""
        begin = time.monotonic()
        if self._status:
            self._status.stop()
        try:
            yield
        finally:
            self._begin += time.monotonic() - begin
            if self._status:
                self._status.start()

    @property
    def images_per_second(self) -> float:
        """Speed of training since the first step."""
        if self._since is None or not self.steps:
            return 0.0
        return self.steps * self._batch_size / max(time.monotonic() - self._since, 1e-9)

    def print(self, text: str) -> None:
        """Print a lasting line; the next line of progress does not wait for it."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Give the terminal back."""
        self._open.close()
