"""Training faces in any format, opened with their names: what conversion, inspection and purification read."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tvconv_jax.data.formats.folder import training_files
from tvconv_jax.data.formats.name_list import one_to_one, read_names
from tvconv_jax.data.formats.pairs import is_list
from tvconv_jax.data.formats.record_faces import RecordFaces
from tvconv_jax.data.formats.tfds_faces import PREFIX, TfdsFaces, is_tfds, locate
from tvconv_jax.data.listing import LeftOut, named
from tvconv_jax.data.source import Record, Source, read
from tvconv_jax.data.tools.progress import track
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.signatures import describe_file

CHUNK = 1024  # records read at once
# A picture's file name says what its first bytes are.
SIGNATURES = {b"\xff\xd8": ".jpg", b"\x89P": ".png"}


class FaceSet(NamedTuple):
    """Training faces.

    Attributes:
        kind: What they are kept in, for people.
        source: The pictures.
        labels: ``int64 [n]``, 0 to ``len(identities) - 1``.
        identities: Name of every label.
        named: Whether these names are the set's own, and not made up from its numbers.
        files: Whether the pictures' names are ``identity/file``.
        notes: What was left out, and which files beside the set are not used.
    """

    kind: str
    source: Source
    labels: np.ndarray
    identities: Sequence[str]
    named: bool
    files: bool
    notes: Sequence[str] = ()

    def file(self, index: int, image: bytes) -> str:
        """``identity/file`` of a picture, within the folder that it is put in; made up where the set has no names."""
        parts = Path(self.source.name(index)).parts[-2:] if self.files else ()
        if len(parts) == 2 and ".." not in parts and not parts[0].startswith("/"):
            return "/".join(parts)
        key = int(self.source.keys[index]) if isinstance(self.source, RecordFaces) else index
        folder = self.identities[self.labels[index]].replace("/", "_").strip(".") or "_"
        return f"{folder}/{key:08d}{suffix(image)}"


class LooseFiles:
    """Pictures read straight from their files.

    Args:
        files: The files.
        labels: Theirs; ``None`` where they have none.
    """

    def __init__(self, files: Sequence[Path], labels: Sequence[int] | None = None) -> None:
        self._files, self._labels = files, labels

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        return Record(image=self._files[index].read_bytes(), label=self.label(index), name=self.name(index))

    def label(self, index: int) -> int:
        """Of one picture, without reading it."""
        return 0 if self._labels is None else int(self._labels[index])

    def name(self, index: int) -> str:
        """The file."""
        return str(self._files[index])


class ListedFaces:
    """The pictures of a ``.rec`` under the names that a ``.lst`` beside it gives them."""

    def __init__(self, faces: RecordFaces, names: Sequence[str]) -> None:
        self._faces, self.keys, self._names = faces, faces.keys, names

    def __len__(self) -> int:
        return len(self._faces)

    def __getitem__(self, index: int) -> Record:
        return self._faces[index] | {"name": self._names[index]}

    def name(self, index: int) -> str:
        """The name in the list."""
        return self._names[index]


def kind_of(text: str | Path) -> str:
    """``folder``, ``rec``, ``idx``, ``tfds``, ``pairs`` or ``bin``, by the name or by what lies there."""
    path = Path(text)
    if str(text).startswith(PREFIX) or (path.is_dir() and is_tfds(path)):
        return "tfds"
    if is_list(path):
        return "pairs"
    return {".rec": "rec", ".idx": "idx", ".bin": "bin"}.get(path.suffix.lower(), "folder")


def packed_in(base: Path) -> Path | None:
    """The ``train.rec`` of a folder, in any case; ``None`` if there is none.

    Raises:
        UserError: If something is called so, and is not a file that can be read.
    """
    found = named(base, lambda path: path.name.lower() == "train.rec")
    return next((path for path in found if path.name == "train.rec"), next(iter(found), None))


def check_folder(path: Path) -> None:
    """Raise a ``UserError`` if there is no such folder, which names what is there."""
    if path.is_dir():
        return
    what = describe_file(path) or "a file of an unknown kind"
    fault = f"is {what}, not a set of faces" if os.path.lexists(path) else "does not exist"
    raise UserError(f"{path} {fault}; give a folder of identities, a .rec, tfds:NAME, a list of pairs or a .bin.")


def open_faces(text: str | Path) -> FaceSet:
    """Opens training faces.

    Args:
        text: ``DIR`` of ``<identity>/*.jpg``, ``*.rec``, ``tfds:NAME`` or the folder of a TFDS set.

    Raises:
        UserError: If it is none of them, or damaged.
    """
    openers = {"folder": _open_folder, "rec": _open_records, "tfds": _open_tfds}
    kind = kind_of(text)
    if kind not in openers:
        raise UserError(f"{text} ({kind}) holds no training faces; give a folder of identities, a .rec or tfds:NAME.")
    return openers[kind](str(text))


def _open_folder(text: str) -> FaceSet:
    left_out, base = LeftOut(), Path(text)
    check_folder(base)
    files = training_files(base, left_out)
    identities = sorted({path.parent.name for path in files})
    label_of = {name: label for label, name in enumerate(identities)}
    labels = np.array([label_of[path.parent.name] for path in files], np.int64)
    notes, source = left_out.notes(base), LooseFiles(files, labels)
    return FaceSet("folders of identities", source, labels, identities, named=True, files=True, notes=notes)


def _open_records(text: str) -> FaceSet:
    faces = RecordFaces(Path(text))
    names, note = read_names(Path(text).with_suffix(".lst"), faces.keys.tolist(), faces.label.tolist())
    notes = [line for line in (faces.note, note) if line]
    if names:
        folders = dict(zip(faces.label.tolist(), (name.split("/")[0] for name in names), strict=True))
        ordered = [folders[label] for label in range(len(folders))]
        source = ListedFaces(faces, names)
        return FaceSet("RecordIO", source, faces.label, ordered, named=True, files=True, notes=notes)
    numbers = [f"{label:07d}" for label in faces.labels.tolist()]
    return FaceSet("RecordIO", faces, faces.label, numbers, named=False, files=False, notes=notes)


def _open_tfds(text: str) -> FaceSet:
    faces = TfdsFaces(locate(text.removeprefix(PREFIX)))
    labels, folders = [], []
    for start in track(range(0, len(faces), CHUNK), total=-(-len(faces) // CHUNK), text="Reading labels"):
        for face in read(faces, range(start, min(start + CHUNK, len(faces)))):
            labels.append(face["label"])
            folders.append(Path(face["name"]).parent.name)
    identities = faces.identities
    # Names whose folders are not the identities, as of a flat set, would put one's pictures among another's.
    files = faces.named and "" not in folders and one_to_one(folders, labels)
    if not identities:
        found, labels = np.unique(labels, return_inverse=True)
        identities = [f"{label:07d}" for label in found.tolist()]
    labels = np.array(labels, np.int64)
    return FaceSet("TFDS", faces, labels, identities, named=bool(faces.identities), files=files)


def suffix(image: bytes) -> str:
    """``.jpg``, or what the first bytes say."""
    return SIGNATURES.get(image[:2], ".jpg")
