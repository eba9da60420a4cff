"""Training faces in any format, opened with their names: for training, conversion, inspection and purification."""

import functools
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
from tvconv_jax.data.listing import SUFFIXES, LeftOut, named
from tvconv_jax.data.source import CHUNK, LooseFiles, Source, chunks
from tvconv_jax.data.subset import Subset
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.progress import track
from tvconv_jax.utils.signatures import describe_file

SIGNATURES = {b"\xff\xd8": ".jpg", b"\x89P": ".png"}  # suffix by first bytes


class FaceSet(NamedTuple):
    """Training faces."""

    kind: str  # name of the format
    source: Source
    labels: np.ndarray  # int64 [n], 0 to len(identities) - 1
    identities: Sequence[str]  # name of every label
    named: bool  # whether these names are the set's own, and not made from its numbers
    files: bool  # whether the images' names are identity/file
    notes: Sequence[str] = ()  # what was left out, and which files beside the set are not used

    def file(self, index: int, image: bytes) -> str:
        """Return ``identity/file`` of an image, relative to the set's folder; made up if the set has no names."""
        parts = Path(self.source.name(index)).parts[-2:] if self.files else ()
        if len(parts) == 2 and ".." not in parts and not parts[0].startswith("/"):
            return "/".join(parts)
        key = int(self.source.keys[index]) if isinstance(self.source, RecordFaces) else index
        folder = self.identities[self.labels[index]].replace("/", "_").strip(".") or "_"
        return f"{folder}/{key:08d}{suffix(image)}"


def kind_of(text: str | Path) -> str:
    """Return ``folder``, ``rec``, ``idx``, ``tfds``, ``pairs`` or ``bin``, by the name or the files there."""
    path = Path(text)
    if str(text).startswith(PREFIX) or (path.is_dir() and is_tfds(path)):
        return "tfds"
    if is_list(path):
        return "pairs"
    return {".rec": "rec", ".idx": "idx", ".bin": "bin"}.get(path.suffix.lower(), "folder")


def packed_in(base: Path) -> Path | None:
    """Find the ``train.rec`` of a folder, in any case; a ``UserError`` if it is not a file."""
    found = named(base, lambda path: path.name.lower() == "train.rec")
    return next((path for path in found if path.name == "train.rec"), next(iter(found), None))


def check_folder(path: Path) -> None:
    """Raise a ``UserError`` that describes what is there if ``path`` is not a folder."""
    if path.is_dir():
        return
    kind = describe_file(path) or "a file of an unknown kind"
    error = f"is {kind}, not a set of faces" if os.path.lexists(path) else "does not exist"
    raise UserError(f"{path} {error}; give a folder of identities, a .rec, tfds:NAME, a list of pairs or a .bin.")


def open_faces(text: str | Path, suffixes: tuple[str, ...] = SUFFIXES) -> FaceSet:
    """Open training images: ``DIR`` of ``<identity>/*.jpg``, ``*.rec``, ``tfds:NAME`` or the folder of a TFDS set.

    Args:
        text: The set.
        suffixes: Of the files that are images of identities, of a folder.

    Raises:
        UserError: If it is none of them, or damaged.
    """
    openers = {"folder": functools.partial(_open_folder, suffixes=suffixes), "rec": _open_records, "tfds": _open_tfds}
    kind = kind_of(text)
    if kind not in openers:
        raise UserError(f"{text} ({kind}) holds no training faces; give a folder of identities, a .rec or tfds:NAME.")
    return openers[kind](str(text))


def _open_folder(text: str, suffixes: tuple[str, ...]) -> FaceSet:
    left_out, base = LeftOut(), Path(text)
    check_folder(base)
    files = training_files(base, left_out, suffixes)
    identities = sorted({path.parent.name for path in files})
    label_of = {name: label for label, name in enumerate(identities)}
    labels = np.array([label_of[path.parent.name] for path in files], np.int64)
    title, source = "folders of identities", LooseFiles(files, labels)
    return FaceSet(title, source, labels, identities, named=True, files=True, notes=left_out.notes(base))


def _open_records(text: str) -> FaceSet:
    faces = RecordFaces(Path(text))
    names, note = read_names(Path(text).with_suffix(".lst"), faces.keys.tolist(), faces.label.tolist())
    notes = [line for line in (faces.note, note) if line]
    if not names:
        numbers = [f"{label:07d}" for label in faces.labels.tolist()]
        return FaceSet("RecordIO", faces, faces.label, numbers, named=False, files=False, notes=notes)
    folders = dict(zip(faces.label.tolist(), (name.split("/")[0] for name in names), strict=True))
    identities = [folders[label] for label in range(len(folders))]
    source = Subset(faces, range(len(faces)), names=names)
    return FaceSet("RecordIO", source, faces.label, identities, named=True, files=True, notes=notes)


def _open_tfds(text: str) -> FaceSet:
    faces = TfdsFaces(locate(text.removeprefix(PREFIX)))
    labels, folders = [], []
    for records in track(chunks(faces), total=-(-len(faces) // CHUNK), text="Reading labels"):
        labels += [face["label"] for face in records]
        folders += [Path(face["name"]).parent.name for face in records]
    identities = faces.identities
    # If the folders in the names are not the identities, as in a flat set, the names would mix identities.
    files = faces.named and "" not in folders and one_to_one(folders, labels)
    if not identities:
        found, labels = np.unique(labels, return_inverse=True)
        identities = [f"{label:07d}" for label in found.tolist()]
    return FaceSet("TFDS", faces, np.array(labels, np.int64), identities, named=bool(faces.identities), files=files)


def suffix(image: bytes) -> str:
    """Return the suffix of an image file by its first bytes; ``.jpg`` if unknown."""
    return SIGNATURES.get(image[:2], ".jpg")
