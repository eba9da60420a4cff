"""Pair lists of face verification: two images, whether they show one identity, and one of ten folds."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tvconv_jax.data import listing
from tvconv_jax.data.listing import DECODED_SUFFIXES, SUFFIXES
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import posix, read_lines, whole_number

FOLDS = 10
LIST_END, LFW_LIST = "_pair.txt", "pairs.txt"  # names of lists of pairs


class Pairs(NamedTuple):
    """Pairs of images, by their index in a list of unique images."""

    left: np.ndarray  # int32 [n]
    right: np.ndarray  # int32 [n]
    same: np.ndarray  # bool [n], whether both show one identity
    folds: np.ndarray  # int32 [n], 0-9, equal in size


class Row(NamedTuple):
    """One line of a list of pairs."""

    number: int  # of the line, from 1
    left: str  # image file, within the folder of the set or absolute
    right: str
    same: bool  # whether both show one identity


def set_of(path: Path) -> tuple[str, Path]:
    """Return name and image folder of a list's set; raise a ``UserError`` if a set cannot have this name."""
    name = "lfw" if _is_lfw(path) else path.name[: -len(LIST_END)] if is_list(path) else path.name
    if not name.strip() or not name.isprintable():
        raise UserError(f"{str(path)!r}: no verification set can be called {name!r}; give it another name.")
    return name, path.with_name(name)


def is_list(path: Path) -> bool:
    """Return whether a file is a list of pairs by its name, in any case."""
    return _is_lfw(path) or path.name.lower().endswith(LIST_END)


def _is_lfw(path: Path) -> bool:
    return path.name.lower() == LFW_LIST


def pair_lists(base: Path) -> list[Path]:
    """Return the lists of pairs directly in a folder, sorted, LFW's own last."""
    return sorted(listing.named(base, is_list), key=_is_lfw)


def read_rows(path: Path) -> list[Row]:
    """Read a list of pairs: ``<set>_pair.txt``, or LFW's ``pairs.txt``; a ``UserError`` if a line has another form.

    ``<set>_pair.txt`` holds ``left right flag`` a line, flag 1 (same) or -1; names that begin with ``../`` lead out of
    the folder of the set, which need not exist then. ``pairs.txt`` holds ``name 1 2`` or ``name 1 other 2`` a line,
    after a line of one or two numbers, http://vis-www.cs.umass.edu/lfw/pairs.txt. Fields are separated by tabs or, if
    tabs do not give that many, by blanks.
    """
    return _lfw_rows(path) if _is_lfw(path) else _flag_rows(path)


def read_pairs(path: Path) -> tuple[Pairs, list[str]]:
    """Read a list of pairs whose images exist, folds in file order.

    Returns:
        The pairs, and the sorted names of the images that they index.

    Raises:
        UserError: If a line has another form, an image is missing, or the number of pairs is not a multiple of ten.
    """
    _, root = set_of(path)
    rows = read_rows(path)
    for number, name in ((row.number, name) for row in rows for name in row[1:3]):
        if not os.path.isfile(root / name):  # False for a name that is too long, too
            if not root.is_dir():
                raise UserError(f"{path}:{number}: {name} must be in {root}, which is not a folder; put it there.")
            raise UserError(f"{path}:{number}: {root / name} does not exist; add the file or drop the line.")
    names = sorted({name for row in rows for name in row[1:3]})
    index = {name: i for i, name in enumerate(names)}
    left, right = (np.array([index[row[side]] for row in rows], np.int32) for side in (1, 2))
    same = np.array([row.same for row in rows], bool)
    return Pairs(left, right, same, split_folds(len(rows), str(path))), names


def check_folds(same: np.ndarray, folds: np.ndarray, what: str) -> None:
    """Raise a ``UserError`` if a set, ``what``, or one of its folds holds pairs of one kind only; as :class:`Pairs`."""
    if same.all() or not same.any():
        raise UserError(f"{what} holds pairs of {_kind(same)} only; both kinds are needed: complete or remove it.")
    for fold in range(FOLDS):
        kinds = same[folds == fold]
        if len(kinds) and (kinds.all() or not kinds.any()):
            raise UserError(
                f"{what}: fold {fold + 1} of {FOLDS} holds only pairs of {_kind(kinds)}, but every fold needs both "
                f"kinds; interleave the list, whose folds follow its order, {len(kinds)} pairs each."
            )


def _kind(same: np.ndarray) -> str:
    return "one identity" if same.all() else "two identities"


def in_order(same: np.ndarray, what: str) -> Pairs:
    """Return the pairs of consecutive images, 0 and 1, 2 and 3, ..., of the set ``what``; see :func:`split_folds`."""
    numbers = np.arange(len(same), dtype=np.int32)
    return Pairs(2 * numbers, 2 * numbers + 1, same, split_folds(len(same), what))


def _fields(path: Path, counts: tuple[int, ...]) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            tabbed = [field.strip(" ") for field in line.strip().split("\t")]
            yield number, tabbed if len(tabbed) in counts else line.split()


def _flag_rows(path: Path) -> list[Row]:
    rows, (_, root) = [], set_of(path)
    above = "" if root.is_dir() else "../"
    for number, fields in _fields(path, (3,)):
        if len(fields) != 3:
            raise UserError(
                f"{path}:{number}: {' '.join(fields)!r} must be 'left right flag', separated by tabs if names hold "
                f"blanks; correct or drop the line."
            )
        if fields[2] not in ("1", "-1"):
            raise UserError(f"{path}:{number}: flag {fields[2]!r} must be 1 (same identity) or -1; correct the line.")
        left, right = (
            os.path.abspath(root / name) if above and name.startswith(above) else name
            for name in map(posix, fields[:2])
        )
        rows.append(Row(number, left, right, fields[2] == "1"))
    return rows


def _lfw_rows(path: Path) -> list[Row]:
    rows, (_, root) = [], set_of(path)
    files: dict[str, dict[str, str]] = {}
    for place, (number, fields) in enumerate(_fields(path, (3, 4))):
        if place == 0 and len(fields) in (1, 2) and None not in map(whole_number, fields):
            continue  # folds, and pairs of each kind in one
        same = len(fields) == 3
        if len(fields) not in (3, 4) or None in map(whole_number, (fields[1], fields[-1])):
            raise UserError(
                f"{path}:{number}: {' '.join(fields)!r} must be 'name 1 2' or 'name 1 other 2', separated by tabs "
                f"if names hold blanks; correct it."
            )
        images = ((fields[0], fields[1]), (fields[0 if same else 2], fields[-1]))
        left, right = (_lfw_file(root, files, name, int(image)) for name, image in images)
        rows.append(Row(number, left, right, same))
    return rows


def _lfw_file(root: Path, files: dict[str, dict[str, str]], name: str, image: int) -> str:
    if name not in files:
        there = listing.flat(root / name, DECODED_SUFFIXES, listing.LeftOut())  # of equal stems the last one counts
        there.sort(key=lambda path: (path.suffix.lower() in SUFFIXES, path.suffix == ".jpg"))
        files[name] = {path.stem: path.name for path in there}
    stem = f"{name}_{image:04d}"
    return f"{name}/{files[name].get(stem, stem + '.jpg')}"


def split_folds(pairs: int, what: str) -> np.ndarray:
    """Return the fold of each pair, in order, ``int32 [n]``; raise a ``UserError`` unless ten equal folds exist."""
    if not pairs or pairs % FOLDS:
        raise UserError(f"{what}: {pairs} pairs cannot be split into {FOLDS} equal folds; give a multiple of {FOLDS}.")
    return np.arange(pairs, dtype=np.int32) * FOLDS // pairs
