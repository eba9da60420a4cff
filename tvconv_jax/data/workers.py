"""Iterators over batches, read by threads of this process or by worker processes; both end cleanly."""

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

SHARED = Path("/dev/shm")  # shared memory on Linux; a container has 64 MB by default
PREFETCHED = 4  # batches in shared memory for each worker once it is ahead: two on either end
OVERHEAD = 2**17  # bytes of queues and locks of a worker
_UNUSABLE = (errno.EROFS, errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOSYS)
_FEWER = "train with --config.data.workers=0 or a smaller batch, in a new --workdir if this one was trained in"
_HINT = (
    "give the container more (docker run --shm-size=2g; in Kubernetes an emptyDir with medium: Memory on "
    f"{SHARED}), or {_FEWER}"
)
WORKER_DIED = "Worker process was terminated unexpectedly"  # Grain's message
# These reach every process of a group (Ctrl-C, `timeout`, SLURM, a closed terminal).
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
        check_shared_memory(workers, batch_bytes)
        # After a worker was killed, multiprocessing's own helper would warn of its clean-up below the error.
        os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
        resource_tracker.ensure_running()  # else a worker's start begins with it, and undoes block_stop_signals()
        options = grain.MultiprocessingOptions(num_workers=workers)
        batches = batches.mp_prefetch(options, worker_init_fn=end_with_parent)
    return iter(batches)


def free_shared_memory() -> int | None:
    """Return the free bytes of shared memory; ``None`` if they are unknown or unlimited."""
    try:
        found = os.statvfs(SHARED)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize if found.f_blocks else None  # no blocks: no limit


def find_lack(error: Exception) -> str | None:
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


def check_shared_memory(workers: int, batch_bytes: int) -> None:
    """Raise a ``UserError`` if the prefetched batches cannot fit: a worker would die in the first minutes."""
    needed = (PREFETCHED * workers + 1) * batch_bytes + workers * OVERHEAD  # one more is in use
    free = free_shared_memory()
    if free is not None and free < needed:
        raise UserError(
            f"data.workers={workers} need {needed:,} bytes of shared memory for batches of {batch_bytes:,} bytes, and "
            f"{SHARED} has {free:,} bytes free; {_HINT}."
        )


def block_stop_signals() -> None:
    """Block the signals that stop a run in this thread and all that it starts; the main thread handles them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def end_with_parent(*_: int) -> None:
    """End this worker process when its parent ends, for whatever reason; Grain calls this in each worker."""
    block_stop_signals()  # in case the parent's thread did not
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
