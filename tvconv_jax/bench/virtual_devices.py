"""Any number of virtual devices, which XLA emulates on a CPU in a process of its own."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from tvconv_jax.utils.errors import UserError

COUNT = "--xla_force_host_platform_device_count"
# A plan is compiled and never run, so machine code may be slow; the program and its memory are the same.
QUICK = "--xla_backend_optimization_level=0"


def ensure(devices: int, arguments: Sequence[str], environment: Mapping[str, str] = MappingProxyType({})) -> None:
    """Restart the process with virtual devices unless it has them; XLA reads their number only once.

    Args:
        devices: Their number.
        arguments: ``-m`` and the arguments after it, for the restart.
        environment: Further variables, unless they are set.

    Raises:
        UserError: If the number is not between 1 and 4096.
    """
    if not 1 <= devices <= 4096:
        raise UserError(f"--devices={devices} must be between 1 and 4096.")
    flags = os.environ.get("XLA_FLAGS", "")
    wanted = f"{COUNT}={devices}"
    if wanted in flags.split() and os.environ.get("JAX_PLATFORMS") == "cpu" and environment.keys() <= os.environ.keys():
        return
    flags = re.sub(rf"({COUNT}|{QUICK.partition('=')[0]})=\S+", "", flags)
    own = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{flags} {QUICK} {wanted}".strip()}
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *arguments], {**environment, **os.environ, **own})
