"""Interleaved timing of calls: a busy machine slows all of them alike."""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Seconds: a measurement lasts at least STRETCH. Before it comes a REST, for the other framework's threads keep
# spinning for a while after their work.
STRETCH, REST = 0.05, 0.02
COPIED = 2**28  # bytes that the copy reads; its bandwidth is compared with that of an accelerator's operators

Call = Callable[[], Any]  # returns a result that may not be computed yet
Wait = Callable[[Any], Any]  # blocks until a result is computed


def interleaved(calls: dict[Any, tuple[Call, Wait]], runs: int, *, queued: bool | None = None) -> dict[Any, float]:
    """Return the median seconds of each call over ``runs`` rounds of all calls, after an untimed round.

    ``queued``: whether calls are launched without waiting for the one before; default: on JAX's accelerators.
    """
    # Programs in flight would share a CPU's cores; on an accelerator they queue, and launching them costs no time.
    queued = jax.default_backend() != "cpu" if queued is None else queued
    repeats = {}
    for name, (call, wait) in calls.items():
        wait(call())
        repeats[name] = max(1, math.ceil(STRETCH / _seconds(call, wait, 1, queued)))
    times: dict[Any, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, (call, wait) in calls.items():
            time.sleep(REST)
            times[name].append(_seconds(call, wait, repeats[name], queued))
    return {name: statistics.median(values) for name, values in times.items()}


def _seconds(call: Call, wait: Wait, repeats: int, queued: bool) -> float:
    each = (lambda result: result) if queued else wait
    start = time.perf_counter()
    for _ in range(repeats):
        result = each(call())
    wait(result)
    return (time.perf_counter() - start) / repeats


def copy_bandwidth(runs: int, *, nbytes: int = COPIED, dtype: str = "float32") -> float:
    """Return the bytes/s that the first device reads and writes while it negates an array of ``nbytes``."""
    x, negate = jnp.ones(nbytes // jnp.dtype(dtype).itemsize, dtype), jax.jit(jnp.negative)
    return 2 * x.nbytes / interleaved({"copy": (lambda: negate(x), jax.block_until_ready)}, runs)["copy"]
