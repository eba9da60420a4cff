"""What a run leaves behind while it goes: ``metrics.jsonl``, TensorBoard events, and a progress line."""

import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import jax
from rich.console import Console

from tvconv_jax.training.events import Events
from tvconv_jax.utils.environment import cores, processor
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import as_json, write_bytes
from tvconv_jax.utils.plain_files import parse_json
from tvconv_jax.utils.progress import minutes, reporter
from tvconv_jax.utils.storage import writing

# What the loop and the losses write themselves; a set of data may not be called so.
METRICS = ("step", "loss", "accuracy", "score", "skipped", "images_per_second")
FLUSH_SECONDS = 60.0  # between two times that TensorBoard sees what is new


class MetricsLog:
    """``metrics.jsonl``, one JSON object a line with its ``step``, and TensorBoard events of the same numbers.

    Args:
        workdir: Where both are written.
        step: Step that the run starts from; lines of later steps are dropped, for they are about to come again.
    """

    def __init__(self, workdir: Path, step: int) -> None:
        self._workdir, path = workdir, workdir / "metrics.jsonl"
        with self._writing():
            _cut(path, step)
            self._file = path.open("a")
            self._events = Events(workdir / "tensorboard", step + 1)
            self._flushed = time.monotonic()

    def write(self, step: int, /, **values: float) -> None:
        """Writes numbers of one step.

        Raises:
            TrainingError: If the disk is full.
        """
        with self._writing():
            self._file.write(as_json({"step": step, **values}) + "\n")
            self._file.flush()
            for name, value in values.items():
                self._events.write(step, name, value)
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                self._events.flush()
                self._flushed = time.monotonic()

    def close(self) -> None:
        with self._writing():
            self._file.close()
            self._events.close()

    def _writing(self) -> AbstractContextManager:
        return writing(self._workdir, "metrics.jsonl and TensorBoard's events; checkpoints that are written are whole")


def check_metric_names(what: str, names: Iterable[str]) -> None:
    """Raise a ``UserError`` if numbers of that name would be written over other numbers of a run.

    Args:
        what: What has the names, for the message.
        names: The names.
    """
    for name in names:
        if name in METRICS:
            raise UserError(
                f"{what} {name!r} has the name of another number of metrics.jsonl ({', '.join(METRICS)}); rename it."
            )


class NoLog:
    """In the place of a :class:`MetricsLog`, where another process writes it."""

    def write(self, step: int, /, **values: float) -> None:
        """Writes nothing."""

    def close(self) -> None:
        """Closes nothing."""


def _cut(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines():
        try:
            if parse_json(line)["step"] <= step:
                kept.append(line)
        # As the last line of a run that was killed in the middle of it, or what a disk or another program made of one.
        except (ValueError, LookupError, TypeError):
            continue
    write_bytes(path, b"".join(line + b"\n" for line in kept))


class ProgressLine:
    """Step, loss, images per second and time left: on one line of a terminal, else on a line every half minute.

    Args:
        total: Steps of the whole run.
        batch_size: Images in a step.

    Attributes:
        steps: How many were timed.
    """

    def __init__(self, total: int, batch_size: int) -> None:
        self._total, self._batch_size = total, batch_size
        self._console = Console(file=sys.stdout)
        spinner = "dots" if self._console.encoding.startswith("utf") else "line"
        text = "Compiling the training step"
        self._status = self._console.status(text, spinner=spinner) if self._console.is_terminal else None
        self._since: float | None = None
        self._begin, self._seen = time.monotonic(), (0, 0.0)
        self._activity = reporter.start(self._text)
        self.steps = 0
        if self._status:
            self._status.start()

    def update(self, step: int, loss: float) -> None:
        """Shows where the run is; the first call, with compilation behind it, starts the clock."""
        self._seen = step, loss
        if self._since is None:
            self._since = time.monotonic()
            return
        self.steps += 1
        if self._status:
            self._status.update(self._text())

    def _text(self) -> str:
        """Where the run is, for whoever asks."""
        step, loss = self._seen
        if not self.steps:
            return f"compiling the training step, {minutes(time.monotonic() - self._begin)} so far"
        speed = self.images_per_second
        left = minutes((self._total - step) * self._batch_size / speed)
        return f"step {step}/{self._total}  loss {loss:.3f}  {speed:,.0f} img/s  {left} left"

    def pause(self, seconds: float) -> None:
        """Takes time spent elsewhere, on evaluation, off the clock."""
        if self._since is not None:
            self._since += seconds

    @property
    def images_per_second(self) -> float:
        """Of training since the first step."""
        if self._since is None or not self.steps:
            return 0.0
        return self.steps * self._batch_size / max(time.monotonic() - self._since, 1e-9)

    def print(self, text: str) -> None:
        """One lasting line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        reporter.heard()

    def close(self) -> None:
        reporter.stop(self._activity)
        if self._status:
            self._status.stop()


def command_line(*, without: Sequence[str] = ()) -> str | None:
    """The command that this process was started with; ``None`` where no module of this package was.

    Args:
        without: Flags that are left out.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None or not spec.name.startswith("tvconv_jax."):
        return None
    arguments = [argument for argument in sys.argv[1:] if argument not in without]
    return shlex.join(["python", "-m", spec.name.removesuffix(".__main__"), *arguments])


def device_description() -> str:
    """The devices and their number; cores and the processor where they are CPUs."""
    kind, count = jax.devices()[0].device_kind, cores()
    about = f" ({count} core{'s' if count > 1 else ''}: {processor()})" if kind == "cpu" else ""
    return f"{jax.device_count()} x {kind}{about}"
