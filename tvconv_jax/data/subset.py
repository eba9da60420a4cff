"""A part of a source, and the lists of images that choose one, as ``purify`` writes them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from tvconv_jax.data.source import Record, Source, read
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import posix, read_lines, write_text


class Subset:
    """Random access to some images of a source, ``indices``, in any order; ``None`` keeps their labels or names."""

    def __init__(
        self,
        source: Source,
        indices: Sequence[int] | np.ndarray,
        labels: Sequence[int] | np.ndarray | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self._source, self._indices, self._labels, self._names = source, indices, labels, names

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        records = read(self._source, [int(self._indices[index]) for index in indices])
        for place, i in enumerate(indices):
            label = {} if self._labels is None else {"label": int(self._labels[i])}
            name = {} if self._names is None else {"name": self._names[i]}
            records[place] = records[place] | label | name
        return records

    def name(self, index: int) -> str:
        """Return the name of one image, for messages."""
        return self._source.name(int(self._indices[index])) if self._names is None else self._names[index]


def select_listed(source: Source, path: Path) -> tuple[Subset, int]:
    """Select the images that a list names, see :func:`read_include_list`; identities without one are dropped.

    Returns:
        The images, and the number of their identities; labels are 0, 1, ... in the order of the whole set's.

    Raises:
        UserError: If the list is missing, names an image that the set does not have, or leaves fewer than two
            identities.
    """
    wanted = read_include_list(path)
    names = [short_name(source.name(i)) for i in range(len(source))]
    index_of = {name: i for i, name in enumerate(names)}
    missing = [name for name in wanted if name not in index_of]
    if missing:
        raise UserError(
            f"{path} names {missing[0]!r}{f' and {len(missing) - 1} more' if missing[1:] else ''}, which the "
            f"training set does not have; give the list that was made from this set, as data.include_list."
        )
    counts = Counter(names)
    if twice := [name for name in wanted if counts[name] > 1]:
        raise UserError(f"{path} names {twice[0]!r}, the name of several images of the training set; rename them.")
    indices = np.sort(np.array([index_of[name] for name in wanted], np.int64))
    identities, labels = np.unique([source[int(i)]["label"] for i in indices], return_inverse=True)
    if len(identities) < 2:
        raise UserError(f"{path} keeps {len(identities)} identity; training needs two or more.")
    return Subset(source, indices, labels), len(identities)


def short_name(name: str) -> str:
    """Return ``identity/file`` of an image's path; other names as they are."""
    return "/".join(Path(name).parts[-2:])


def read_include_list(path: Path) -> list[str]:
    """Read names from a list, one a line, without repeats; of a path the last two parts count, with / or backslash.

    A ``UserError`` is raised if the file is missing, empty, or not text.
    """
    lines = read_lines(path, "give the list that purify wrote, as data.include_list")
    names = list(dict.fromkeys(short_name(posix(line)) for line in lines if line.strip()))
    if not names:
        raise UserError(f"data.include_list {path} is empty; give the list that purify wrote.")
    return names


def write_include_list(path: Path, names: Iterable[str]) -> None:
    """Write such a list, whole or not at all."""
    write_text(path, "".join(f"{short_name(name)}\n" for name in names))
