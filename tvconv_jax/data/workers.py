"""Batches from threads or worker processes, with a timeout, a clean end, and errors that name the cause."""

import errno
import fcntl
import multiprocessing
import os
import queue
import signal
import threading
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import grain
from absl import flags

from tvconv_jax.utils.errors import TrainingError, UserError
from tvconv_jax.utils.storage import is_full

SHARED = Path("/dev/shm")  # shared memory on Linux; a container has 64 MB by default
PREFETCHED = 4  # batches in shared memory for each worker once it is ahead: two on either end
OVERHEAD = 2**17  # bytes of queues and locks of a worker
PATIENCE = 5.0  # seconds for threads and workers to end by themselves, and again after the workers were killed
WORKER_DIED = "Worker process was terminated unexpectedly"  # Grain's message
# These reach every process of a group (Ctrl-C, `timeout`, SLURM, a closed terminal).
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_UNUSABLE = (errno.EROFS, errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOSYS)
_FEWER = "train with --config.data.workers=0 or a smaller batch, in a new --workdir if this one was trained in"
_HINT = (
    "give the container more (docker run --shm-size=2g; in Kubernetes an emptyDir with medium: Memory on "
    f"{SHARED}), or {_FEWER}"
)
_OPEN: weakref.WeakSet = weakref.WeakSet()  # of this process


def iterate(dataset: grain.MapDataset, *, workers: int, batch_bytes: int) -> grain.DatasetIterator:
    """Iterate over a dataset of batches of ``batch_bytes`` each; ``close`` ends its threads and processes.

    Batches are loaded by ``workers`` processes, or by threads of this process if 0.

    Raises:
        UserError: If the batches of so many workers do not fit into shared memory.
    """
    if not flags.FLAGS.is_parsed():  # Grain reads absl's flags, which only absl.app parses
        flags.FLAGS.mark_as_parsed()
    batches = dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
    if workers:
        _check_shared_memory(workers, batch_bytes)
        # After a worker was killed, multiprocessing's own helper would warn of its clean-up below the error.
        os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
        resource_tracker.ensure_running()  # else a worker's start begins with it, and undoes _block_stop_signals()
        options = grain.MultiprocessingOptions(num_workers=workers)
        batches = batches.mp_prefetch(options, worker_init_fn=_end_with_parent)
    return iter(batches)


def free_shared_memory() -> int | None:
    """Return the free bytes of shared memory; ``None`` if they are unknown or unlimited."""
    try:
        found = os.statvfs(SHARED)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize if found.f_blocks else None  # no blocks: no limit


def _check_shared_memory(workers: int, batch_bytes: int) -> None:
    """Raise a ``UserError`` if the prefetched batches cannot fit: a worker would die in the first minutes."""
    needed = (PREFETCHED * workers + 1) * batch_bytes + workers * OVERHEAD  # one more is in use
    free = free_shared_memory()
    if free is not None and free < needed:
        raise UserError(
            f"data.workers={workers} need {needed:,} bytes of shared memory for batches of {batch_bytes:,} bytes, and "
            f"{SHARED} has {free:,} bytes free; {_HINT}."
        )


def _find_lack(error: Exception) -> str | None:
    """Return the resource that workers lack, and a hint, from an error of Grain's; ``None`` if they lack none."""
    if is_full(error) or str(error).startswith(f"{WORKER_DIED} with exit code {-signal.SIGBUS}."):
        state = "is full"  # a pipeline writes nothing else; the kernel kills a process that needs more
    elif not isinstance(error, OSError) or not str(error.filename or "/psm_").startswith("/psm_"):
        return None
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{error.strerror.lower()} for the data workers; raise 'ulimit -n', or {_FEWER}"
    elif error.errno in _UNUSABLE:
        state = f"cannot be used: {error.strerror}"
    else:
        return None
    free = f"{SHARED} has {free_shared_memory() or 0:,} bytes free now"
    return f"shared memory, through which data workers pass batches, {state} ({free}); {_HINT}"


def _block_stop_signals() -> None:
    """Block the signals that stop a run in this thread and all that it starts; the main thread handles them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def _end_with_parent(*_: int) -> None:
    """End this worker process when its parent ends, for whatever reason; Grain calls this in each worker."""
    _block_stop_signals()  # in case the parent's thread did not
    parent = multiprocessing.parent_process()
    threading.Thread(target=_leave_after, args=[parent], daemon=True).start()
    if hasattr(fcntl, "F_SETSIG"):  # Linux: the kernel kills even a process that is stopped, or lets no thread run
        with suppress(OSError):
            fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(parent.sentinel, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, fcntl.fcntl(parent.sentinel, fcntl.F_GETFL) | os.O_ASYNC)


def _leave_after(parent: Any) -> None:
    # The kernel closes a pipe when the parent ends, so no polling is needed, even for a parent that has ended already.
    # PR_SET_PDEATHSIG would not do: it watches the thread that started the worker, which ends earlier.
    parent.join()
    os._exit(1)


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
            if cause := _find_lack(error):
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
    _block_stop_signals()
    while wanted.get():
        try:
            found.put((next(batches), None))
        except Exception as error:  # raised again where it is waited for
            found.put((None, error))
    with suppress(Exception):  # of an iterator that failed before; nobody waits for its error
        batches.close()
