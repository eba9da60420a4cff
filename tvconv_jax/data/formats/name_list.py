"""Names of a packed set's images, from the ``.lst`` beside it. A list that does not fit the set is noted."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import read_lines, whole_number


def read_names(path: Path, keys: Sequence[int], labels: Sequence[int]) -> tuple[list[str], str]:
    """Names ``identity/file`` of images from a list, as MXNet's im2rec or insightface writes it.

    im2rec: ``key label ... path``, by tabs. insightface: ``1 path label``, in the order of the records. The last two
    parts of a path are used, absolute or not, with slashes or backslashes.

    Args:
        path: The list; it may be missing.
        keys: The images' keys, ascending.
        labels: The images' labels.

    Returns:
        A name for each image, or none if there is no list or it does not fit; a line with the reason why it does not.
    """
    try:
        names = _fitting(path, keys, labels) if path.is_file() else []
    except UserError as error:
        return [], f"{path} is not used: {str(error).removeprefix(f'{path}').lstrip(': ')}"
    return names, ""


def _fitting(path: Path, keys: Sequence[int], labels: Sequence[int]) -> list[str]:
    rows = [(number, line.split("\t")) for number, line in enumerate(read_lines(path), start=1) if line.strip()]
    if rows and len(rows[0][1]) > 2 and not _is_number(rows[0][1][1]):  # insightface's
        if len(rows) != len(keys):
            raise UserError(f"{path} names {len(rows)} images, but there are {len(keys)}.")
        found = {key: _name(path, number, fields, 1) for key, (number, fields) in zip(keys, rows, strict=True)}
    else:
        listed = [(_key(path, number, fields), _name(path, number, fields, -1)) for number, fields in rows]
        found = dict(listed)
        if len(found) < len(listed):
            raise UserError(f"{path} names a key twice.")
    missing = [key for key in keys if key not in found]
    if missing:
        raise UserError(f"{path} names no key {missing[0]}{f' and {len(missing) - 1} more' if missing[1:] else ''}.")
    names = [found[key] for key in keys]
    if len(set(names)) < len(names):
        raise UserError(f"{path} gives the same name to two images.")
    if not one_to_one([name.split("/")[0] for name in names], labels):
        raise UserError(f"{path} puts images of one label into several folders, or of several labels into one.")
    return names


def one_to_one(folders: Sequence[str], labels: Sequence[int]) -> bool:
    """Return whether each folder holds the images of one label, and of no other."""
    pairs = set(zip(folders, labels, strict=True))
    return len({folder for folder, _ in pairs}) == len({label for _, label in pairs}) == len(pairs)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _key(path: Path, number: int, fields: list[str]) -> int:
    key = whole_number(fields[0])
    if len(fields) < 3 or key is None:
        raise UserError(f"{path}: line {number}, {ascii(chr(9).join(fields))[:80]}, is not 'key label identity/file'.")
    return key


def _name(path: Path, number: int, fields: list[str], place: int) -> str:
    text = fields[place]
    of_windows = "\\" in text and "/" not in text
    name = PureWindowsPath(text) if of_windows else PurePosixPath(text)
    parts = [part for part in name.parts if part != name.anchor][-2:]
    if len(parts) < 2 or ".." in parts:
        raise UserError(f"{path}: line {number}, {ascii(text)}, has no folder to name an identity.")
    return "/".join(parts)
