"""Pair lists of face verification: which two pictures, the same person or not, in which of ten folds."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tvconv_jax.errors import UserError
from tvconv_jax.files import read_lines

FOLDS = 10


class Pairs(NamedTuple):
    """Pairs of pictures, by their index in a list of unique pictures.

    Attributes:
        left: ``int32 [n]``.
        right: ``int32 [n]``.
        same: ``bool [n]``, whether both show one person.
        folds: ``int32 [n]``, 0-9, equal in size.
    """

    left: np.ndarray
    right: np.ndarray
    same: np.ndarray
    folds: np.ndarray


def read_pairs(path: Path, root: Path) -> tuple[Pairs, list[str]]:
    """Reads ``<set>_pair.txt``: one pair a line, ``left right flag``, flag 1 (same) or -1, folds in file order.

    Args:
        path: The list.
        root: The folder that its names lie in.

    Returns:
        The pairs, and the sorted names of the pictures that they index.

    Raises:
        UserError: If a line has no three fields, a flag is not 1 or -1, a picture is missing, or the number of
            pairs is not a multiple of ten.
    """
    rows = []
    for number, fields in _lines(path):
        if len(fields) != 3:
            raise UserError(
                f"{path}:{number}: {' '.join(fields)!r} must be 'left right flag'; correct or drop the line."
            )
        if fields[2] not in ("1", "-1"):
            raise UserError(f"{path}:{number}: flag {fields[2]!r} must be 1 (same person) or -1; correct the line.")
        rows.append((number, *fields[:2], fields[2] == "1"))
    return _indexed(path, root, rows)


def read_lfw_pairs(path: Path, root: Path) -> tuple[Pairs, list[str]]:
    """Reads LFW's ``pairs.txt``: ``name 1 2`` or ``name 1 other 2`` a line, after a line ``10 300``.

    Args:
        path: The list, http://vis-www.cs.umass.edu/lfw/pairs.txt or one like it.
        root: The folder of ``name/name_0001.jpg``.

    Returns:
        As :func:`read_pairs`.

    Raises:
        UserError: If a line is of neither kind, and as :func:`read_pairs`.
    """
    rows = []
    for number, fields in _lines(path):
        if number == 1 and all(field.isdigit() for field in fields):
            continue  # folds, and pairs of each kind in one
        same = len(fields) == 3
        if len(fields) not in (3, 4) or not (fields[1].isdigit() and fields[-1].isdigit()):
            raise UserError(
                f"{path}:{number}: {' '.join(fields)!r} must be 'name 1 2' or 'name 1 other 2'; correct it."
            )
        pictures = ((fields[0], fields[1]), (fields[0 if same else 2], fields[-1]))
        left, right = (f"{name}/{name}_{int(picture):04d}.jpg" for name, picture in pictures)
        rows.append((number, left, right, same))
    return _indexed(path, root, rows)


def in_order(same: np.ndarray, what: str) -> Pairs:
    """Pairs of pictures that lie one after the other: 0 and 1, 2 and 3, ...

    Raises:
        UserError: If their number is not a multiple of ten; ``what`` says whose.
    """
    numbers = np.arange(len(same), dtype=np.int32)
    return Pairs(2 * numbers, 2 * numbers + 1, same, _folds(len(same), what))


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(read_lines(path, "save the list as UTF-8"), start=1):
        if line.strip():
            yield number, line.split()


def _indexed(path: Path, root: Path, rows: list[tuple[int, str, str, bool]]) -> tuple[Pairs, list[str]]:
    for number, *files, _ in rows:
        for name in files:
            if not (root / name).is_file():
                raise UserError(f"{path}:{number}: {root / name} does not exist; add the file or drop the line.")
    names = sorted({name for row in rows for name in row[1:3]})
    index = {name: i for i, name in enumerate(names)}
    pairs = Pairs(
        left=np.array([index[row[1]] for row in rows], np.int32),
        right=np.array([index[row[2]] for row in rows], np.int32),
        same=np.array([row[3] for row in rows], bool),
        folds=_folds(len(rows), str(path)),
    )
    return pairs, names


def _folds(pairs: int, what: str) -> np.ndarray:
    if not pairs or pairs % FOLDS:
        raise UserError(f"{what}: {pairs} pairs cannot be cut into {FOLDS} equal folds; give a multiple of {FOLDS}.")
    return np.arange(pairs, dtype=np.int32) * FOLDS // pairs
