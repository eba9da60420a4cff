"""Batches that come, or an error that says why not: a data worker that died, or one that is stuck."""

import multiprocessing
import queue
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

from tvconv_jax.data.workers import WORKER_DIED, block_asking, lack_of
from tvconv_jax.utils.errors import TrainingError

PATIENCE = 5.0  # seconds for threads and workers to end by themselves, and once more after the workers were killed
_OPEN: weakref.WeakSet = weakref.WeakSet()  # of this process


class WatchedBatches:
    """Passes batches on; waits ``timeout`` seconds for each, and no longer. A context manager that closes them.

    Each batch is fetched by a thread while the caller waits for it, so nothing is read ahead and the position is
    where the caller thinks it is.

    Args:
        batches: An iterator with ``get_state``, ``set_state`` and ``close``.
        timeout: Seconds; 0 waits for ever.
        source: What they are read from, for messages.

    Attributes:
        timeout: May be changed between two batches.
    """

    def __init__(self, batches: Any, *, timeout: float, source: str) -> None:
        self._batches, self.timeout, self._source = batches, timeout, source
        self._wanted: queue.SimpleQueue = queue.SimpleQueue()
        self._found: queue.SimpleQueue = queue.SimpleQueue()
        self._before: set | None = None  # child processes that there were before the first batch
        self._workers: set | None = None
        self._stuck = False
        # A thread stuck in reading cannot be ended, and as a daemon it need not be. It knows nothing of this object,
        # so that one that is forgotten is closed too.
        self._thread = threading.Thread(target=_fetch, args=[batches, self._wanted, self._found], daemon=True)
        self._thread.start()
        self._end = weakref.finalize(self, self._wanted.put, False)
        self._end.atexit = False
        _OPEN.add(self)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        """The next batch.

        Raises:
            TrainingError: If none came in time, a worker process died, or shared memory is full.
            ValueError: If they are closed.
        """
        self._open()
        if self._before is None:
            self._before = set(multiprocessing.active_children())
        self._wanted.put(True)
        try:
            batch, error = self._found.get(timeout=self.timeout or None)
        except queue.Empty:
            self._stuck = True
            self._kill()  # one that hangs would keep this process from ending
            raise TrainingError(
                f"no batch came from {self._source} within {self.timeout:g} s; look at that disk or network, or "
                f"raise --config.data.timeout. The last checkpoint is whole."
            ) from None
        if error is not None:
            with self._explained():
                raise error
        if self._workers is None:
            self._workers = self._children()
        return batch

    def get_state(self) -> Any:
        """The position behind the last batch."""
        with self._explained():
            return self._open().get_state()

    def set_state(self, state: Any) -> None:
        """Goes to a position."""
        with self._explained():
            self._open().set_state(state)

    def close(self) -> None:
        """Ends the thread, Grain's threads and its worker processes, within seconds whatever they are stuck in."""
        _OPEN.discard(self)
        self._end()
        self._batches = None  # so that Grain's own clean-up is over before the interpreter's begins
        self._thread.join(1 if self._stuck else PATIENCE + len(self._workers or ()))  # they end one after the other
        if self._thread.is_alive() and self._kill():
            self._thread.join(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> Any:
        if self._batches is None:
            raise ValueError(f"the batches of {self._source} are closed.")
        return self._batches

    def _children(self) -> set:
        """Processes that were started since the first batch was asked for, apart from those of other pipelines."""
        others = [other._workers for other in _OPEN if other is not self and other._workers]
        return set(multiprocessing.active_children()).difference(self._before or (), *others)

    def _kill(self) -> bool:
        """Kills this pipeline's worker processes; whether there were any."""
        workers = self._children() if self._workers is None else self._workers
        for worker in workers:
            worker.kill()
        return bool(workers)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns what Grain says of a worker that died, or of shared memory that is full, into one line."""
        try:
            yield
        except Exception as error:
            if lack := lack_of(error):
                raise TrainingError(f"{lack}. The last checkpoint is whole.") from None
            if WORKER_DIED not in str(error):
                raise
            code = str(error).partition("exit code ")[2].partition(".")[0]
            raise TrainingError(
                f"a data worker that reads {self._source} died (exit code {code}; -9: killed, often for want of "
                f"memory). The same command goes on, for the last checkpoint is whole; fewer --config.data.workers "
                f"need a new --workdir."
            ) from None


def _fetch(batches: Any, wanted: queue.SimpleQueue, found: queue.SimpleQueue) -> None:
    """Fetches a batch whenever one is wanted; in the end closes them, for only one thread may touch them at a time."""
    block_asking()
    while wanted.get():
        try:
            found.put((next(batches), None))
        except Exception as error:  # raised again where it is waited for
            found.put((None, error))
    with suppress(Exception):  # of an iterator that failed before; nobody waits for its words
        batches.close()
