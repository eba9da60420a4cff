"""Test sets as far as training data must keep away from them: whose faces they show, and in which files."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tvconv_jax.data.formats.bin_file import BinFaces, is_bin
from tvconv_jax.data.formats.pairs import is_list, pair_lists, read_rows, set_of
from tvconv_jax.data.listing import named
from tvconv_jax.data.sets import LooseFiles
from tvconv_jax.data.source import Source
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import read_lines


class HeldOut(NamedTuple):
    """A test set.

    Attributes:
        name: Of the set.
        source: Its pictures, as far as they are there.
        identities: Names of the people in it, where it says them.
        missing: Pictures that it lists and that are not beside it.
        same: ``bool [n]``, whether each of its pairs shows one identity; empty where it is not of pairs.
    """

    name: str
    source: Source
    identities: Sequence[str]
    missing: Sequence[str] = ()
    same: np.ndarray = np.zeros(0, bool)


def open_held_out(text: str | Path) -> list[HeldOut]:
    """Opens test sets.

    Args:
        text: A ``.bin``; ``<set>_pair.txt`` or LFW's ``pairs.txt``, with or without the pictures beside it; any other
            text file, one person a line; or a folder of these.

    Raises:
        UserError: If there is nothing of the kind.
    """
    path = Path(text)
    if path.is_dir():
        found = beside(path)
    elif is_bin(path):
        faces = BinFaces(path)
        found = [HeldOut(path.stem, faces, (), same=faces.pairs.same)]
    else:
        found = [_from_list(path)]
    if not found:
        raise UserError(f"{path} holds no test sets; name a .bin, a list of pairs or a list of people.")
    return found


def beside(base: Path) -> list[HeldOut]:
    """The test sets of a folder: every ``<set>.bin``, ``<set>_pair.txt`` and LFW's ``pairs.txt``."""
    return [entry for path in sorted([*pair_lists(base), *named(base, is_bin)]) for entry in open_held_out(path)]


def _from_list(path: Path) -> HeldOut:
    if not is_list(path):
        lines = read_lines(path, "name a .bin, a list of pairs or a list of people")
        return HeldOut(path.stem, LooseFiles([]), sorted({" ".join(line.split()) for line in lines if line.strip()}))
    rows, (name, root) = read_rows(path), set_of(path)
    pictures = dict.fromkeys(picture for row in rows for picture in (row.left, row.right))
    there = [picture for picture in pictures if os.path.isfile(root / picture)]
    missing = [picture for picture in pictures if picture not in set(there)]
    return HeldOut(
        name,
        LooseFiles([root / picture for picture in there]),
        sorted({identity_of(picture) for picture in pictures}),
        missing,
        np.array([row.same for row in rows], bool),
    )


def identity_of(picture: str) -> str:
    """Whose face a file shows: the folder that it lies in, or its name without the number at the end."""
    path = Path(picture)
    return path.parent.name or re.sub(r"[_-]?\d+$", "", path.stem)


def plain(name: str) -> str:
    """A name as it compares: small letters and digits."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())
