"""The part of a training set that a list keeps, as ``purify`` writes it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from tvconv_jax.data.records import Record, Source, read
from tvconv_jax.errors import UserError


class KeptFaces:
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
        self._source = source
        index = {short_name(source.name(i)): i for i in range(len(source))}
        missing = [name for name in wanted if name not in index]
        if missing:
            raise UserError(
                f"{path} names {missing[0]!r}{f' and {len(missing) - 1} more' if missing[1:] else ''}, which the "
                f"training set has not; give the list that was made from this set, as data.keep."
            )
        self._index = np.sort(np.array([index[name] for name in wanted], np.int64))
        found, self._label = np.unique([source[int(i)]["label"] for i in self._index], return_inverse=True)
        self.identities = len(found)
        if self.identities < 2:
            raise UserError(f"{path} keeps {self.identities} identity; training needs two or more.")
        self.note = f"kept {len(self)} of {len(source)} pictures, {self.identities} identities, by {path}"

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Record:
        return self._source[int(self._index[index])] | {"label": int(self._label[index])}

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        records = read(self._source, [int(self._index[int(index)]) for index in indices])
        return [
            record | {"label": int(self._label[int(index)])} for record, index in zip(records, indices, strict=True)
        ]

    def name(self, index: int) -> str:
        """Name of one picture, for messages."""
        return self._source.name(int(self._index[index]))


def short_name(name: str) -> str:
    """``identity/file`` of a picture's name, wherever its set lies; other names as they are."""
    return "/".join(Path(name).parts[-2:])


def read_kept(path: Path) -> list[str]:
    """Names from a list, one a line, each once.

    Raises:
        UserError: If the file is missing, empty, or no text.
    """
    try:
        names = list(dict.fromkeys(filter(None, path.read_text().splitlines())))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.keep {path} cannot be read ({error}); give the list that purify wrote.") from None
    if not names:
        raise UserError(f"data.keep {path} is empty; give the list that purify wrote.")
    return names


def write_kept(path: Path, names: Iterable[str]) -> None:
    """Writes such a list, whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text("".join(f"{short_name(name)}\n" for name in names))
    part.rename(path)
