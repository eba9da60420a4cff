"""Pair lists of face verification: which two pictures, the same person or not, in which of ten folds."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from tvconv_jax.errors import UserError

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
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.split()
        if len(fields) != 3:
            raise UserError(f"{path}:{number}: {line.strip()!r} must be 'left right flag'; correct or drop the line.")
        if fields[2] not in ("1", "-1"):
            raise UserError(f"{path}:{number}: flag {fields[2]!r} must be 1 (same person) or -1; correct the line.")
        for name in fields[:2]:
            if not (root / name).is_file():
                raise UserError(f"{path}:{number}: {root / name} does not exist; add the file or drop the line.")
        rows.append(fields)
    if not rows or len(rows) % FOLDS:
        raise UserError(
            f"{path}: {len(rows)} pairs cannot be cut into {FOLDS} equal folds; give a multiple of {FOLDS}."
        )
    names = sorted({name for row in rows for name in row[:2]})
    index = {name: i for i, name in enumerate(names)}
    pairs = Pairs(
        left=np.array([index[row[0]] for row in rows], np.int32),
        right=np.array([index[row[1]] for row in rows], np.int32),
        same=np.array([row[2] == "1" for row in rows]),
        folds=np.arange(len(rows), dtype=np.int32) * FOLDS // len(rows),
    )
    return pairs, names
