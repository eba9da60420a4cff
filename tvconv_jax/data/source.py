"""Sources: random access to images, mostly encoded, with a label and a name."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypedDict

CHUNK = 1024  # records whose bytes are held at once


class Record(TypedDict):
    """One image."""

    image: Any  # its file's bytes; of a source that decoded it before, uint8 [h, w, 3]
    label: int
    name: str


class Source(Protocol):
    """Random access to encoded images. It can be pickled, so worker processes can read it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def name(self, index: int) -> str:
        """Return the name of one image, for messages."""
        ...


class LooseFiles:
    """Images read straight from their files; ``labels`` are 0 if not given."""

    def __init__(self, files: Sequence[Path], labels: Sequence[int] | None = None) -> None:
        self._files, self._labels = files, labels

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        return Record(image=self._files[index].read_bytes(), label=self.label(index), name=self.name(index))

    def label(self, index: int) -> int:
        """Return the label of one image, without reading it."""
        return 0 if self._labels is None else int(self._labels[index])

    def name(self, index: int) -> str:
        """Return the file's path."""
        return str(self._files[index])


def read(source: Source, indices: Sequence[int]) -> list[Record]:
    """Read many images, with one call of ``__getitems__`` where the source has it (several times faster)."""
    if not len(indices):  # array records raise an error for no indices
        return []
    many = getattr(source, "__getitems__", None)
    return many(indices) if many else [source[index] for index in indices]


def chunks(source: Source) -> Iterator[list[Record]]:
    """Yield all records in order, :data:`CHUNK` at once."""
    for start in range(0, len(source), CHUNK):
        yield read(source, range(start, min(start + CHUNK, len(source))))
