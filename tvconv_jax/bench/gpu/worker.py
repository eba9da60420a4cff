"""One process of the command: takes sets of items on its input, and answers a JSON line for each.

It has the GPU for itself while it runs. A kernel that damages the process, as some errors of CUDA do, takes no other
figure with it, and memory is free again for the next one.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TextIO

from tvconv_jax.bench.gpu.item import Item, Sizes
from tvconv_jax.utils.files import as_json

COMPILERS = 8  # programs that compile at the same time
MESSAGE = 300  # characters of an error

Measure = Callable[[], dict[str, Any]]
Prepare = Callable[[Item], Measure]  # compiles; the result runs and measures


class TooLateError(Exception):
    """An item that would not end in time."""


class Skip(Exception):  # noqa: N818, it is not an error
    """The reason why a process has nothing to measure here."""


def _own_stdout() -> TextIO:
    """Keep stdout for the answers; what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def main() -> None:
    """Answer until the input ends: ``python -m tvconv_jax.bench.gpu.worker SIDE``."""
    answers = _own_stdout()

    def answer(**message: Any) -> None:
        answers.write(as_json(message) + "\n")
        answers.flush()

    side = importlib.import_module(f"tvconv_jax.bench.gpu.{sys.argv[1]}")
    options = json.loads(sys.stdin.readline())
    try:
        machine, prepare = side.begin(Sizes(**options.pop("sizes")), **options)
    except Skip as reason:
        answer(skip=str(reason))
        return
    answer(machine=machine)
    try:
        for line in sys.stdin:
            _run([Item(**item) for item in json.loads(line)], prepare, answer)
    except TooLateError:
        return


def _run(items: list[Item], prepare: Prepare, answer: Callable[..., None]) -> None:
    """Compile a set of items at the same time, then measure one after the other."""
    names = [str(item) for item in items]
    answer(begin=names, text="compiling")
    with ThreadPoolExecutor(min(len(items), COMPILERS)) as pool:
        prepared = [pool.submit(prepare, item) for item in items]
    for item in items:
        answer(begin=[str(item)], text="measuring")
        answer(item=str(item), figures=_figures(prepared.pop(0)))  # popped, so that its memory is free


def _figures(prepared: Future) -> dict[str, Any]:
    try:
        return prepared.result()()
    except TooLateError:
        raise
    except Exception as error:  # whatever it is, the other items go on
        return {"error": describe(error)}


def describe(error: Exception) -> str:
    """Return an exception in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MESSAGE]


def step_figures(seconds: float, sizes: Sizes, losses: list[float]) -> dict[str, Any]:
    """Return the figures that both sides have."""
    return {"ms": round(1000 * seconds, 3), "images_per_s": round(sizes.batch / seconds), "losses": losses}


if __name__ == "__main__":
    main()
