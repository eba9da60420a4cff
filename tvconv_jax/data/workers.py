"""Iterators over batches: threads of this process or worker processes, each with an end of its own."""

import errno
import fcntl
import multiprocessing
import os
import signal
import threading
from contextlib import suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import grain
from absl import flags

from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.storage import is_full

SHARED = Path("/dev/shm")  # where Linux keeps what processes share; a container gets 64 MB unless told otherwise
PREFETCHED = 4  # batches that lie in shared memory for each worker once it is ahead: two here and two there
OVERHEAD = 2**17  # bytes of queues and locks of a worker
_UNUSABLE = (errno.EROFS, errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOSYS)
_FEWER = "train with --config.data.workers=0 or a smaller batch, in a new --workdir if this one was trained in"
WORKER_DIED = "Worker process was terminated unexpectedly"  # Grain's words
# These reach every process of a group (Ctrl-C, `timeout`, SLURM, a closed terminal).
ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def iterate(dataset: grain.MapDataset, *, workers: int, batch_bytes: int) -> grain.DatasetIterator:
    """Starts to read a dataset of batches; ``close`` of what is returned ends its threads and processes.

    Args:
        dataset: Whose elements are batches.
        workers: Processes that make them; 0 makes them in threads of this one.
        batch_bytes: Size of a batch of this process.

    Raises:
        UserError: If the batches of so many workers do not fit into shared memory.
    """
    if not flags.FLAGS.is_parsed():  # Grain reads absl's flags; in a program without absl.app nobody parsed them
        flags.FLAGS.mark_as_parsed()
    batches = dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
    if workers:
        check_shared_memory(workers, batch_bytes)
        # Of a worker that was killed, multiprocessing's own helper would tell what it cleans up, after the error.
        os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
        resource_tracker.ensure_running()  # else a worker's start begins with it, and it undoes block_asking()
        options = grain.MultiprocessingOptions(num_workers=workers)
        batches = batches.mp_prefetch(options, worker_init_fn=end_with_parent)
    return iter(batches)


def free_shared_memory() -> int | None:
    """Bytes free in shared memory; ``None`` where the system does not say."""
    try:
        found = os.statvfs(SHARED)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize if found.f_blocks else None  # no blocks: without a limit


def lack_of(error: Exception) -> str | None:
    """Says what workers lack of the machine, and the way out, by an error of Grain's; ``None`` if they lack nothing."""
    if is_full(error) or str(error).startswith(f"{WORKER_DIED} with exit code {-signal.SIGBUS}."):
        fault = "is full"  # a pipeline writes nothing else; the kernel kills one that finds no more of it
    elif not isinstance(error, OSError) or not str(error.filename or "/psm_").startswith("/psm_"):
        return None
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{error.strerror.lower()} for the data workers; raise 'ulimit -n', or {_FEWER}"
    elif error.errno in _UNUSABLE:
        fault = f"cannot be used: {error.strerror}"
    else:
        return None
    free = f"{SHARED} has {free_shared_memory() or 0:,} bytes free now"
    return f"shared memory, through which data workers pass batches, {fault} ({free}); {_hint()}"


def _hint() -> str:
    return (
        "give the container more (docker run --shm-size=2g; in Kubernetes an emptyDir with medium: Memory on "
        f"{SHARED}), or {_FEWER}"
    )


def check_shared_memory(workers: int, batch_bytes: int) -> None:
    """Raises a ``UserError`` if the prefetched batches cannot fit: a worker would die of it in the first minutes."""
    needed = (PREFETCHED * workers + 1) * batch_bytes + workers * OVERHEAD  # one more is being trained on
    free = free_shared_memory()
    if free is not None and free < needed:
        raise UserError(
            f"data.workers={workers} need {needed:,} bytes of shared memory for batches of {batch_bytes:,} bytes, and "
            f"{SHARED} has {free:,} bytes free; {_hint()}."
        )


def block_asking() -> None:
    """Keeps the signals that ask a run to stop from this thread, and from threads and processes that it starts.

    They are the main thread's to answer: it takes its last step, with batches of its workers, and saves.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)


def end_with_parent(*_: int) -> None:
    """Makes this worker process end when its parent does, however that ends; Grain calls it in each worker."""
    block_asking()  # where the parent's thread did not
    parent = multiprocessing.parent_process()
    threading.Thread(target=_leave_after, args=[parent], daemon=True).start()
    if hasattr(fcntl, "F_SETSIG"):  # Linux: it kills one that was stopped, or hangs in code that lets no thread run
        with suppress(OSError):
            fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(parent.sentinel, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, fcntl.fcntl(parent.sentinel, fcntl.F_GETFL) | os.O_ASYNC)


def _leave_after(parent: Any) -> None:
    # This waits for the end of a pipe that the kernel closes with the parent: at once if it has ended already, and
    # without polling. PR_SET_PDEATHSIG would not do: it watches the thread that started the worker, which ends earlier.
    parent.join()
    os._exit(1)
