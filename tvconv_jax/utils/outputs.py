"""Protection of the user's files where a command writes."""

import sys
from collections.abc import Iterable
from pathlib import Path

from tvconv_jax.utils.errors import UserError


def announce_overwrite(path: Path) -> Path:
    """Print a note if a file that the user named exists and will be overwritten; return its path."""
    if path.is_file():
        print(f"note: {path} existed and is overwritten", file=sys.stderr)
    return path


def check_unclaimed(folder: Path, names: Iterable[str], *, marker: str, flag: str) -> None:
    """Raise a ``UserError`` for a folder with files that a command would overwrite but did not write.

    Args:
        folder: The folder that the user named.
        names: Names of the files that the command writes there.
        marker: The first file that the command writes; where it exists, the others are the command's own.
        flag: The flag that named the folder, for the message.
    """
    if (folder / marker).is_file():
        return
    if foreign := [name for name in sorted(names) if (folder / name).exists() or (folder / name).is_symlink()]:
        raise UserError(
            f"{folder} holds {foreign[0]}, which would be overwritten, but no {marker} says that this command wrote "
            f"it; choose another {flag}, or move it away."
        )
