"""Progress of work on many files: a bar with time left on a terminal, else a plain line every half minute."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tvconv_jax.utils.progress import Reporter, minutes, reporter

Item = TypeVar("Item")


def track(items: Iterable[Item], *, total: int, text: str, reporter: Reporter = reporter) -> Iterator[Item]:
    """Yield the items, one after the other, while stderr or the log shows how many of ``total`` are done."""
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
