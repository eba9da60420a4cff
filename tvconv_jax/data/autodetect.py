"""Whatever lies in a folder of face data, in the formats of the field: RecordIO, TFDS or folders, ``.bin`` or pairs."""

from pathlib import Path
from typing import Any

import numpy as np

from tvconv_jax.data.formats import folder
from tvconv_jax.data.formats.bin_file import BinFaces, is_bin
from tvconv_jax.data.formats.pairs import Pairs
from tvconv_jax.data.formats.tfds_faces import PREFIX, TfdsFaces, is_tfds, locate
from tvconv_jax.data.listing import named
from tvconv_jax.data.records import Source
from tvconv_jax.data.relabelled import Relabelled
from tvconv_jax.data.sets import open_faces, packed_in
from tvconv_jax.utils.errors import UserError


def load(
    root: str, cache: Path, *, verify_root: str, image_size: int, max_corrupt: float
) -> tuple[Source, dict[str, tuple[Source, Pairs]], dict[str, Any]]:
    """Opens what ``root`` holds, and says what that is.

    Training pictures are ``root/train.rec``, a TFDS set, or else folders of identities; verification sets are every
    ``<set>.bin``, every ``<set>_pair.txt`` with its folder, and LFW's ``pairs.txt``. Of a set that is there
    twice, its ``.bin`` is taken.

    Args:
        root: The folder, or ``tfds:NAME``.
        cache: The cache folder; loose pictures are copied into records there.
        verify_root: The folder of the verification sets; empty: the same.
        image_size: Side that pictures are expected to have.
        max_corrupt: Share of unreadable loose training pictures that is skipped.

    Returns:
        The training pictures; each verification set's pictures and pairs; ``{"identities": int, "notes": [str]}``.

    Raises:
        UserError: If there is nothing to train on, or a file is damaged.
    """
    size = {"image_size": image_size, "max_corrupt": max_corrupt}
    base = None if root.startswith(PREFIX) else folder.existing(root)
    train, identities, notes = _packed(base or root)
    tests = folder.existing(verify_root, "data.verify_root") if verify_root else base
    verification: dict[str, tuple[Source, Pairs]] = {}
    loose = train is None
    if loose:
        train, verification, summary = folder.load(base, cache, **size)
        identities, notes = summary["identities"], summary["notes"]
    if tests is not None and not (loose and tests == base):
        _, verification, summary = folder.load(tests, cache, **size, train=False)
        notes += summary["notes"]
    said = {
        name: f"{name}: {len(pairs.same)} pairs, pictures from folders" for name, (_, pairs) in verification.items()
    }
    for path in named(tests, is_bin) if tests else []:
        folder.check_set_name(path, path.stem)
        faces = BinFaces(path)
        said[path.stem] = f"{path.stem}: {len(faces.pairs.same)} pairs from {path.name}"
        verification[path.stem] = (faces, faces.pairs)
    return train, verification, {"identities": identities, "notes": [*notes, *said.values()]}


def _packed(root: Path | str) -> tuple[Source | None, int, list[str]]:
    """Training pictures in one of the packed formats, how many identities they show, and what they are."""
    if isinstance(root, str) or is_tfds(root):
        faces, what = TfdsFaces(locate(str(root).removeprefix(PREFIX))), str(root)
        path, identities = faces.path, len(faces.identities or ())
        if not identities:  # labels are any numbers, where the class weights need 0, 1, ...; all are read for that
            packed = open_faces(what)
            faces, identities = Relabelled(faces, np.arange(len(faces)), packed.labels), len(packed.identities)
        note, beside = f"TFDS {path}: {len(faces)} pictures of {identities} identities", []
    elif records := packed_in(root):
        packed = open_faces(records)  # with the names of train.lst, where it is there
        faces, identities = packed.source, len(packed.identities)
        note, what = f"{records.name}: {len(faces)} pictures of {identities} identities", str(records)
        beside = packed.notes
    else:
        return None, 0, []
    if identities < 2:
        raise UserError(f"{what} holds {identities} identity; training needs two or more.")
    return faces, identities, [note, *beside]
