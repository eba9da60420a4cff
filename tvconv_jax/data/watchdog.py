"""Batches that come, or an error that says why not: a data worker that died, or one that is stuck."""

import multiprocessing
import os
import queue
import threading
from typing import Any

from tvconv_jax.errors import TrainingError

WORKER_DIED = "Worker process was terminated unexpectedly"  # Grain's words


class WatchedBatches:
    """Passes batches on; waits ``timeout`` seconds for each, and no longer.

    Each batch is fetched by a thread while the caller waits for it, so nothing is read ahead and the position is
    where the caller thinks it is.

    Args:
        batches: An iterator with ``get_state`` and ``set_state``.
        timeout: Seconds; 0 waits for ever.
        source: What they are read from, for messages.

    Attributes:
        timeout: May be changed between two batches.
    """

    def __init__(self, batches: Any, *, timeout: float, source: str) -> None:
        self._batches, self.timeout, self._source = batches, timeout, source
        self._wanted: queue.SimpleQueue = queue.SimpleQueue()
        self._found: queue.SimpleQueue = queue.SimpleQueue()
        # Of a worker that was killed, multiprocessing's own helper would tell what it cleans up, after the error.
        os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
        # A thread stuck in reading cannot be ended, and as a daemon it need not be.
        threading.Thread(target=self._fetch, daemon=True).start()

    def __next__(self) -> Any:
        """The next batch.

        Raises:
            TrainingError: If none came in time, or a worker process died.
        """
        self._wanted.put(None)
        try:
            batch, error = self._found.get(timeout=self.timeout or None)
        except queue.Empty:
            for worker in multiprocessing.active_children():
                worker.kill()  # one that hangs would keep this process from ending
            raise TrainingError(
                f"no batch came from {self._source} within {self.timeout:g} s; look at that disk or network, or "
                f"raise --config.data.timeout. The last checkpoint is whole."
            ) from None
        if error is None:
            return batch
        if WORKER_DIED in str(error):
            code = str(error).partition("exit code ")[2].partition(".")[0]
            raise TrainingError(
                f"a data worker that reads {self._source} died (exit code {code}; -9: killed, often for want of "
                f"memory). The same command goes on, for the last checkpoint is whole; fewer --config.data.workers "
                f"need a new --workdir."
            ) from None
        raise error

    def get_state(self) -> Any:
        """The position behind the last batch."""
        return self._batches.get_state()

    def set_state(self, state: Any) -> None:
        """Goes to a position."""
        self._batches.set_state(state)

    def _fetch(self) -> None:
        while True:
            self._wanted.get()
            try:
                self._found.put((next(self._batches), None))
            except Exception as error:  # raised again where it is waited for
                self._found.put((None, error))
