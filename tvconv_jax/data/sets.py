"""Training faces in any format, opened with their names: what conversion, inspection and purification read."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tvconv_jax.data.folder import training_files
from tvconv_jax.data.progress import track
from tvconv_jax.data.record_faces import RecordFaces
from tvconv_jax.data.records import Record, Source, read
from tvconv_jax.data.tfds_faces import PREFIX, TfdsFaces, is_tfds, locate
from tvconv_jax.errors import UserError
from tvconv_jax.files import read_lines

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
    """

    kind: str
    source: Source
    labels: np.ndarray
    identities: Sequence[str]
    named: bool
    files: bool

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

    def __init__(self, faces: RecordFaces, names: dict[int, str]) -> None:
        self._faces, self.keys, self._names = faces, faces.keys, [names[key] for key in faces.keys.tolist()]

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
    if path.name.endswith("_pair.txt") or path.name == "pairs.txt":
        return "pairs"
    return {".rec": "rec", ".idx": "idx", ".bin": "bin"}.get(path.suffix, "folder")


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
    files = training_files(Path(text))
    identities = sorted({path.parent.name for path in files})
    label_of = {name: label for label, name in enumerate(identities)}
    labels = np.array([label_of[path.parent.name] for path in files], np.int64)
    return FaceSet("folders of identities", LooseFiles(files, labels), labels, identities, named=True, files=True)


def _open_records(text: str) -> FaceSet:
    faces = RecordFaces(Path(text))
    names = read_names(Path(text).with_suffix(".lst"))
    if names:
        missing = [key for key in faces.keys.tolist() if key not in names]
        if missing:
            raise UserError(f"{Path(text).with_suffix('.lst')} names no key {missing[0]}; correct or remove the list.")
        folders = [names[key].split("/")[0] for key in faces.keys.tolist()]
        identities = dict(zip(faces.label.tolist(), folders, strict=True))
        if len(set(identities.values())) == len(identities) == len(faces.labels):
            ordered = [identities[label] for label in range(len(identities))]
            return FaceSet("RecordIO", ListedFaces(faces, names), faces.label, ordered, named=True, files=True)
    numbers = [f"{label:07d}" for label in faces.labels.tolist()]
    return FaceSet("RecordIO", faces, faces.label, numbers, named=False, files=False)


def _open_tfds(text: str) -> FaceSet:
    faces = TfdsFaces(locate(text.removeprefix(PREFIX)))
    labels = []
    for start in track(range(0, len(faces), CHUNK), total=-(-len(faces) // CHUNK), text="Reading labels"):
        labels += [face["label"] for face in read(faces, range(start, min(start + CHUNK, len(faces))))]
    identities = faces.identities
    if not identities:
        found, labels = np.unique(labels, return_inverse=True)
        identities = [f"{label:07d}" for label in found.tolist()]
    return FaceSet(
        "TFDS", faces, np.array(labels, np.int64), identities, named=bool(faces.identities), files=faces.named
    )


def read_names(path: Path) -> dict[int, str]:
    """Names by key from a ``.lst``, where there is one; a name outside of a target folder is refused."""
    names = {}
    lines = read_lines(path, "save the list as UTF-8") if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        key, _, rest = line.partition("\t")
        name = rest.rpartition("\t")[2]
        parts = Path(name).parts
        if not key.isdigit() or len(parts) != 2 or ".." in parts or Path(name).is_absolute():
            raise UserError(
                f"{path}:{number}: {line!r} must be 'key label identity/file'; correct it or remove {path}."
            )
        names[int(key)] = name
    return names


def suffix(image: bytes) -> str:
    """``.jpg``, or what the first bytes say."""
    return SIGNATURES.get(image[:2], ".jpg")
