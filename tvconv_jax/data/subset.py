"""The part of a training set that a list keeps, as ``purify`` writes it."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tvconv_jax.data.records import Source
from tvconv_jax.data.relabelled import Relabelled
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import posix, read_lines, write_text


class KeptFaces(Relabelled):
    """Random access to the pictures of a source that a list names; identities without one are gone.

    Args:
        source: The whole set.
        path: The list; see :func:`read_kept`.

    Attributes:
        identities: How many are left; labels are 0 to ``identities - 1``, in the order of the whole set's.
        note: What was kept, in a line.

    Raises:
        UserError: If the list is missing, or names a picture that the set has not, or fewer than two identities stay.
    """

    def __init__(self, source: Source, path: Path) -> None:
        wanted = read_kept(path)
        names = [short_name(source.name(i)) for i in range(len(source))]
        index = {name: i for i, name in enumerate(names)}
        missing = [name for name in wanted if name not in index]
        if missing:
            raise UserError(
                f"{path} names {missing[0]!r}{f' and {len(missing) - 1} more' if missing[1:] else ''}, which the "
                f"training set has not; give the list that was made from this set, as data.include_list."
            )
        counts = Counter(names)
        twice = next((name for name in wanted if counts[name] > 1), "")
        if twice:
            raise UserError(f"{path} names {twice!r}, as several images of the training set are called; rename them.")
        kept = np.sort(np.array([index[name] for name in wanted], np.int64))
        found, labels = np.unique([source[int(i)]["label"] for i in kept], return_inverse=True)
        super().__init__(source, kept, labels)
        self.identities = len(found)
        if self.identities < 2:
            raise UserError(f"{path} keeps {self.identities} identity; training needs two or more.")
        self.note = f"kept {len(self)} of {len(source)} pictures, {self.identities} identities, by {path}"


def short_name(name: str) -> str:
    """``identity/file`` of a picture's name, wherever its set lies; other names as they are."""
    return "/".join(Path(name).parts[-2:])


def read_kept(path: Path) -> list[str]:
    """Names from a list, one a line, each once; of a path the last two parts count, with slashes or backslashes.

    Raises:
        UserError: If the file is missing, empty, or no text.
    """
    lines = read_lines(path, "give the list that purify wrote, as data.include_list")
    names = list(dict.fromkeys(short_name(posix(line)) for line in lines if line.strip()))
    if not names:
        raise UserError(f"data.include_list {path} is empty; give the list that purify wrote.")
    return names


def write_kept(path: Path, names: Iterable[str]) -> None:
    """Writes such a list, whole or not at all."""
    write_text(path, "".join(f"{short_name(name)}\n" for name in names))
