"""Conversion of face data between formats, byte for byte: images are never decoded or encoded again."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tvconv_jax.data.decoder import ImageError, size
from tvconv_jax.data.formats.bin_file import BinFaces, write_bin
from tvconv_jax.data.formats.name_list import one_to_one
from tvconv_jax.data.formats.pairs import LFW_LIST, read_pairs, set_of
from tvconv_jax.data.formats.record_faces import walk, write_faces
from tvconv_jax.data.formats.recordio import RecordFile, write_index
from tvconv_jax.data.formats.tfds_faces import PREFIX, write_tfds
from tvconv_jax.data.listing import JUNK, SUFFIXES, is_junk
from tvconv_jax.data.sets import FaceSet, kind_of, open_faces, suffix
from tvconv_jax.data.source import Record
from tvconv_jax.data.subset import Subset
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import check_absent, check_fit_a_line, user_path, write_bytes, write_text
from tvconv_jax.utils.progress import track

MAX_NAME = 255  # bytes of a file's name, on most file systems


def convert(source: str | Path, target: str | Path) -> str:
    """Convert training images between folders, ``.rec`` and TFDS, verification sets between pair lists and ``.bin``.

    It also makes the ``.idx`` of a ``.rec`` again.

    Args:
        source: ``DIR`` of ``<identity>/*.jpg``, ``*.rec``, ``tfds:NAME``, ``<set>_pair.txt`` with ``<set>/`` beside it,
            LFW's ``pairs.txt`` with ``lfw/``, or ``*.bin``.
        target: The path to write, in the same notation. To resume a conversion that was killed, rerun it: existing
            loose images are kept, a ``.rec`` is continued, the others start again. Only loose images get their names
            before they are whole.

    Returns:
        A line on the result, and a line for each note on the source.

    Raises:
        UserError: If there is no conversion between the two kinds, the source is damaged or the target exists.
    """
    faces = {"folder": _to_folder, "rec": _to_records, "tfds": _to_tfds}
    others = {("rec", "idx"): _index, ("pairs", "bin"): _pairs_to_bin, ("bin", "pairs"): _bin_to_pairs}
    kinds = kind_of(source), kind_of(target)
    if kinds in others:
        return others[kinds](Path(source), Path(target))
    if not (kinds[0] in faces and kinds[1] in faces and kinds[0] != kinds[1]):
        ways = "; ".join(f"{a} to {b}" for a, b in others)
        raise UserError(
            f"{source} ({kinds[0]}) cannot become {target} ({kinds[1]}); there are: {', '.join(faces)} "
            f"into each other; {ways}."
        )
    opened = open_faces(source)
    message = faces[kinds[1]](opened, user_path(str(target).removeprefix(PREFIX)))
    counts = f"{len(opened.labels)} images of {len(opened.identities)} identities"
    return "\n".join([counts + message, *(f"  {note}" for note in opened.notes)])


def _to_folder(faces: FaceSet, target: Path) -> str:
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is a file and is not written over; name a folder.")
    for name in _checked_names(faces, target):
        if any(len(os.fsencode(part)) > MAX_NAME for part in name.split("/")):
            raise UserError(f"the name {ascii(name)} has parts of more than {MAX_NAME} bytes, too long for a file.")
        if any(map(is_junk, name.split("/"))) or Path(name).suffix.lower() not in SUFFIXES:
            raise UserError(
                f"the image {ascii(name)} would not be read back from the folder {target}: {JUNK} are left out, and "
                f"files that are not {', '.join(SUFFIXES)}; rename it."
            )
    for index in track(range(len(faces.labels)), total=len(faces.labels), text=f"Writing {target.name}"):
        image = faces.source[index]["image"]
        _write(target / faces.file(index, image), image)
    return ""


def _checked_names(faces: FaceSet, target: Path) -> list[str]:
    """Return ``identity/file`` of all images; raise a ``UserError`` if they could not be read back from the target."""
    names = [faces.file(index, b"") for index in range(len(faces.labels))]
    twice = next((name for name, count in Counter(names).items() if count > 1), "")
    if twice:
        raise UserError(f"{target} cannot hold two images with the name {ascii(twice)}; rename one.")
    if not one_to_one([name.split("/")[0] for name in names], faces.labels.tolist()):
        raise UserError(f"{target} cannot hold this set: two of its identities would get one folder; rename one.")
    return names


def _grouped(faces: FaceSet, target: Path) -> np.ndarray:
    """Return the images by identity, in the order of the source within one, if a list can hold their names."""
    check_fit_a_line(_checked_names(faces, target), f"the list of names beside {target}")
    return np.argsort(faces.labels, kind="stable")


def _to_records(faces: FaceSet, target: Path) -> str:
    order = _grouped(faces, target)
    names = target.with_suffix(".lst")  # the file of each key, as MXNet's im2rec writes it
    _write(names, "".join(_list_lines(faces, order)).encode())
    try:
        height_width = size(faces.source[int(order[0])]["image"])
    except ImageError:
        height_width = None
    # Trainers of the field look for a property file beside a train.rec.
    property_size = height_width if target.name == "train.rec" else None
    write_faces(target, Subset(faces.source, order, faces.labels[order]), size=property_size, resume=True)
    return f"; the files' names are in {names}"


def _list_lines(faces: FaceSet, order: np.ndarray) -> Iterator[str]:
    for key, index in enumerate(map(int, order), start=1):
        image = b"" if faces.files else faces.source[index]["image"]
        yield f"{key}\t{faces.labels[index]}\t{faces.file(index, image)}\n"


def _to_tfds(faces: FaceSet, target: Path) -> str:
    order = _grouped(faces, target)

    def records() -> Iterator[Record]:
        for index in map(int, order):
            image = faces.source[index]["image"]
            yield Record(image=image, label=int(faces.labels[index]), name=faces.file(index, image))

    return f" in {write_tfds(target, records(), list(faces.identities))}"


def _write(path: Path, content: bytes) -> None:
    if path.exists():
        if path.read_bytes() == content:
            return
        raise UserError(f"{path} exists with other content and is not written over; choose another name or remove it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content, durable=False)


def _index(source: Path, target: Path) -> str:
    check_absent(target)
    keys, offsets = walk(RecordFile(source))
    write_index(target, keys, offsets)
    return f"{len(keys)} records"


def _pairs_to_bin(source: Path, target: Path) -> str:
    (_, root), (pairs, names) = set_of(source), read_pairs(source)
    indices = np.stack([pairs.left, pairs.right], axis=1).ravel()
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bin(target, [(root / names[index]).read_bytes() for index in indices], pairs.same.tolist())
    return f"{len(pairs.same)} pairs"


def _bin_to_pairs(source: Path, target: Path) -> str:
    faces = BinFaces(source)
    if target.name.lower() == LFW_LIST:
        raise UserError(f"{target} would be in LFW's own layout, which is only read; write lfw_pair.txt.")
    check_absent(target)
    _, root = set_of(target)
    images = [face["image"] for face in faces]
    names: dict[bytes, str] = {}  # an image of several pairs is one file
    for image in track(images, total=len(images), text=f"Writing {root.name}"):
        name = names.setdefault(image, f"{len(names):06d}{suffix(image)}")
        _write(root / name, image)
    pairs = zip(images[::2], images[1::2], faces.pairs.same, strict=True)
    write_text(target, "".join(f"{names[a]} {names[b]} {1 if same else -1}\n" for a, b, same in pairs))
    return f"{len(faces.pairs.same)} pairs of {len(names)} images"
