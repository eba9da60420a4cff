"""Several processes, one run: how they find each other, what only the first does, and how they stop together."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from tvconv_jax.training.mesh import put_batch, replicated
from tvconv_jax.utils.console import silent_stdout
from tvconv_jax.utils.errors import TrainingError, UserError, print_error
from tvconv_jax.utils.files import whole_number

# Environment variables that a launcher may set instead of the flags.
ENVIRONMENT = {
    "coordinator": "TVCONV_JAX_COORDINATOR",
    "processes": "TVCONV_JAX_PROCESSES",
    "process": "TVCONV_JAX_PROCESS",
}
AUTO = "auto"
# Set by srun for each task; a batch script itself lacks some of them, and is not a task.
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


class ProcessInfo(NamedTuple):
    """One process among all."""

    coordinator: str  # host:port at which process 0 listens; AUTO: JAX asks the cluster for everything
    processes: int = 0  # in all
    process: int = 0  # number of this one


def find_process(
    coordinator: str | None, processes: int | None, process: int | None, environment: Mapping[str, str]
) -> ProcessInfo | None:
    """Find this process among all, by flags, by the environment, or by the cluster it runs on.

    Args:
        coordinator: ``host:port`` of process 0, or ``"auto"``.
        processes: Their number.
        process: Number of this one.
        environment: Read where a flag is ``None``: :data:`ENVIRONMENT`, then the variables of SLURM and TPU pods.

    Returns:
        The process, or ``None`` for a run of one process.

    Raises:
        UserError: If the three contradict each other.
    """
    coordinator = coordinator or environment.get(ENVIRONMENT["coordinator"])
    processes = _number(ENVIRONMENT["processes"], environment) if processes is None else processes
    process = _number(ENVIRONMENT["process"], environment) if process is None else process
    if processes == 1 and process in (None, 0):
        return None
    if coordinator is processes is process is None:
        return ProcessInfo(AUTO) if _on_cluster(environment) else None
    if coordinator == AUTO:
        return ProcessInfo(AUTO)
    if coordinator is None or processes is None or process is None:
        given = f"--coordinator={coordinator} --processes={processes} --process={process}"
        raise UserError(f"{given}: a run of several processes needs all three; give HOST:PORT, N and 0 to N - 1.")
    if processes < 1 or not 0 <= process < processes:
        raise UserError(f"--process={process} must lie between 0 and --processes={processes} less one; change it.")
    host, _, port = coordinator.rpartition(":")
    if not host or not 0 < (whole_number(port) or 0) < 65536:
        raise UserError(f"--coordinator={coordinator} must be HOST:PORT of process 0, as in 10.0.0.1:1234.")
    return ProcessInfo(coordinator, processes, process)


def _number(name: str, environment: Mapping[str, str]) -> int | None:
    text = environment.get(name)
    if text and whole_number(text) is None:
        raise UserError(f"{name}={text} must be a whole number; correct or unset it.")
    return whole_number(text) if text else None


def _on_cluster(environment: Mapping[str, str]) -> bool:
    """Return whether SLURM's srun or a TPU pod of several hosts started this process."""
    slurm = all(name in environment for name in SLURM) and (_number("SLURM_NTASKS", environment) or 0) > 1
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES") or ""
    return slurm or "," in hosts or "MEGASCALE_COORDINATOR_ADDRESS" in environment


def connect(place: ProcessInfo | None, *, timeout: int = 300) -> None:
    """Connect this process to the others, before anything touches a device; ``None`` does nothing.

    If not all of them have come after ``timeout`` seconds, the process ends with one line and exit code 2.
    """
    if place is None:
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # JAX would take SIGTERM for a service of its own; the loop listens to it, and agrees with PreemptionSync.
    jax.config.update("jax_enable_preemption_service", False)
    alone = threading.Timer(timeout, _nobody_came, [place, timeout])  # JAX would abort with a stack
    alone.daemon = True
    alone.start()
    explicit = {}
    if place.coordinator != AUTO:
        explicit = {
            "coordinator_address": place.coordinator,
            "num_processes": place.processes,
            "process_id": place.process,
            "cluster_detection_method": "deactivate",
        }
    try:
        jax.distributed.initialize(**explicit, initialization_timeout=timeout + 30)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the other processes were not found ({error}); give --coordinator, --processes, --process."
        ) from None
    finally:
        alone.cancel()


@contextmanager
def connected(place: ProcessInfo | None) -> Iterator[None]:
    """Connect, silence all processes but the first, and turn the loss of another one into a ``TrainingError``."""
    connect(place)
    try:
        with nullcontext() if is_first() else silent_stdout():
            yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # jaxlib raises either
        if place is None or not any(word in str(error) for word in ("Gloo", "NCCL", "oordination", "onnection")):
            raise
        raise TrainingError(
            f"another process of this run was lost ({str(error).splitlines()[0]}); the last checkpoint is whole: "
            f"start all processes again."
        ) from None


def _nobody_came(place: ProcessInfo, timeout: int) -> None:
    where = f"process {place.process} of {place.processes} at {place.coordinator}"
    where = "the cluster" if place.coordinator == AUTO else where
    print_error(
        f"error: {where}: not all processes met within {timeout} s; start them all, and give each the address of "
        f"process 0."
    )
    os._exit(2)


def is_first() -> bool:
    """Return whether this process writes logs, results and images: one does."""
    return jax.process_index() == 0


def to_host(array: jax.Array) -> np.ndarray:
    """Return an array as NumPy's, with the parts of other processes; all processes must call it."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)


class PreemptionSync:
    """Agreement of all processes, after the same step, on whether any of them was asked to stop.

    A request travels as a tiny maximum over the devices, dispatched behind one step and read behind the next: nobody
    waits for it. A run of one process needs none. ``asked`` returns the code with which this process was asked to end,
    or 0.
    """

    def __init__(self, mesh: Mesh, asked: Callable[[], int]) -> None:
        self._mesh, self._asked, self._alone = mesh, asked, jax.process_count() == 1
        self._pending, self._agreed = None, 0
        self._largest = jax.jit(jnp.max, out_shardings=replicated(mesh))

    def exchange(self) -> None:
        """Exchange requests; call it once behind every step, in every process."""
        if self._alone:
            return
        if self._pending is not None:
            self._agreed = int(self._pending)
        codes = np.full(len(self._mesh.local_devices), self._asked(), np.int32)  # one a device
        self._pending = self._largest(put_batch(codes, self._mesh))

    def __call__(self) -> int:
        """Return the code, or 0: the same in every process until the next exchange."""
        return self._asked() if self._alone else self._agreed


def gather_rows(values: np.ndarray) -> np.ndarray:
    """Concatenate the rows of every process; all must call it, with as many rows each."""
    if jax.process_count() == 1:
        return values
    return np.asarray(multihost_utils.process_allgather(values, tiled=True))
