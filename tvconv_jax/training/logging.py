"""Logs of a run: ``metrics.jsonl`` and TensorBoard events."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax

from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import as_json, parse_json, write_bytes
from tvconv_jax.utils.storage import writing

# Names that the loop and the losses write themselves; a data set may not be called so.
METRICS = ("step", "loss", "accuracy", "score", "skipped", "images_per_second")
FLUSH_SECONDS = 60.0  # between two flushes of TensorBoard's file
LAST_STEPS = 100  # of a run, whose mean training loss stands in results.json


class MetricsLog:
    """``metrics.jsonl``, one JSON object a line with its ``step``, and TensorBoard events of the same numbers.

    The first process writes them; in others every method does nothing.

    Args:
        workdir: Folder of both.
        step: First step of this command; lines of later steps are dropped, for these steps will be taken again.
    """

    def __init__(self, workdir: Path, step: int) -> None:
        self._workdir, path, self._first = workdir, workdir / "metrics.jsonl", jax.process_index() == 0
        if not self._first:
            return
        with self._writing():
            _cut(path, step)
            self._file = path.open("a")
            self._events = Events(workdir / "tensorboard", step + 1)
            self._flushed = time.monotonic()

    def write(self, step: int, /, **values: float) -> None:
        """Write numbers of one step.

        Raises:
            TrainingError: If the disk is full.
        """
        if not self._first:
            return
        with self._writing():
            self._file.write(as_json({"step": step, **values}) + "\n")
            self._file.flush()
            for name, value in values.items():
                self._events.write(step, name, value)
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                self._events.flush()
                self._flushed = time.monotonic()

    def close(self) -> None:
        """Close both files."""
        if not self._first:
            return
        with self._writing():
            self._file.close()
            self._events.close()

    def _writing(self) -> AbstractContextManager:
        return writing(self._workdir, "metrics.jsonl and TensorBoard's events; checkpoints that are written are whole")


class Events:
    """A file of TensorBoard events, which TensorBoard reads beside those of earlier commands.

    From ``step`` on, TensorBoard does not show what earlier files hold.
    """

    def __init__(self, folder: Path, step: int) -> None:
        _import_without_torch()
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        self._event, self._scalar = Event, scalar
        folder.mkdir(exist_ok=True)
        # Written in this thread: tensorboardX's SummaryWriter hangs once its thread has met a full disk.
        self._file = EventsWriter(str(folder / "events"))
        self.flush, self.close = self._file.flush, self._file.close
        start = SessionLog(status=SessionLog.START)
        self._file.write_event(Event(wall_time=time.time(), step=step, session_log=start))

    def write(self, step: int, name: str, value: float) -> None:
        """Append a number of one step."""
        self._file.write_event(self._event(wall_time=time.time(), step=step, summary=self._scalar(name, value)))


def _import_without_torch() -> None:
    """Import tensorboardX; it would import PyTorch where there is one, for seconds and 200 MB that are not needed."""
    hidden = sys.modules.setdefault("torch", None) is None  # an import of it fails, as where it is not installed
    try:
        import tensorboardX  # noqa: F401
    finally:
        if hidden:
            del sys.modules["torch"]


def check_metric_names(kind: str, names: Iterable[str]) -> None:
    """Raise a ``UserError`` if numbers of one of these names, of a kind, would overwrite other numbers of a run."""
    for name in names:
        if name in METRICS:
            raise UserError(
                f"{kind} {name!r} has the name of another number of metrics.jsonl ({', '.join(METRICS)}); rename it."
            )


def last_loss(workdir: Path) -> float | None:
    """Return the mean training loss of the logged steps among the last :data:`LAST_STEPS`; ``None`` if none has one."""
    lines = _lines(workdir / "metrics.jsonl")
    losses = {step: line["loss"] for step, line, _ in lines if isinstance(line.get("loss"), float)}
    end = max(losses, default=0)
    last = [loss for step, loss in losses.items() if step > end - LAST_STEPS]
    return round(sum(last) / len(last), 4) if last else None


def _cut(path: Path, step: int) -> None:
    if path.exists():
        kept = [text for of_step, _, text in _lines(path) if of_step <= step]
        write_bytes(path, b"".join(text + b"\n" for text in kept))


def _lines(path: Path) -> Iterator[tuple[float, dict[str, Any], bytes]]:
    """Yield the step, the numbers and the text of every line that holds a step."""
    for text in path.read_bytes().splitlines():
        try:
            line = parse_json(text)
            yield line["step"] + 0, line, text
        # Such as the last line of a run that was killed while writing it, or damage by a disk or another program.
        except (ValueError, LookupError, TypeError):
            continue
