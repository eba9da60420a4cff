"""The progress of a run: a live line on a terminal, else a plain line at least every half minute."""

import sys
import time

from rich.console import Console

from tvconv_jax.utils.progress import minutes, reporter


class ProgressLine:
    """Step, loss, images/s and time left.

    Args:
        total: Steps of the whole run.
        batch_size: Images in a step.

    Attributes:
        steps: Number of timed steps.
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
        """Show a step; the first call, after compilation, starts the clock."""
        self._seen = step, loss
        if self._since is None:
            self._since = time.monotonic()
            return
        self.steps += 1
        if self._status:
            self._status.update(self._text())

    def _text(self) -> str:
        step, loss = self._seen
        if not self.steps:
            return f"compiling the training step, {minutes(time.monotonic() - self._begin)} so far"
        speed = self.images_per_second
        left = minutes((self._total - step) * self._batch_size / speed)
        return f"step {step}/{self._total}  loss {loss:.3f}  {speed:,.0f} images/s  {left} left"

    def pause(self, seconds: float) -> None:
        """Take time of an evaluation off the clock."""
        if self._since is not None:
            self._since += seconds

    @property
    def images_per_second(self) -> float:
        """Speed of training since the first step."""
        if self._since is None or not self.steps:
            return 0.0
        return self.steps * self._batch_size / max(time.monotonic() - self._since, 1e-9)

    def print(self, text: str) -> None:
        """Print a lasting line; the next line of progress does not wait for it."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Give the terminal back."""
        reporter.stop(self._activity)
        if self._status:
            self._status.stop()
