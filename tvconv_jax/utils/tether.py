"""Child processes that are killed when their parent ends, even if it is killed.

The child runs this file first, ``python tether.py PARENT CORES COMMAND ...``, which becomes the command.
"""

import os
import sys
from collections.abc import Sequence


def tethered(command: Sequence[str], *, cores: Sequence[int] = ()) -> list[str]:
    """Return the command that runs another one tied to this process; start it from a thread that waits for it.

    Args:
        command: A program, looked up on the path, and its arguments.
        cores: Numbers of the cores that it may use, where the system supports it; empty: all.
    """
    return [sys.executable, "-IS", __file__, str(os.getpid()), ",".join(map(str, cores)), *command]


def _become(parent: str, cores: str, *command: str) -> None:
    if sys.platform == "linux":  # elsewhere a child outlives a killed parent
        import ctypes

        ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL, of linux/prctl.h: they last over the exec
        if cores:
            os.sched_setaffinity(0, map(int, cores.split(",")))
        if os.getppid() != int(parent):
            sys.exit("error: the parent ended before its child began.")
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"error: {command[0]}: {error.strerror}")


if __name__ == "__main__":
    _become(*sys.argv[1:])
