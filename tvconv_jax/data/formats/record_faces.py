"""Face sets in RecordIO, as records of MXNet's ImageRecord: ``train.rec``, ``train.idx``, ``property``.

A record is ``u32 flag | f32 label | u64 id | u64 id2``, little-endian, and then the image. If flag > 0, that many f32
labels stand before the image and replace the one label. Face sets have a record 0 without an image, with labels
``[a, b]``: images have the keys 1 to a - 1, and keys a to b - 1 are identities. An identity's labels ``[start, stop]``
are the first key of its images and the one behind the last. Sources: MXNet ``python/mxnet/recordio.py`` (Apache-2.0);
deepinsight/insightface @ 7fadd420 ``recognition/arcface_mxnet/common/rec_builder.py``.
"""

import os
import struct
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tvconv_jax.data.formats.recordio import RecordFile, RecordWriter, index_path, read_index
from tvconv_jax.data.source import Record
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import check_absent, write_text
from tvconv_jax.utils.progress import track

HEADER = struct.Struct("<IfQQ")


class Content(NamedTuple):
    """The content of a record."""

    labels: np.ndarray  # float32 [n]; one if the record has a scalar label
    image: bytes  # encoded; empty in records that describe others
    vector: bool  # whether the labels stand behind the header


def unpack(payload: bytes) -> Content:
    """Unpack a record; raise a ``ValueError`` if it is shorter than its header says."""
    if len(payload) < HEADER.size:
        raise ValueError(f"it has {len(payload)} bytes, fewer than the header's {HEADER.size}")
    flag, label, _, _ = HEADER.unpack_from(payload)
    start = HEADER.size + 4 * flag
    if start > len(payload):
        raise ValueError(f"it has {len(payload)} bytes, fewer than the {start} of its header and {flag} labels")
    labels = np.frombuffer(payload, "<f4", flag, HEADER.size) if flag else np.array([label], np.float32)
    return Content(labels, payload[start:], flag > 0)


def pack(labels: float | Iterable[float], key: int, image: bytes = b"") -> bytes:
    """Pack a record, with a scalar label or a vector of labels."""
    if isinstance(labels, (int, float)):
        return HEADER.pack(0, labels, key, 0) + image
    vector = np.asarray(list(labels), "<f4")
    return HEADER.pack(len(vector), 0, key, 0) + vector.tobytes() + image


class RecordFaces:
    """Random access to the images of a ``.rec``, in the order of their keys.

    Without an ``.idx`` beside the file that fits, it is walked over once; a record's key is then its id or, if ids are
    not unique, its place. A ``UserError`` is raised if the file is missing or damaged.
    """

    keys: np.ndarray  # int64 [n], of the images
    offsets: np.ndarray  # int64 [n], in the file
    ranges: np.ndarray | None  # int64 [identities, 2], first key and the one behind the last; None without record 0
    labels: np.ndarray  # int64 [identities], the label in the file for each label 0, 1, ... of `label`
    label: np.ndarray  # int64 [n], of the images
    note: str = ""  # the reason why the index is not used, or the records that it leaves out

    def __init__(self, path: Path) -> None:
        self.file = RecordFile(path)
        index = index_path(self.file.path)
        try:
            self._open(*(self._indexed(index) if os.path.lexists(index) else walk(self.file)))
        except UserError as error:
            self._open(*walk(self.file))  # an index may help, but it never closes a file that can be walked over
            self.note = f"{index} is not used, and the {len(self)} images are found without it: {error}"

    def _open(self, keys: np.ndarray, offsets: np.ndarray) -> None:
        self.keys, self.offsets, self.ranges = keys, offsets, None
        first = self._content(0)
        if keys[0] == 0 and first.vector and not first.image:
            self._take_header(first.labels)
        # The file's labels are any whole numbers; here they become 0 to identities - 1.
        self.labels, self.label = np.unique(self._read_labels(), return_inverse=True)

    def _indexed(self, index: Path) -> tuple[np.ndarray, np.ndarray]:
        """Return keys and offsets from the index, if all of these are in the file."""
        keys, offsets = read_index(index)
        if not len(keys):
            raise UserError(f"{index} names no record.")
        outside = offsets[(offsets < 0) | (offsets >= len(self.file))]
        if outside.size:
            raise UserError(
                f"{index} names {len(keys)} records, at offsets up to {offsets.max()}, but {self.file.path} has "
                f"{len(self.file)} bytes."
            )
        if self.file.has_gaps(offsets):
            self.note = f"{index} names {len(keys)} records, and {self.file.path.name} holds more: these are left out"
        return keys, offsets

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Record:
        content = self._content(int(index))
        return Record(image=content.image, label=int(self.label[index]), name=self.name(index))

    def name(self, index: int) -> str:
        """Return an image's name in messages: the file's name and the image's key."""
        return f"{self.file.path.name}:{self.keys[int(index)]}"

    def _read_labels(self) -> np.ndarray:
        """Return the first label of every image, ``int64``, without reading the images."""
        heads = self.file.heads(self.offsets, HEADER.size + 4).view("<u4")
        flags, floats = heads[:, 0], heads.view("<f4")
        # A record of an identity among the images means that record 0, which distinguishes the two, is lost.
        lengths = HEADER.size + 4 * flags.astype(np.int64)
        empty = np.flatnonzero((flags > 0) & (self.file.sizes(self.offsets) == lengths))
        if empty.size:
            raise self._error(int(empty[0]), "it holds labels and no image, as records of identities do")
        labels = np.where(flags > 0, floats[:, -1], floats[:, 1])
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
        """Split images from identities, by record 0."""
        stop, end = (int(label) for label in labels) if labels.size == 2 and np.isfinite(labels).all() else (0, 0)
        if not 1 < stop <= end or not np.array_equal(self.keys[:end], np.arange(end)):
            raise self._error(
                0, f"it says {labels.tolist()}: images 1 to a - 1, identities a to b - 1, but those keys do not exist"
            )
        if len(self.keys) > end:
            self.note = f"record 0 says that there are {end} records, and {len(self.keys) - end} more are left out"
        ranges = [self._range(key, stop) for key in range(stop, end)]
        self.ranges = np.array(ranges, np.int64).reshape(-1, 2)
        self.keys, self.offsets = self.keys[1:stop], self.offsets[1:stop]

    def _range(self, key: int, stop: int) -> tuple[int, int]:
        labels = self._content(key).labels
        if labels.size != 2 or not 1 <= labels[0] <= labels[1] <= stop:
            raise self._error(key, f"its range of images {labels.tolist()} is not within the keys 1 to {stop - 1}")
        return int(labels[0]), int(labels[1])

    def _error(self, index: int, reason: str) -> UserError:
        return UserError(
            f"{self.file.path}: record {self.keys[index]} at byte {self.offsets[index]} is damaged: {reason}. "
            f"Get the file again."
        )


def walk(file: RecordFile) -> tuple[np.ndarray, np.ndarray]:
    """Return keys in ascending order and offsets, ``int64 [n]`` each, from the records themselves."""
    offsets = file.scan()
    ids = file.heads(offsets, HEADER.size).view("<u8")[:, 1]
    if len(np.unique(ids)) < len(ids) or ids.max() > np.iinfo(np.int64).max:
        return np.arange(len(offsets)), offsets
    order = np.argsort(ids)
    return ids[order].astype(np.int64), offsets[order]


def write_faces(
    path: Path, faces: Sequence[Record], *, size: tuple[int, int] | None = None, resume: bool = False
) -> None:
    """Write images in the layout of MXNet's face sets: record 0, images, identities, and ``property``.

    Args:
        path: The ``.rec`` to write, with its ``.idx``.
        faces: The images, grouped by identity; labels are kept.
        size: Height and width for ``property`` beside it; ``None`` writes none.
        resume: Whether to continue a call with the same images that was killed.

    Raises:
        UserError: If a file exists, or the images of an identity are not grouped.
    """
    properties, count, done = path.with_name("property"), len(faces), []
    if size:
        check_absent(properties)

    def check(taken: list[int]) -> None:  # by an earlier call; only the last image is compared
        part = path.with_name(f"{path.name}.part")
        file = RecordFile(part) if taken else None
        if taken[1:] and unpack(file.read(taken[-1])).image != faces[len(taken) - 2]["image"]:
            raise UserError(f"{part} was begun with other images; remove it.")
        done.extend(int(unpack(file.read(offset)).labels[0]) for offset in taken[1:])

    with RecordWriter(path, resume=count + 1 if resume else 0, check=check) as writer:
        if not writer.taken:
            writer.write(0, pack((0, 0), 0))  # its labels are known at the end
        starts = _write_images(writer, faces, done)
        for identity, span in enumerate(pairwise([*starts.values(), count + 1]), start=count + 1):
            writer.write(identity, pack(span, identity))
        writer.rewrite_first(pack((count + 1, count + 1 + len(starts)), 0))
    if size:
        write_text(properties, f"{max(starts, default=-1) + 1},{size[0]},{size[1]}\n")


def _write_images(writer: RecordWriter, faces: Sequence[Record], done: Sequence[int]) -> dict[int, int]:
    """Write the images behind those whose labels are ``done``; return each label's first key."""
    starts, previous = {}, None
    for key in track(range(1, len(faces) + 1), total=len(faces), text=f"Writing {writer.path.name}"):
        face = None if key <= len(done) else faces[key - 1]
        label = face["label"] if face else done[key - 1]
        if label != previous and label in starts:
            raise UserError(f"identity {label} comes back at image {key}; sort the images by identity.")
        starts.setdefault(label, key)
        previous = label
        if face:
            writer.write(key, pack(float(label), key, face["image"]))
    return starts
