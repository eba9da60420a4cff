"""As many devices as asked for, without any: XLA's CPU plays them in a process of its own."""

import os
import re
import sys
from collections.abc import Sequence

from tvconv_jax.utils.errors import UserError

COUNT = "--xla_force_host_platform_device_count"
# Nothing that is planned is run: machine code may be slow. What it computes, and its memory, are the same.
QUICK = "--xla_backend_optimization_level=0"


def ensure(devices: int, arguments: Sequence[str]) -> None:
    """Goes on if this process has the devices; else the process starts anew with them, for XLA reads them once.

    Args:
        devices: How many.
        arguments: ``-m`` and what follows it, to start anew.

    Raises:
        UserError: If there can be no such number.
    """
    if not 1 <= devices <= 4096:
        raise UserError(f"--devices={devices} must be between 1 and 4096.")
    flags = os.environ.get("XLA_FLAGS", "")
    wanted = f"{COUNT}={devices}"
    if wanted in flags.split() and os.environ.get("JAX_PLATFORMS") == "cpu":
        return
    flags = re.sub(rf"({COUNT}|{QUICK.partition('=')[0]})=\S+", "", flags)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{flags} {QUICK} {wanted}".strip()}
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *arguments], environment)
