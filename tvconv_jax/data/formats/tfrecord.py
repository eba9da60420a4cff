"""TFRecord files, as of TFDS sets that were prepared with TensorFlow, read without it.

A record is ``u64 length | u32 checksum | bytes | u32 checksum``, little-endian; the checksums are not checked.
Source: tensorflow.org/tutorials/load_data/tfrecord.
"""

import bisect
import mmap
import struct
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from tvconv_jax.utils.errors import UserError

HEADER = struct.Struct("<Q4x")
CHECKSUM = 4


class TFRecords:
    """Random access to the records of several files, one file after the other; memory-mapped.

    Raises:
        UserError: If a file is missing or truncated.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [_map_file(path) for path in paths]
        self._spans = [_spans(data, path) for data, path in zip(self._files, paths, strict=True)]
        self._ends = list(accumulate(map(len, self._spans)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> bytes:
        file = bisect.bisect_right(self._ends, index)
        start, stop = self._spans[file][index - self._ends[file]]
        return self._files[file][start:stop]


def _map_file(path: Path) -> mmap.mmap | bytes:
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); get the set again.") from None
    except ValueError:  # empty: a shard without records
        return b""


def _spans(data: mmap.mmap | bytes, path: Path) -> list[tuple[int, int]]:
    """Return the start and the stop of each record's bytes."""
    spans, offset = [], 0
    while offset < len(data):
        start = offset + HEADER.size
        stop = start + HEADER.unpack_from(data, offset)[0] if start <= len(data) else start
        if stop + CHECKSUM > len(data):
            raise UserError(f"{path}: the record at byte {offset} does not end within the file; get the set again.")
        spans.append((start, stop))
        offset = stop + CHECKSUM
    return spans
