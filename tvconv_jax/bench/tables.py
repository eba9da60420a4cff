"""Parts that tables share: options, timing points, images/s, bytes."""

import argparse
import importlib
from collections.abc import Sequence
from types import ModuleType

from tvconv_jax.edge import benchmark
from tvconv_jax.utils.cli import number
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.extras import require

MISTAKES = (UserError, benchmark.Mistake)


def add_speed_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--batch`` and ``--seconds``."""
    add = parser.add_argument
    add("--batch", type=batch_sizes, default=[1, 8, 16], help="default: 1,8,16; 1 is always among them")
    add("--seconds", type=number(0), default=1.0, help="per row, batch and number of threads; default 1")


def batch_sizes(text: str) -> list[int]:
    """Parse ``"8,16"`` as ``[1, 8, 16]``, for argparse; batch 1 has a column of its own."""
    values = sorted({1, *map(int, text.split(","))})
    if values[0] < 1:
        raise argparse.ArgumentTypeError(f"{values[0]} must be at least 1")
    return values


def timing_points(batches: Sequence[int]) -> list[tuple[int, int]]:
    """Return all pairs of a batch size and a number of threads, one and all cores."""
    return [(batch, threads) for batch in batches for threads in sorted({1, benchmark.cores()})]


def images_per_second(points: Sequence[dict[str, float]], batch: int | None = None) -> float:
    """Return the best images/s over threads, and over batch sizes unless one is given."""
    return max(point["images_per_second"] for point in points if batch in (None, point["batch"]))


def format_bytes(number: float) -> str:
    """Return a number of bytes with its unit."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:.3g} {unit}" if number < 1000 * factor else f"{number / factor:,.0f} {unit}"
    return f"{number:.0f} B"


def onnx_modules() -> tuple[ModuleType, ModuleType]:
    """Return the modules that write ONNX files and time them.

    Raises:
        UserError: If a package of the ``export`` extra is missing.
    """
    require("export", "onnx", "onnxruntime")
    writer, speed = (importlib.import_module(f"tvconv_jax.export.onnx.{name}") for name in ("writer", "speed"))
    return writer, speed
