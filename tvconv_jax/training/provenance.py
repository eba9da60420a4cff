"""Provenance of results: command, devices, versions."""

import shlex
import sys
from collections.abc import Sequence
from typing import Any

import jax

from tvconv_jax.utils.environment import cores, processor, versions


def provenance(seed: int, images_per_second: float | None) -> dict[str, Any]:
    """Return the last keys of ``results.json``, the same for every task.

    Args:
        seed: Of the run.
        images_per_second: While training; ``None`` if it is not known.
    """
    return {
        "images_per_second": images_per_second,
        "device": device_description(),
        "seed": seed,
        "command": command_line(),
        "versions": versions(),
    }


def command_line(*, without: Sequence[str] = ()) -> str | None:
    """Return the command of this process; ``None`` if it did not start as a module of this package.

    Args:
        without: Flags that are left out.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None or not spec.name.startswith("tvconv_jax."):
        return None
    arguments = [argument for argument in sys.argv[1:] if argument not in without]
    return shlex.join(["python", "-m", spec.name.removesuffix(".__main__"), *arguments])


def device_description() -> str:
    """Return the number and kind of devices; for CPUs their cores and processor, too."""
    kind, count = jax.devices()[0].device_kind, cores()
    about = f" ({count} core{'s' if count > 1 else ''}: {processor()})" if kind == "cpu" else ""
    return f"{jax.device_count()} x {kind}{about}"
