"""The ``.idx`` of a ``.rec``: the offset of each key's record, ``key <tab> offset`` a line."""

from pathlib import Path

import numpy as np

from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import write_text
from tvconv_jax.utils.signatures import describe_instead_of_text


def read_index(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read an ``.idx``: keys in ascending order and the offset of each, ``int64 [n]``.

    Raises:
        UserError: If it cannot be read, a line is not a pair of whole numbers, a key is below 0, or a key or an
            offset appears twice.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a file.")
    try:
        data = path.read_bytes()
        words = data.split()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    try:
        keys, offsets = np.array(words, np.int64).reshape(-1, 2).T
    except (ValueError, OverflowError):
        what = describe_instead_of_text(data) or "not an index"
        raise UserError(f"{path} is {what}: its lines must be 'key offset', two whole numbers.") from None
    order = np.argsort(keys, kind="stable")
    keys, offsets = keys[order], offsets[order]
    if (twice := keys[1:][keys[1:] == keys[:-1]]).size:
        raise UserError(f"{path} names key {twice[0]} twice; every record has a key of its own.")
    if keys.size and keys[0] < 0:
        raise UserError(f"{path} names key {keys[0]}; keys are 0 or more.")
    if len(np.unique(offsets)) < len(offsets):
        raise UserError(f"{path} gives two keys one offset; every record has a place of its own.")
    return keys, offsets


def write_index(path: Path, keys: np.ndarray, offsets: np.ndarray) -> None:
    """Write an ``.idx``, whole or not at all."""
    write_text(path, "".join(f"{key}\t{offset}\n" for key, offset in zip(keys.tolist(), offsets.tolist(), strict=True)))
