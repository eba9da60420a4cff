"""The command, the machine and the versions of packages, for results that should be reproducible."""

import importlib.metadata
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def provenance(seed: int, images_per_second: float | None) -> dict[str, Any]:
    """Return the last keys of ``results.json``, the same for every task; the speed is ``None`` if it is not known."""
    return {
        "images_per_second": images_per_second,
        "device": device_description(),
        "seed": seed,
        "command": command_line(),
        "versions": versions(),
    }


def command_line(*, without: Sequence[str] = ()) -> str | None:
    """Return the command of this process, ``without`` some flags; ``None`` if it is not a module of this package."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None or not spec.name.startswith("tvconv_jax."):
        return None
    arguments = [argument for argument in sys.argv[1:] if argument not in without]
    return shlex.join(["python", "-m", spec.name.removesuffix(".__main__"), *arguments])


def device_description() -> str:
    """Return the number and kind of devices; for CPUs their cores and processor, too."""
    import jax  # late: other commands need no devices

    kind, count = jax.devices()[0].device_kind, cores()
    about = f" ({count} core{'s' if count > 1 else ''}: {processor()})" if kind == "cpu" else ""
    return f"{jax.device_count()} x {kind}{about}"


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name, with family and model, for the name may say little on a virtual machine."""
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else []
    first = dict((part.strip() for part in line.split(":", 1)) for line in reversed(lines) if ":" in line)
    name = first.get("model name") or first.get("Model") or platform.processor() or platform.machine()
    return name + (f", family {first['cpu family']}, model {first['model']}" if "cpu family" in first else "")


def versions(*more: str) -> dict[str, str]:
    """Return the versions of Python, of this package, of its main dependencies and of further packages."""
    names = ("tvconv_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    found = {"python": platform.python_version()}
    for name in (*names, *more):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
            found[name] = "not installed"
    return found
