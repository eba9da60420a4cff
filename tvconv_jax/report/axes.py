"""An axis of a drawing: from values to places, and where its ticks are."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Axis(NamedTuple):
    """From a value to a place in 0..1.

    Attributes:
        low: Value at 0.
        high: Value at 1.
        log: Whether decades are equally long.
    """

    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, 0..1; what is beyond an end lies at the end."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, max(value, self.low)))
        return min(1.0, (value - low) / (high - low))

    @property
    def ticks(self) -> list[float]:
        """Round values, three to seven or so."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            every = max(1, round((last - first) / 5))
            return [10.0**power for power in range(first, last + 1, every)]
        step = _step(self.high - self.low)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [step * number for number in range(first, last + 1)]


def linear_axis(values: Sequence[float], *, margin: float = 0.05) -> Axis:
    """An axis on which all values fit, with some room, and not below zero unless they are."""
    low, high = min(values), max(values)
    room = margin * (high - low) or abs(high) * 0.1 or 1.0
    return Axis(low - room if low < 0 else max(0.0, low - room), high + room)


def log_axis(values: Sequence[float]) -> Axis:
    """An axis of whole decades on which all values, which are above zero, fit, to the rounding of float32."""
    low, high = math.floor(math.log10(min(values)) + 1e-6), math.ceil(math.log10(max(values)) - 1e-6)
    return Axis(10.0**low, 10.0 ** max(high, low + 1), log=True)


def tick_text(value: float) -> str:
    """A tick's value, short."""
    if value == 0:
        return "0"
    if abs(value) >= 1000 and value == round(value):
        return f"{value:,.0f}"
    return f"{value:.3g}" if 1e-4 < abs(value) < 1e6 else f"{value:.0e}".replace("e-0", "e-")


def _step(span: float) -> float:
    """The round number, 1, 2 or 5 times a power of ten, of which five or so make the span."""
    power = 10 ** math.floor(math.log10(span / 5))
    return next(power * times for times in (1, 2, 5, 10) if span / (power * times) <= 6)
