"""Files that a command is about to write where the user said: what is there already is refused, or its end is told."""

import sys
from collections.abc import Iterable
from pathlib import Path

from tvconv_jax.utils.errors import UserError


def announce_overwrite(path: Path) -> Path:
    """Say that a file which is there is written over; for a file that the user named, or a figure in a named folder.

    Args:
        path: The file that is about to be written.

    Returns:
        The same path.
    """
    if path.is_file():
        print(f"note: {path} was there before and is written over", file=sys.stderr)
    return path


def check_unclaimed(folder: Path, names: Iterable[str], *, marker: str, flag: str) -> None:
    """Refuse a folder with files that a command would write over, where no earlier call of it has been.

    Args:
        folder: The folder that the user named.
        names: Of the files that the command writes there.
        marker: The first file that the command writes; where it is, the others are the command's own.
        flag: The flag that named the folder, for the message.

    Raises:
        UserError: If there are such files; names the first.
    """
    if (folder / marker).is_file():
        return
    if foreign := [name for name in sorted(names) if (folder / name).exists() or (folder / name).is_symlink()]:
        raise UserError(
            f"{folder} holds {foreign[0]}, which would be written over, but no {marker} says that this command wrote "
            f"it; choose another {flag}, or move it away."
        )
