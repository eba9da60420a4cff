"""Batches with a timeout, and errors that name the cause: a data worker that died, or one that is stuck."""

import multiprocessing
import queue
import threading
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

from tvconv_jax.data.workers import WORKER_DIED, block_stop_signals, find_lack
from tvconv_jax.utils.errors import TrainingError

PATIENCE = 5.0  # seconds for threads and workers to end by themselves, and again after the workers were killed
_OPEN: weakref.WeakSet = weakref.WeakSet()  # of this process


class WatchedBatches(Iterator, AbstractContextManager):
    """An iterator that waits at most ``timeout`` seconds for each batch; a context manager that closes it.

    A thread fetches each batch while the caller waits for it. So nothing is read ahead, and the position is that of
    the last batch.

    Args:
        batches: An iterator with ``get_state``, ``set_state`` and ``close``.
        timeout: Seconds; 0 waits forever. It may be changed between two batches.
        source: Name of the data, for messages.
    """

    def __init__(self, batches: Any, *, timeout: float, source: str) -> None:
        self._batches, self.timeout, self._source = batches, timeout, source
        self._wanted: queue.SimpleQueue = queue.SimpleQueue()
        self._found: queue.SimpleQueue = queue.SimpleQueue()
        self._before: set | None = None  # child processes that there were before the first batch
        self._workers: set | None = None
        self._stuck = False
        # A thread stuck in reading cannot be ended, so it is a daemon. It does not refer to this object, so that a
        # forgotten one is closed too.
        self._thread = threading.Thread(target=_fetch, args=[batches, self._wanted, self._found], daemon=True)
        self._thread.start()
        self._end = weakref.finalize(self, self._wanted.put, False)
        self._end.atexit = False
        _OPEN.add(self)

    def __next__(self) -> Any:
        """Return the next batch.

        Raises:
            TrainingError: If none came in time, a worker process died, or shared memory is full.
            ValueError: If the iterator is closed.
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
        """Return the position after the last batch."""
        with self._explained():
            return self._open().get_state()

    def set_state(self, state: Any) -> None:
        """Go to a position."""
        with self._explained():
            self._open().set_state(state)

    def close(self) -> None:
        """End the thread, Grain's threads and its worker processes within seconds, even if they are stuck."""
        _OPEN.discard(self)
        self._end()
        self._batches = None  # Grain's own clean-up must end before the interpreter's begins
        self._thread.join(1 if self._stuck else PATIENCE + len(self._workers or ()))  # they end one after the other
        if self._thread.is_alive() and self._kill():
            self._thread.join(PATIENCE)

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> Any:
        if self._batches is None:
            raise ValueError(f"the batches of {self._source} are closed.")
        return self._batches

    def _children(self) -> set:
        """Return the processes started since the first batch was requested, without those of other pipelines."""
        others = [other._workers for other in _OPEN if other is not self and other._workers]
        return set(multiprocessing.active_children()).difference(self._before or (), *others)

    def _kill(self) -> bool:
        """Kill this pipeline's worker processes; return whether there were any."""
        workers = self._children() if self._workers is None else self._workers
        for worker in workers:
            worker.kill()
        return bool(workers)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn Grain's error for a dead worker, or for full shared memory, into one line."""
        try:
            yield
        except Exception as error:
            if cause := find_lack(error):
                raise TrainingError(f"{cause}. The last checkpoint is whole.") from None
            if WORKER_DIED not in str(error):
                raise
            code = str(error).partition("exit code ")[2].partition(".")[0]
            raise TrainingError(
                f"a data worker that reads {self._source} died (exit code {code}; -9: killed, often for lack of "
                f"memory). Rerun the same command to resume from the last checkpoint; fewer --config.data.workers need "
                f"a new --workdir."
            ) from None


def _fetch(batches: Any, wanted: queue.SimpleQueue, found: queue.SimpleQueue) -> None:
    """Fetch a batch whenever one is wanted, then close: only one thread may use the iterator at a time."""
    block_stop_signals()
    while wanted.get():
        try:
            found.put((next(batches), None))
        except Exception as error:  # raised again where it is waited for
            found.put((None, error))
    with suppress(Exception):  # of an iterator that failed before; nobody waits for its error
        batches.close()
