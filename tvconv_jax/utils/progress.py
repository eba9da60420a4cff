"""Progress without a terminal: a plain line at least every 30 seconds."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO, TypeVar

Item = TypeVar("Item")
EVERY = 25.0  # seconds; with what a late thread adds, lines are at most 30 apart


def minutes(seconds: float) -> str:
    """Format seconds as ``m:ss``."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class _Activity:
    """A long operation; compared by identity."""

    def __init__(self, text: Callable[[], str], stream: TextIO) -> None:
        self.text, self.stream = text, stream


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

    def start(self, text: str | Callable[[], str], stream: TextIO | None = None) -> _Activity:
        """Start an activity within the current ones.

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
        return activity

    def stop(self, activity: _Activity) -> None:
        """End an activity, in any order; a second call does nothing."""
        with self._lock:
            if activity in self._activities:
                self._activities.remove(activity)
            if not self._activities:
                self._idle.set()

    @contextmanager
    def doing(self, text: str | Callable[[], str], stream: TextIO | None = None) -> Iterator[None]:
        """Report an activity during the block; see :meth:`start`."""
        activity = self.start(text, stream)
        try:
            yield
        finally:
            self.stop(activity)

    def heard(self) -> None:
        """Restart the clock after another line was printed."""
        self._last = self.clock()

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


def track(items: Iterable[Item], *, total: int, text: str, reporter: Reporter = reporter) -> Iterator[Item]:
    """Yield the items; a bar on a terminal, or a plain line every half minute, shows how many of ``total`` are done."""
    from rich.console import Console  # late: most who import this module never show a bar
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    done, since = 0, reporter.clock()

    def line() -> str:
        left = f", {minutes((reporter.clock() - since) / done * (total - done))} left" if done else ""
        return f"{text}: {done:,} of {total:,}{left}"

    with (
        reporter.doing(line, sys.stderr),
        Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress,
    ):
        for item in progress.track(items, total=total, description=text):
            yield item
            done += 1
