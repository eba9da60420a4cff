"""RecordIO, the ``.rec`` and ``.idx`` files of MXNet, read and written without MXNet.

A record has one part or several, each ``u32 magic | u32 flag << 29 | length | bytes | zeros up to 4``, little-endian.
Flag 0 is a whole record, 1 the first part, 2 a middle one, 3 the last. A writer cuts a record at every magic that
stands at a multiple of four in it, and leaves that magic out; a reader puts it back. An index names each record by a
key: lines ``key <tab> offset``. Source: dmlc-core ``include/dmlc/recordio.h``, ``src/recordio.cc`` (Apache-2.0).
"""

import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import check_absent, sync, write_text
from tvconv_jax.utils.signatures import describe, describe_instead_of_text
from tvconv_jax.utils.storage import lock

MAGIC_WORD = 0xCED7230A
MAGIC = struct.pack("<I", MAGIC_WORD)
WHOLE, FIRST, MIDDLE, LAST = range(4)
MAX_LENGTH = 2**29 - 1


class RecordFile:
    """Records of one ``.rec`` by byte offset; memory-mapped, and opened again by a process that unpickles it.

    Raises:
        UserError: If there is no such file, or it is empty. All methods: if an offset is not the start of a whole
            record; the message names file and offset.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_file():  # a pipe would block without end
            raise UserError(f"{path} is not a file; name a .rec file.")
        try:
            with open(self.path, "rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); name a .rec file.") from None
        except ValueError:  # nothing to map
            raise UserError(f"{path} is empty; it must hold at least one record.") from None

    def __reduce__(self) -> tuple:
        return RecordFile, (self.path,)

    def __len__(self) -> int:
        return len(self._bytes)

    def read(self, offset: int) -> bytes:
        """Return the record that starts at ``offset``."""
        return MAGIC.join(self._bytes[start:stop] for start, stop in self._parts(offset))

    def scan(self) -> np.ndarray:
        """Return the offsets of all records, ``int64``, by walking over the file."""
        offsets, offset = [], 0
        while offset < len(self):
            offsets.append(offset)
            offset = self.end(offset)
        return np.array(offsets, np.int64)

    def end(self, offset: int) -> int:
        """Return the offset behind a record and its padding, which may lie behind the end of the file."""
        *_, (_, stop) = self._parts(offset)
        return stop + -stop % 4

    def has_gaps(self, offsets: np.ndarray) -> bool:
        """Return whether there are bytes between the records at these offsets, before or behind them."""
        starts, inside = np.sort(offsets), (offsets >= 0) & (offsets + 8 <= len(self))
        if not inside.all():
            raise self._error(int(offsets[~inside][0]), f"the file ends at byte {len(self)}")
        whole, ends = self._headers(starts)
        ends += starts + 8
        ends += -ends % 4
        for row in np.flatnonzero(~whole):
            ends[row] = self.end(int(starts[row]))
        return bool(starts[0] > 0 or (starts[1:] != ends[:-1]).any() or ends[-1] < len(self))

    def heads(self, offsets: np.ndarray, size: int) -> np.ndarray:
        """Return the first ``size`` bytes of many records, ``uint8 [n, size]``; zeros where one is shorter."""
        inside = offsets + 8 + size <= len(self)
        whole, lengths = self._headers(np.where(inside, offsets, 0))
        plain = inside & whole & (lengths >= size)
        heads = np.zeros((len(offsets), size), np.uint8)
        heads[plain] = np.frombuffer(self._bytes, np.uint8)[offsets[plain][:, None] + np.arange(8, 8 + size)]
        for row in np.flatnonzero(~plain):  # cut into parts, short, or damaged
            head = self.read(int(offsets[row]))[:size]
            heads[row, : len(head)] = np.frombuffer(head, np.uint8)
        return heads

    def sizes(self, offsets: np.ndarray) -> np.ndarray:
        """Return the bytes of each record, ``int64 [n]``; -1 for a record that is cut into parts."""
        return np.where(*self._headers(offsets), -1)

    def _headers(self, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return whether a whole record starts at each offset, and the length in its header."""
        magics, words = np.frombuffer(self._bytes, np.uint8)[offsets[:, None] + np.arange(8)].view("<u4").T
        return (magics == MAGIC_WORD) & (words >> 29 == WHOLE), (words & MAX_LENGTH).astype(np.int64)

    def _parts(self, offset: int) -> Iterator[tuple[int, int]]:
        expected = (WHOLE, FIRST)
        while True:
            if not 0 <= offset <= len(self) - 8:
                raise self._error(offset, f"the file ends at byte {len(self)}; it is truncated or its index is not its")
            magic, word = self._bytes[offset : offset + 4], struct.unpack_from("<I", self._bytes, offset + 4)[0]
            flag, start = word >> 29, offset + 8
            stop = start + (word & MAX_LENGTH)
            if magic != MAGIC:
                what = None if self._bytes[:4] == MAGIC else describe(self._bytes[:512])
                raise self._error(
                    offset, f"the file is {what}" if what else f"there is {magic.hex()}, not the magic {MAGIC.hex()}"
                )
            if flag not in expected:
                raise self._error(offset, f"its part flag is {flag}, where one of {expected} belongs")
            if stop > len(self):
                raise self._error(offset, f"it ends at byte {stop}, but the file at {len(self)}; it is truncated")
            yield start, stop
            if flag in (WHOLE, LAST):
                return
            offset, expected = stop + -stop % 4, (MIDDLE, LAST)

    def _error(self, offset: int, reason: str) -> UserError:
        return UserError(f"{self.path}: no record can be read at byte {offset}: {reason}. Get the file again.")


class RecordWriter:
    """A writer of a ``.rec`` and its ``.idx``; both get their names only when all is written.

    Args:
        path: The ``.rec`` to write; a ``UserError`` if it or its index exists already.
        resume: Up to how many records, of the keys 0, 1, ..., are taken over from a writer that was stopped; ``taken``
            has their offsets in ``path.part``, where all written records stay, whatever stops this writer.
        check: Called with these offsets before anything is written; if it raises, the file is unchanged.
    """

    def __init__(self, path: Path, *, resume: int = 0, check: Callable[[list[int]], None] = lambda taken: None) -> None:
        self.path, self._resume = Path(path), resume
        index, part = index_path(self.path), _part(self.path)
        # A writer that was killed between its two last steps left its index beside the part.
        check_absent(self.path, *(() if part.exists() else (index,)))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock, _ = lock(part, wait=False, mode="ab")
        except BlockingIOError:
            raise UserError(f"{part} is being written by another process; wait for it, or choose another.") from None
        try:
            if self.path.exists():  # another process wrote it after the first check
                part.unlink()
                check_absent(self.path)
            self.taken, end = _whole_records(part, resume) if resume else ([], 0)
            check(self.taken)
        except BaseException:
            self._lock.close()
            raise
        self._records = open(part, "r+b")  # noqa: SIM115
        self._records.truncate(end)
        self._records.seek(end)
        self._index = open(_part(index), "w")  # noqa: SIM115
        self._index.write(_index_lines(enumerate(self.taken)))

    def write(self, key: int, payload: bytes) -> None:
        """Append a record under ``key``; raise a ``ValueError`` if it is longer than the format allows."""
        if len(payload) > MAX_LENGTH:
            raise ValueError(f"record {key} has {len(payload)} bytes; RecordIO holds up to {MAX_LENGTH}.")
        self._index.write(_index_lines([(key, self._records.tell())]))
        self._records.write(framed(payload))

    def rewrite_first(self, payload: bytes) -> None:
        """Replace the payload of the first record by one of the same length, without the magic in it."""
        self._records.seek(0)
        self._records.write(framed(payload))
        self._records.seek(0, os.SEEK_END)

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:  # until both files have their names
            for file, path in ((self._index, index_path(self.path)), (self._records, self.path)):
                file.close()
                if kind is None:
                    sync(_part(path))
                    _part(path).rename(path)
                elif not self._resume:
                    _part(path).unlink()


def _whole_records(path: Path, count: int) -> tuple[list[int], int]:
    """Return the offsets of the first whole records of a file that ends anywhere, and the end of the last of them."""
    offsets, end = [], 0
    try:
        file = RecordFile(path)
        while len(offsets) < count and end < len(file):
            start, end = end, file.end(end)
            if end > len(file):  # without its padding
                return offsets, start
            offsets.append(start)
    except UserError:
        pass
    return offsets, end


def framed(payload: bytes) -> bytes:
    """Return a record as in a file: cut at every aligned magic, each part with its header, padded to 4 bytes."""
    words = np.frombuffer(payload, "<u4", len(payload) // 4)
    cuts = (4 * np.flatnonzero(words == MAGIC_WORD)).tolist()
    starts, stops = [0, *(cut + 4 for cut in cuts)], [*cuts, len(payload)]
    flags = [FIRST, *[MIDDLE] * (len(cuts) - 1), LAST] if cuts else [WHOLE]
    parts = (
        MAGIC + struct.pack("<I", flag << 29 | stop - start) + payload[start:stop]
        for flag, start, stop in zip(flags, starts, stops, strict=True)
    )
    return b"".join(parts) + bytes(-stops[-1] % 4)


def read_index(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read an ``.idx``: keys in ascending order and the offset of each, ``int64 [n]``.

    Raises:
        UserError: If it cannot be read, a line is not a pair of whole numbers, a key is below 0, or a key or an
            offset appears twice.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a file.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    try:
        keys, offsets = np.array(data.split(), np.int64).reshape(-1, 2).T
    except (ValueError, OverflowError):
        what = describe_instead_of_text(data) or "not an index"
        raise UserError(f"{path} is {what}: its lines must be 'key offset', two whole numbers.") from None
    order = np.argsort(keys, kind="stable")
    keys, offsets = keys[order], offsets[order]
    if (twice := keys[1:][keys[1:] == keys[:-1]]).size:
        raise UserError(f"{path} names key {twice[0]} twice; every record has a key of its own.")
    if keys.size and keys[0] < 0:
        raise UserError(f"{path} names key {keys[0]}; keys are 0 or more.")
    if len(np.unique(offsets)) < len(offsets):
        raise UserError(f"{path} gives two keys one offset; every record has a place of its own.")
    return keys, offsets


def write_index(path: Path, keys: np.ndarray, offsets: np.ndarray) -> None:
    """Write an ``.idx``, whole or not at all."""
    write_text(path, _index_lines(zip(keys.tolist(), offsets.tolist(), strict=True)))


def _index_lines(entries: Iterable[tuple[int, int]]) -> str:
    return "".join(f"{key}\t{offset}\n" for key, offset in entries)


def index_path(records: Path) -> Path:
    """Return the path of the ``.idx`` that belongs to a ``.rec``."""
    return records.with_suffix(".idx")


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")
