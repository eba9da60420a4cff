"""Pictures of a set under other labels."""

from collections.abc import Sequence

import numpy as np

from tvconv_jax.data.records import Record, Source, read


class Relabelled:
    """Random access to some pictures of a source, or to all.

    Args:
        source: The whole set.
        index: Which pictures, ``int [n]``.
        label: Of each, ``int [n]``.
    """

    def __init__(self, source: Source, index: np.ndarray, label: np.ndarray) -> None:
        self._source, self._index, self._label = source, index, label

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
