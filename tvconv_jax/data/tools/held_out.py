"""Test sets, with the identities and the images that training data must not share with them."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tvconv_jax.data.formats.bin_file import BinFaces, is_bin
from tvconv_jax.data.formats.pairs import is_list, pair_lists, read_rows, set_of
from tvconv_jax.data.listing import named
from tvconv_jax.data.source import LooseFiles, Source
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import read_lines

TRAIN_END = "_train.txt"  # of the name of a list of the images to train on, beside <set>_pair.txt


class HeldOut(NamedTuple):
    """A test set."""

    name: str
    source: Source  # its images that exist
    identities: Sequence[str]  # their names, if it has names
    missing: Sequence[str] = ()  # listed images that do not exist
    same: np.ndarray = np.zeros(0, bool)  # whether each of its pairs shows one identity; empty if it has no pairs
    include: Path | None = None  # list of images to train on without its identities, if `data pairs` wrote one beside


def open_held_out(text: str | Path) -> list[HeldOut]:
    """Open the test sets in a file, or raise a ``UserError`` if there are none.

    Args:
        text: A ``.bin``; ``<set>_pair.txt`` or LFW's ``pairs.txt``, with or without the images beside it; any other
            text file, one identity a line; or a folder of these.
    """
    path = Path(text)
    if path.is_dir():
        if found := open_beside(path):
            return found
        raise UserError(f"{path} holds no test sets; name a .bin, a list of pairs or a list of identities.")
    if is_bin(path):
        faces = BinFaces(path)
        return [HeldOut(path.stem, faces, (), same=faces.pairs.same)]
    return [_from_list(path)]


def open_beside(base: Path) -> list[HeldOut]:
    """Open the test sets of a folder: every ``<set>.bin``, ``<set>_pair.txt`` and LFW's ``pairs.txt``."""
    return [entry for path in sorted([*pair_lists(base), *named(base, is_bin)]) for entry in open_held_out(path)]


def _from_list(path: Path) -> HeldOut:
    if not is_list(path):
        lines = read_lines(path, "name a .bin, a list of pairs or a list of identities")
        return HeldOut(path.stem, LooseFiles([]), sorted({" ".join(line.split()) for line in lines if line.strip()}))
    rows, (name, root) = read_rows(path), set_of(path)
    images = dict.fromkeys(image for row in rows for image in (row.left, row.right))
    exists = {image: os.path.isfile(root / image) for image in images}
    source = LooseFiles([root / image for image in images if exists[image]])
    missing = [image for image in images if not exists[image]]
    same = np.array([row.same for row in rows], bool)
    include = path.with_name(name + TRAIN_END)
    identities = sorted(set(map(identity_of, images)))
    return HeldOut(name, source, identities, missing, same, include if include.is_file() else None)


def identity_of(image: str) -> str:
    """Return the identity of an image file: its folder's name, or its own name without the number at the end."""
    path = Path(image)
    return path.parent.name or re.sub(r"[_-]?\d+$", "", path.stem)


def simplify(name: str) -> str:
    """Return a name's lowercase letters and digits, for comparisons."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())
