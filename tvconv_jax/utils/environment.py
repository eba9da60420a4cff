"""What this process may use of the machine, and what the machine is."""

import os
import platform
from pathlib import Path


def cores() -> int:
    """Cores that this process may use: of a run on cores of its own, fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor(said: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name; with family and model where it has them, for a virtual machine's name may say little.

    Args:
        said: What Linux says of it; where there is none, the name is the architecture's.
    """
    lines = said.read_text(errors="replace").splitlines() if said.exists() else []
    first = dict((part.strip() for part in line.split(":", 1)) for line in reversed(lines) if ":" in line)
    name = first.get("model name") or first.get("Model") or platform.processor() or platform.machine()
    return name + (f", family {first['cpu family']}, model {first['model']}" if "cpu family" in first else "")
