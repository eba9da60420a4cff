"""One figure, a group of them, and the sizes of all."""

import dataclasses
from typing import Any

OPERATORS = ("tvconv", "depthwise")
# Of the PyTorch baseline; the last one is measured when all else is.
MODES = ("compiled", "eager", "channels-last", "compiled channels-last")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of a run; tiny ones try the command on a CPU and measure nothing of interest."""

    tiny: bool = False
    batch: int = 512  # of operators and training steps
    image_size: int = 96
    depth: float = 1.0
    copied: int = 2**30  # bytes that a copy reads
    runs: int = 5  # rounds of a timing
    face_batch: int = 256
    epochs: float = 38.0  # of the runs on faces, as in the paper
    learning_rates: tuple[float, ...] = (0.05, 0.15, 0.4)
    seeds: tuple[int, ...] = (0, 1, 2)


TINY = Sizes(True, 4, 16, 0.1, 2**20, 1, 4, 1.0, (0.05,), (0, 1))


@dataclasses.dataclass(frozen=True)
class Item:
    """One line of the output file: what it is, and the settings that tell it from all others."""

    what: str  # "copy", "operator", "step" or "accuracy"
    settings: dict[str, Any]
    learning_rate: float | None = None  # of a run whose settings leave it to be chosen

    def is_in(self, row: dict[str, Any]) -> bool:
        """Return whether a line of the file is this one."""
        return row.get("what") == self.what and all(row.get(name) == value for name, value in self.settings.items())

    def __str__(self) -> str:
        return " ".join([self.what, *(str(value) for value in self.settings.values())])


@dataclasses.dataclass
class Group:
    """Items that one process measures, in sets that compile at the same time."""

    side: str  # the module of the process: "jax_side" or "torch_side"
    sets: list[list[Item]]
