"""The protocol of a source of images: random access to encoded images with a label and a name."""

from collections.abc import Sequence
from typing import Protocol, TypedDict


class Record(TypedDict):
    """One encoded image."""

    image: bytes
    label: int
    name: str


class Source(Protocol):
    """Random access to encoded images. It can be pickled, so worker processes can read it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def name(self, index: int) -> str:
        """Return the name of one image, for messages."""
        ...


def read(source: Source, indices: Sequence[int]) -> list[Record]:
    """Read many images, with one call of ``__getitems__`` where the source has it (several times faster)."""
    if not len(indices):  # array records raise an error for no indices
        return []
    many = getattr(source, "__getitems__", None)
    return many(indices) if many else [source[index] for index in indices]
