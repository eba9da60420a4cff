"""Which files in a folder an export wrote: those alone may a later export replace or remove.

``check.npz``, which is written last, records the SHA-256 of every file beside it, and of its own arrays. A file is the
export's as long as its bytes are those that are recorded.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import write_text
from tvconv_jax.utils.plain_files import parse_json, read_arrays

CHECK = "check.npz"
RECORD = "written_by_tvconv_jax"  # the array of check.npz that holds the record
JOURNAL = ".tvconv_jax-export.json"  # what an export is about to write; it stays where that export was killed
_DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError)


def write_check(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write ``check.npz``: arrays, and the record of all files that the folder holds.

    Args:
        folder: Where the files of this export are.
        arrays: Images and the answers to them.
    """
    files = {path.name: _digest(path.read_bytes()) for path in sorted(folder.iterdir())}
    record = json.dumps({"files": files, "arrays": _digest_of(arrays)})
    np.savez(folder / CHECK, **{**arrays, RECORD: np.array(record)})


def check_owned(out: Path, names: Iterable[str]) -> None:
    """Refuse files of these names that no export wrote, or that were changed since.

    Args:
        out: The folder that is to be written; it may not exist yet.
        names: Of files that would be replaced or removed. Folders are not looked at.

    Raises:
        UserError: If there are such files; names them.
    """
    there = [name for name in sorted(names) if (out / name).is_symlink() or (out / name).is_file()]
    recorded = _recorded(out) if there else {}
    foreign = [name for name in there if not _is_owned(out / name, recorded)]
    if foreign:
        what = (
            "files that no export wrote, or that were"
            if len(foreign) > 1
            else "a file that no export wrote, or that was"
        )
        raise UserError(
            f"--out={out} holds {', '.join(foreign)}, {what} changed since (exports of older versions kept no record); "
            f"choose another --out, or move {'them' if len(foreign) > 1 else 'it'} away."
        )


def begin(folder: Path, out: Path) -> None:
    """Note what is about to be moved into ``out``, so that an export which is killed there can be repeated."""
    files = {path.name: [_digest(path.read_bytes())] for path in folder.iterdir()}
    for name, digests in _journal(out / JOURNAL).items():  # of one that was killed before this one, and left files too
        files[name] = sorted({*files.get(name, ()), *digests})
    write_text(out / JOURNAL, json.dumps({"files": files}))


def end(out: Path) -> None:
    """Remove the note of :func:`begin`."""
    (out / JOURNAL).unlink(missing_ok=True)


def _recorded(out: Path) -> dict[str, set[str]]:
    """Digests by name: of the last export, and of one that was killed while it wrote."""
    recorded: dict[str, set[str]] = {}
    for name, digest in _record(out / CHECK).items():
        recorded.setdefault(name, set()).add(digest)
    for name, digests in _journal(out / JOURNAL).items():
        recorded.setdefault(name, set()).update(digests)
    return recorded


def _record(path: Path) -> dict[str, str]:
    """What a ``check.npz`` records, itself included; nothing if it is not one of ours, whole and unchanged."""
    try:
        arrays = read_arrays(path)
        record = parse_json(str(arrays.pop(RECORD)))
        if record["arrays"] != _digest_of(arrays):
            return {}
        return {**record["files"], CHECK: _digest(path.read_bytes())}
    except _DAMAGED:
        return {}


def _journal(path: Path) -> dict[str, list[str]]:
    """Digests by name, of all exports that were killed one after the other."""
    try:
        return {name: list(digests) for name, digests in parse_json(path.read_text())["files"].items()}
    except _DAMAGED:
        return {}


def _is_owned(path: Path, recorded: Mapping[str, set[str]]) -> bool:
    return not path.is_symlink() and _digest(path.read_bytes()) in recorded.get(path.name, ())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _digest_of(arrays: Mapping[str, np.ndarray]) -> str:
    parts = [f"{name} {array.dtype.str} {array.shape} {_digest(array.tobytes())}" for name, array in arrays.items()]
    return _digest("\n".join(sorted(parts)).encode())
