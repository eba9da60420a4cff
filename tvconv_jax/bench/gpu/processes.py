"""The parent of the measuring processes: starts one for each group, writes down what it answers, ends it in time."""

import contextlib
import dataclasses
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tvconv_jax.bench.gpu.item import Group, Item, Sizes
from tvconv_jax.bench.gpu.record import Record
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.progress import reporter
from tvconv_jax.utils.tether import tethered

LIMIT = 0.4  # of the whole time: the longest that one step of an item, as its compilation, may take
JAX_SIDE, TORCH_SIDE = "jax_side", "torch_side"
# JAX takes most of the GPU's memory at once, which is faster than to ask for it piece by piece; PyTorch runs alone.
ENVIRONMENT = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92", "TF_CPP_MIN_LOG_LEVEL": "2"}
QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}  # at tiny sizes, where compiling takes all the time


class Process:
    """A measuring process and its answers."""

    def __init__(self, side: str, options: dict[str, Any], *, quick: bool) -> None:
        command = tethered([sys.executable, "-m", "tvconv_jax.bench.gpu.worker", side])
        environment = ENVIRONMENT | os.environ | (QUICK if quick else {})
        if side == TORCH_SIDE:
            environment["JAX_PLATFORMS"] = "cpu"  # the GPU's memory is PyTorch's
        root = str(Path(__file__).parents[3])  # of a checkout that is not installed
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, env=environment, **pipes)
        self._answers: queue.Queue = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.send(options)

    def _read(self) -> None:
        for line in self._process.stdout:
            self._answers.put(json.loads(line))
        self._answers.put(None)

    def send(self, message: Any) -> None:
        """Send a line; a process that has ended takes none."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def answer(self, seconds: float) -> dict[str, Any] | None:
        """Return the next answer, ``None`` at the end; raise ``queue.Empty`` if none comes in time."""
        return self._answers.get(timeout=max(0.0, seconds))

    def end(self) -> int:
        """End the process, if it runs, and return its exit code."""
        self._process.kill()
        return self._process.wait()

    def exit_code(self) -> int:
        """Wait for a process that has closed its answers."""
        return self._process.wait()


class Worker:
    """Measures groups of items, in a process of its own each, and survives its end."""

    def __init__(self, record: Record, sizes: Sizes, faces: Path | None, deadline: float) -> None:
        self._record, self._sizes, self._deadline = record, sizes, deadline
        self._faces = str(faces) if faces else None
        self._limit = LIMIT * (deadline - time.time())
        self._platform = ""
        self._looking: Process | None = None  # waits for its first set
        self._skipped: set[str] = set()

    def look(self) -> None:
        """Learn which device there is.

        Raises:
            UserError: If it is not a GPU, except at tiny sizes.
        """
        self._looking, machine = self._start(JAX_SIDE)
        if machine is None:
            raise UserError("JAX did not start here in time, or its message stands above.")
        self._platform = machine["platform"]
        if self._platform == "cpu" and not self._sizes.tiny:
            raise UserError("JAX finds no GPU here; install jax[cuda13], or try the command with --tiny.")
        self._record.set_device(machine["device"])

    def measure(self, group: Group) -> None:
        """Measure what is missing of a group."""
        sets = self._record.missing(group.sets)
        while sets and time.time() < self._deadline and group.side not in self._skipped:
            sets = self._run(group.side, sets)

    def close(self) -> None:
        """End a process that still waits."""
        if self._looking:
            self._looking.end()

    def _start(self, side: str) -> tuple[Process, dict[str, Any] | None]:
        """Start a process and wait for its machine; ``None`` if it has nothing to measure."""
        options: dict[str, Any] = {"sizes": dataclasses.asdict(self._sizes)}
        if side == JAX_SIDE:
            options |= {"deadline": self._deadline, "faces_path": self._faces}
        else:
            options["platform"] = self._platform
        process, answer = Process(side, options, quick=self._sizes.tiny), None
        with reporter.doing("starting JAX" if side == JAX_SIDE else "starting PyTorch", sys.stderr):
            with contextlib.suppress(queue.Empty):
                answer = process.answer(min(self._limit, self._deadline - time.time()))
        if answer is None or "skip" in answer:
            process.end()
            self._skip(side, answer["skip"] if answer else "its process did not start")
        return process, (answer or {}).get("machine")

    def _skip(self, side: str, reason: str) -> None:
        self._skipped.add(side)
        if not any(row["what"] == "skipped" and row["reason"] == reason for row in self._record.ours()):
            self._record.add("skipped", side=side, reason=reason)

    def _run(self, side: str, sets: list[list[Item]]) -> list[list[Item]]:
        """Let one process measure sets; return those that are left for another one, if it broke."""
        machine: dict[str, Any] | None = {}
        process, self._looking = self._looking, None
        if process and side != JAX_SIDE:
            process.end()  # it holds the GPU's memory
        if process is None or side != JAX_SIDE:
            process, machine = self._start(side)
        try:
            for number, items in enumerate(sets if machine is not None else []):
                left, reason = self._measure(process, items, machine.get("baseline"))
                if left and not reason:  # the time is over
                    return []
                if left:
                    return left + sets[number + 1 :]
            return []
        finally:
            process.end()

    def _measure(self, process: Process, items: list[Item], baseline: str | None) -> tuple[list[list[Item]], str]:
        """Measure a set; return what is left, each item alone, and the reason if the process broke."""
        pending, current = {str(item): item for item in items}, []
        about = {"baseline": baseline} if baseline else {}
        process.send([dataclasses.asdict(item) for item in self._with_rates(items)])
        for message in self._messages(process):
            if "begin" in message:
                current = message["begin"]
            elif "item" in message:
                item = pending.pop(message["item"])
                self._record.add(item.what, **item.settings, **message["figures"], **about)
            if not pending:
                return [], ""
            if "broken" in message and message["broken"]:
                return self._after(message["broken"], current, pending), message["broken"]
        return [[item] for item in pending.values()], ""

    def _messages(self, process: Process) -> Iterator[dict[str, Any]]:
        """Yield the answers, at last ``{"broken": reason}``, without a reason if the command's time is over."""
        text = "compiling"
        while True:
            left = self._deadline - time.time()
            try:
                with reporter.doing(text, sys.stderr):
                    message = process.answer(min(left, self._limit))
            except queue.Empty:
                process.end()
                yield {"broken": "" if left <= self._limit else f"it took more than {self._limit:.0f} s"}
                return
            if message is None:
                code = process.exit_code()
                yield {"broken": f"the process ended with code {code}" if code else ""}
                return
            if "begin" in message:
                text = f"{message['text']} {', '.join(message['begin'][:2])}{' ...' * (len(message['begin']) > 2)}"
            yield message

    def _after(self, reason: str, current: list[str], pending: dict[str, Item]) -> list[list[Item]]:
        """Return what is left of a set when its process broke; the item at fault, if it is known, gets a line."""
        at_fault = [name for name in current if name in pending] or list(pending)
        if len(at_fault) == 1:
            item = pending.pop(at_fault[0])
            self._record.add(item.what, **item.settings, error=reason)
        return [[item] for item in pending.values()]

    def _with_rates(self, items: list[Item]) -> list[Item]:
        """Add the learning rate with the lowest training loss to the items that ask for it."""
        return [
            dataclasses.replace(item, learning_rate=self._best_rate(item.settings))
            if item.what == "accuracy" and item.settings["asked_rate"] is None
            else item
            for item in items
        ]

    def _best_rate(self, about: dict[str, Any]) -> float | None:
        same = {name: about[name] for name in ("operator", "epochs", "batch", "faces")}
        rows = [row for row in self._record.ours() if Item("accuracy", same).is_in(row) and row.get("asked_rate")]
        losses = [(row["loss"], row["learning_rate"]) for row in rows if row.get("loss") is not None]
        return min(losses)[1] if losses else None
