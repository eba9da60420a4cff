"""Record of the files that an export wrote; a later export may replace or remove these alone.

``check.npz``, which is written last, records the SHA-256 of every file beside it and of its own arrays. A file belongs
to the export as long as its bytes are the recorded ones.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import parse_json, read_arrays, write_text

CHECK = "check.npz"
RECORD = "written_by_tvconv_jax"  # the array of check.npz with the record
JOURNAL = ".tvconv_jax-export.json"  # files that an export is about to write; it stays if that export is killed
_DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError)


def write_check(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write ``check.npz``: the images with the outputs, and the record of all files in the folder."""
    record = json.dumps({"files": _digests(folder), "arrays": _digest_of(arrays)})
    np.savez(folder / CHECK, **{**arrays, RECORD: np.array(record)})


def check_owned(out: Path, names: Iterable[str]) -> None:
    """Raise a ``UserError`` that lists files of these names that no export wrote, or that were changed since.

    Args:
        out: The folder to write; it may not exist yet.
        names: Files that would be replaced or removed. Folders are ignored.
    """
    there = [name for name in sorted(names) if (out / name).is_symlink() or (out / name).is_file()]
    recorded = _recorded(out) if there else {}
    foreign = [
        name
        for name in there
        if (out / name).is_symlink() or _digest((out / name).read_bytes()) not in recorded.get(name, ())
    ]
    if foreign:
        kind = "files that no export wrote, or that were" if foreign[1:] else "a file that no export wrote, or that was"
        raise UserError(
            f"--out={out} holds {', '.join(foreign)}, {kind} changed since (exports of older versions kept no record); "
            f"choose another --out, or move {'them' if foreign[1:] else 'it'} away."
        )


def begin(folder: Path, out: Path) -> None:
    """Note the files that are about to be moved into ``out``, so that a killed export can be repeated."""
    files = {name: [digest] for name, digest in _digests(folder).items()}
    for name, digests in _journal(out / JOURNAL).items():  # of an earlier export that was killed
        files[name] = sorted({*files.get(name, ()), *digests})
    write_text(out / JOURNAL, json.dumps({"files": files}))


def _recorded(out: Path) -> dict[str, list[str]]:
    """Return digests by name: of the last export, and of exports that were killed."""
    recorded = _journal(out / JOURNAL)
    for name, digest in _record(out / CHECK).items():
        recorded.setdefault(name, []).append(digest)
    return recorded


def _record(path: Path) -> dict[str, str]:
    """Return the record of a ``check.npz``, with the file itself; nothing if it is damaged or not one of ours."""
    try:
        arrays = read_arrays(path)
        record = parse_json(str(arrays.pop(RECORD)))
        if record["arrays"] != _digest_of(arrays):
            return {}
        return {**record["files"], CHECK: _digest(path.read_bytes())}
    except _DAMAGED:
        return {}


def _journal(path: Path) -> dict[str, list[str]]:
    try:
        return {name: list(digests) for name, digests in parse_json(path.read_text())["files"].items()}
    except _DAMAGED:
        return {}


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: _digest(path.read_bytes()) for path in sorted(folder.iterdir())}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _digest_of(arrays: Mapping[str, np.ndarray]) -> str:
    parts = [f"{name} {array.dtype.str} {array.shape} {_digest(array.tobytes())}" for name, array in arrays.items()]
    return _digest("\n".join(sorted(parts)).encode())
