"""How the benchmark times: calls in turns, so that a busy machine slows all of them."""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Seconds: a timed stretch lasts at least STRETCH; before it all rest, because the other framework's threads
# keep spinning for a while after their work.
STRETCH, REST = 0.05, 0.02
COPIED = 2**28  # bytes that the copy reads whose bandwidth an accelerator's operators are compared with

Call = Callable[[], Any]  # gives a result that may not be there yet
Wait = Callable[[Any], Any]  # until a result is there


def interleaved(calls: dict[Any, tuple[Call, Wait]], runs: int) -> dict[Any, float]:
    """Median seconds of each call; the calls take turns, ``runs`` times, after one untimed turn."""
    repeats = {}
    for name, (call, wait) in calls.items():
        wait(call())
        repeats[name] = max(1, math.ceil(STRETCH / _seconds(call, wait, 1)))
    times: dict[Any, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, (call, wait) in calls.items():
            time.sleep(REST)
            times[name].append(_seconds(call, wait, repeats[name]))
    return {name: statistics.median(values) for name, values in times.items()}


def _seconds(call: Call, wait: Wait, repeats: int) -> float:
    # Programs in flight would share a CPU's cores; on an accelerator they queue, and launching them costs no time.
    each = wait if jax.default_backend() == "cpu" else lambda result: result
    start = time.perf_counter()
    for _ in range(repeats):
        result = each(call())
    wait(result)
    return (time.perf_counter() - start) / repeats


def copy_bandwidth(runs: int) -> float:
    """Bytes a second that the first device reads and writes while it negates a large array."""
    x, negate = jnp.ones(COPIED // 4), jax.jit(jnp.negative)
    return 2 * COPIED / interleaved({"copy": (lambda: negate(x), jax.block_until_ready)}, runs)["copy"]
