"""Aligned faces for the command: a folder, or a file of arrays that travels to a machine without data sets."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tvconv_jax.data.decoder import ImageError, pixels, read_image
from tvconv_jax.data.formats.pairs import FOLDS, pair_lists, read_pairs, set_of
from tvconv_jax.data.listing import SUFFIXES, LeftOut, scan, select
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import read_arrays

HINT = "give a folder with train/<identity>/ and a <set>_pair.txt, or an .npz as pack_faces.py writes it"
KEYS = ("data", "ends", "labels", "test_data", "test_ends", "left", "right", "same")  # of the .npz


class Faces(NamedTuple):
    """Encoded images to train on, and pairs of others to test on."""

    images: list[bytes]
    labels: np.ndarray  # int32 [n]
    test: list[bytes]
    left: np.ndarray  # indices into `test`, int32 [pairs]
    right: np.ndarray  # likewise
    same: np.ndarray  # bool [pairs]

    @property
    def folds(self) -> np.ndarray:
        """Fold of each pair, in file order."""
        return np.arange(len(self.same)) * FOLDS // len(self.same)


def read_faces(path: Path) -> Faces:
    """Read a set of faces; raise a ``UserError`` if it is not one."""
    faces = _read_folder(path) if path.is_dir() else _read_file(path)
    count, identities = len(faces.labels), len(np.unique(faces.labels))
    if count != len(faces.images) or identities < 2 or faces.labels.min() != 0 or faces.labels.max() != identities - 1:
        raise UserError(f"{path} holds {len(faces.images)} images of {identities} identities, numbered from 0; {HINT}.")
    pairs = np.stack([faces.left, faces.right])
    if len(faces.same) < 2 * FOLDS or pairs.min() < 0 or pairs.max() >= len(faces.test):
        raise UserError(f"{path} holds {len(faces.same)} pairs of {len(faces.test)} images; {HINT}.")
    return faces


def digest_of(path: Path) -> str:
    """Return a name of the set's content, the same on every machine."""
    faces = read_faces(path)
    found = hashlib.sha256(b"".join(array.tobytes() for array in faces[1:2] + faces[3:]))
    for image in faces.images + faces.test:
        found.update(image)
    return found.hexdigest()[:10]


def decode(images: list[bytes], size: int, path: Path) -> np.ndarray:
    """Decode to ``uint8 [n, size, size, 3]``; larger images are averaged over squares where those fit, else resized."""
    with ThreadPoolExecutor() as pool:
        try:
            return np.stack(list(pool.map(lambda image: _resized(pixels(image), size), images)))
        except ImageError as error:
            raise UserError(f"{path} holds an image that cannot be decoded: {error}.") from None


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    from PIL import Image  # late: of images that need no resizing none does

    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def _read_file(path: Path) -> Faces:
    try:
        arrays = read_arrays(path)
        if missing := [name for name in KEYS if name not in arrays]:
            raise ValueError(f"it has no array {missing[0]!r}")
        data, ends, labels, test_data, test_ends, left, right, same = (arrays[name] for name in KEYS)
        if data.dtype != np.uint8 or test_data.dtype != np.uint8 or same.dtype != bool or labels.dtype.kind != "i":
            raise ValueError("its arrays have other types")
        if not left.shape == right.shape == same.shape == (len(same),) or labels.ndim != 1:
            raise ValueError("its arrays have other shapes")
        return Faces(list(_cut(data, ends)), labels, list(_cut(test_data, test_ends)), left, right, same)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read: {reason}; {HINT}.") from None


def _cut(data: np.ndarray, ends: np.ndarray) -> Iterator[bytes]:
    fits = data.ndim == ends.ndim == 1 and ends.dtype.kind in "iu" and ends.size > 0
    if not fits or ends[0] != 0 or ends[-1] != data.size or np.any(ends[1:] < ends[:-1]):
        raise ValueError("its images do not fit their lengths")
    return (data[start:end].tobytes() for start, end in zip(ends[:-1], ends[1:], strict=True))


def _read_folder(base: Path) -> Faces:
    train, lists = base / "train", pair_lists(base)
    if not train.is_dir() or not lists:
        raise UserError(f"{base} has no {'train/' if not train.is_dir() else '<set>_pair.txt'}; {HINT}.")
    identities, files, labels = scan(train, LeftOut())[0], [], []
    for label, identity in enumerate(identities):
        found = select(scan(identity, LeftOut())[1], SUFFIXES, LeftOut())
        files += found
        labels += [label] * len(found)
    pairs, names = read_pairs(lists[0])
    root = set_of(lists[0])[1]
    try:
        images, test = ([read_image(path) for path in paths] for paths in (files, [root / name for name in names]))
    except ImageError as error:
        raise UserError(f"{base}: an image cannot be read: {error}.") from None
    return Faces(images, np.array(labels, np.int32), test, pairs.left, pairs.right, pairs.same)
