"""The machine and the versions of packages, for results that should be reproducible."""

import importlib.metadata
import os
import platform
from pathlib import Path


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
