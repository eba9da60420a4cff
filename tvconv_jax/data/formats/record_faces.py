"""Faces in RecordIO, as MXNet's ImageRecord keeps them: ``train.rec``, ``train.idx``, ``property``.

A record is ``u32 flag | f32 label | u64 id | u64 id2`` little-endian, then, where flag > 0, flag labels f32 that
stand for the one before, then the picture. Face sets have a record 0 without a picture, labels ``[a, b]``: pictures
have the keys 1 to a - 1, and keys a to b - 1 are identities, whose labels ``[start, stop]`` are their pictures' first
key and the one behind the last. Sources: MXNet ``python/mxnet/recordio.py`` (Apache-2.0); deepinsight/insightface @
7fadd420 ``recognition/arcface_mxnet/common/rec_builder.py``.
"""

import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tvconv_jax.data.formats.record_index import read_index
from tvconv_jax.data.formats.recordio import RecordFile, RecordWriter, index_path
from tvconv_jax.data.source import Record
from tvconv_jax.data.tools.progress import track
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import write_text

HEADER = struct.Struct("<IfQQ")


class Content(NamedTuple):
    """What a record holds.

    Attributes:
        labels: ``float32 [n]``; one where the record has a scalar label.
        image: The encoded picture, empty in records that describe others.
        vector: Whether the labels stand behind the header.
    """

    labels: np.ndarray
    image: bytes
    vector: bool


def unpack(payload: bytes) -> Content:
    """Takes a record apart.

    Raises:
        ValueError: If it is shorter than its header says.
    """
    if len(payload) < HEADER.size:
        raise ValueError(f"it has {len(payload)} bytes, fewer than the header's {HEADER.size}")
    flag, label, _, _ = HEADER.unpack_from(payload)
    start = HEADER.size + 4 * flag
    if start > len(payload):
        raise ValueError(f"it has {len(payload)} bytes, fewer than the {start} of its header and {flag} labels")
    labels = np.frombuffer(payload, "<f4", flag, HEADER.size) if flag else np.array([label], np.float32)
    return Content(labels, payload[start:], flag > 0)


def pack(labels: float | Iterable[float], key: int, image: bytes = b"") -> bytes:
    """Puts a record together, with a scalar label or a vector of labels."""
    if isinstance(labels, (int, float)):
        return HEADER.pack(0, labels, key, 0) + image
    vector = np.asarray(list(labels), "<f4")
    return HEADER.pack(len(vector), 0, key, 0) + vector.tobytes() + image


class RecordFaces:
    """Random access to the pictures of a ``.rec``, in the order of their keys.

    Args:
        path: The ``.rec`` file. Without an ``.idx`` beside it that fits, it is walked over once; a record's key is then
            its id or, where ids are not unique, its place.

    Attributes:
        keys: ``int64 [n]``, the pictures' keys.
        offsets: ``int64 [n]``, where they start in the file.
        ranges: ``int64 [identities, 2]``, each identity's first key and the one behind its last; ``None`` where the
            file says nothing of it.
        labels: ``int64 [identities]``, the label in the file of each label that the pictures get here, 0, 1, ...
        label: ``int64 [n]``, the label that each picture gets here.
        note: Why the index is not used, or what it leaves out; empty otherwise.

    Raises:
        UserError: If the file is missing or damaged; an index that does not fit is set aside.
    """

    def __init__(self, path: Path) -> None:
        self.file, self.note = RecordFile(path), ""
        index = index_path(self.file.path)
        try:
            self._open(*(self._indexed(index) if os.path.lexists(index) else walk(self.file)))
        except UserError as error:
            self._open(*walk(self.file))  # an index may help, but it never closes a file that can be walked over
            self.note = f"{index} is not used, and the {len(self)} pictures are found without it: {error}"

    def _open(self, keys: np.ndarray, offsets: np.ndarray) -> None:
        self.keys, self.offsets, self.ranges = keys, offsets, None
        first = self._content(0)
        if keys[0] == 0 and first.vector and not first.image:
            self._take_header(first.labels)
        # The file's labels, whatever whole numbers they are, as 0 to identities - 1.
        self.labels, self.label = np.unique(self._read_labels(), return_inverse=True)

    def _indexed(self, index: Path) -> tuple[np.ndarray, np.ndarray]:
        """Keys and offsets from the index, if all of these are in the file."""
        keys, offsets = read_index(index)
        if not len(keys):
            raise UserError(f"{index} names no record.")
        outside = offsets[(offsets < 0) | (offsets >= len(self.file))]
        if outside.size:
            raise UserError(
                f"{index} names {len(keys)} records, at offsets up to {offsets.max()}, but {self.file.path} has "
                f"{len(self.file)} bytes."
            )
        if self.file.gaps(offsets):
            self.note = f"{index} names {len(keys)} records, and {self.file.path.name} holds more: these are left out"
        return keys, offsets

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Record:
        content = self._content(int(index))
        return Record(image=content.image, label=int(self.label[index]), name=self.name(index))

    def name(self, index: int) -> str:
        """What a picture is called in messages: its file's name and its key."""
        return f"{self.file.path.name}:{self.keys[int(index)]}"

    def _read_labels(self) -> np.ndarray:
        """The first label of every picture, ``int64``, without reading the pictures."""
        heads = self.file.heads(self.offsets, HEADER.size + 4)
        flags, scalars = heads[:, :8].copy().view("<u4")[:, 0], heads[:, 4:8].copy().view("<f4")[:, 0]
        # A record of an identity among the pictures means that the one at the start, which tells them apart, is lost.
        alone = np.flatnonzero(
            (flags > 0) & (self.file.sizes(self.offsets) == HEADER.size + 4 * flags.astype(np.int64))
        )
        if alone.size:
            raise self._error(int(alone[0]), "it holds labels and no picture, as records of identities do")
        labels = np.where(flags > 0, heads[:, HEADER.size :].copy().view("<f4")[:, 0], scalars)
        wrong = np.flatnonzero((labels != np.trunc(labels)) | ~(np.abs(labels) < 2**31))
        if wrong.size:
            raise self._error(wrong[0], f"its label {labels[wrong[0]]} is not a whole number")
        return labels.astype(np.int64)

    def _content(self, index: int) -> Content:
        try:
            return unpack(self.file.read(int(self.offsets[index])))
        except ValueError as error:
            raise self._error(index, str(error)) from None

    def _take_header(self, labels: np.ndarray) -> None:
        """Splits pictures from identities, as record 0 says."""
        stop, end = (int(label) for label in labels) if labels.size == 2 and np.isfinite(labels).all() else (0, 0)
        if not 1 < stop <= end or not np.array_equal(self.keys[:end], np.arange(end)):
            raise self._error(
                0, f"it says {labels.tolist()}: pictures 1 to a - 1, identities a to b - 1, but those keys do not exist"
            )
        if len(self.keys) > end:
            self.note = f"record 0 says that there are {end} records, and {len(self.keys) - end} more are left out"
        ranges = [self._range(key, stop) for key in range(stop, end)]
        self.ranges = np.array(ranges, np.int64).reshape(-1, 2)
        self.keys, self.offsets = self.keys[1:stop], self.offsets[1:stop]

    def _range(self, key: int, stop: int) -> tuple[int, int]:
        labels = self._content(key).labels
        if labels.size != 2 or not 1 <= labels[0] <= labels[1] <= stop:
            raise self._error(
                key, f"its range of pictures {labels.tolist()} does not lie within the keys 1 to {stop - 1}"
            )
        return int(labels[0]), int(labels[1])

    def _error(self, index: int, reason: str) -> UserError:
        return UserError(
            f"{self.file.path}: record {self.keys[index]} at byte {self.offsets[index]} is damaged: {reason}. "
            f"Get the file anew."
        )


def walk(file: RecordFile) -> tuple[np.ndarray, np.ndarray]:
    """Keys in ascending order and offsets, ``int64 [n]`` each, from the records themselves: what an ``.idx`` holds."""
    offsets = file.scan()
    ids = file.heads(offsets, HEADER.size)[:, 8:16].copy().view("<u8")[:, 0]
    if len(np.unique(ids)) < len(ids) or ids.max() > np.iinfo(np.int64).max:
        return np.arange(len(offsets)), offsets
    order = np.argsort(ids)
    return ids[order].astype(np.int64), offsets[order]


def write_faces(
    path: Path, faces: Sequence[Record], *, size: tuple[int, int] | None = None, resume: bool = False
) -> int:
    """Writes pictures as MXNet's face sets lay them out: record 0, pictures, identities, and ``property``.

    Args:
        path: The ``.rec`` to write; its ``.idx`` and ``property`` come to lie beside it.
        faces: The pictures, those of an identity one after the other; labels are kept as they are.
        size: Height and width for ``property``; ``None`` writes none.
        resume: Whether to go on where a call with the same pictures was killed.

    Returns:
        The number of pictures.

    Raises:
        UserError: If a file exists, or the pictures of an identity do not stand together.
    """
    path = Path(path)
    if size and path.with_name("property").exists():
        raise UserError(f"{path.with_name('property')} exists and is not written over; remove it.")
    starts: dict[int, int] = {}
    begun = path.with_name(f"{path.name}.part")
    with RecordWriter(
        path, resume=len(faces) + 1 if resume else 0, check=lambda taken: _check_begun(begun, taken[1:], faces)
    ) as writer:
        done = _labels(begun, writer.taken[1:])
        if not writer.taken:
            writer.write(0, pack((0, 0), 0))  # its labels are known at the end
        previous = None
        for key in track(range(1, len(faces) + 1), total=len(faces), text=f"Writing {path.name}"):
            face = None if key <= len(done) else faces[key - 1]
            label = face["label"] if face else done[key - 1]
            if label != previous and label in starts:
                raise UserError(f"identity {label} comes back at picture {key}; sort the pictures by identity.")
            starts.setdefault(label, key)
            previous = label
            if face:
                writer.write(key, pack(float(label), key, face["image"]))
        bounds = [*starts.values(), len(faces) + 1]
        for identity, span in enumerate(zip(bounds, bounds[1:], strict=False), start=len(faces) + 1):
            writer.write(identity, pack(span, identity))
        writer.rewrite_first(pack((len(faces) + 1, len(faces) + 1 + len(starts)), 0))
    if size:
        write_text(path.with_name("property"), f"{max(starts, default=-1) + 1},{size[0]},{size[1]}\n")
    return len(faces)


def _check_begun(part: Path, offsets: Sequence[int], faces: Sequence[Record]) -> None:
    """Raises a ``UserError`` if the last picture that a call before has written is not one of these."""
    if offsets and unpack(RecordFile(part).read(offsets[-1])).image != faces[len(offsets) - 1]["image"]:
        raise UserError(f"{part} was begun with other pictures; remove it.")


def _labels(part: Path, offsets: Sequence[int]) -> list[int]:
    """Labels of the pictures that it has written."""
    file = RecordFile(part) if offsets else None
    return [int(unpack(file.read(offset)).labels[0]) for offset in offsets]
