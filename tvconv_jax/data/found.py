"""Whatever lies in a folder of face data, in the formats of the field: RecordIO or folders, ``.bin`` or pair lists."""

from pathlib import Path
from typing import Any

from tvconv_jax.data import folder
from tvconv_jax.data.bin_file import BinFaces
from tvconv_jax.data.pairs import Pairs
from tvconv_jax.data.record_faces import RecordFaces
from tvconv_jax.data.records import Source
from tvconv_jax.errors import UserError


def load(
    base: Path, cache: Path, *, image_size: int, max_corrupt: float
) -> tuple[Source, dict[str, tuple[Source, Pairs]], dict[str, Any]]:
    """Opens what ``base`` holds, and says what that is.

    Training pictures are ``base/train.rec`` or else folders of identities; verification sets are every ``<set>.bin``,
    every ``<set>_pair.txt`` with its folder, and LFW's ``pairs.txt``. Of a set that is there
    twice, its ``.bin`` is taken.

    Args:
        base: The folder.
        cache: The cache folder; loose pictures are copied into records there.
        image_size: Side that pictures are expected to have.
        max_corrupt: Share of unreadable loose training pictures that is skipped.

    Returns:
        The training pictures; each verification set's pictures and pairs; ``{"identities": int, "notes": [str]}``.

    Raises:
        UserError: If there is nothing to train on, or a file is damaged.
    """
    records = base / "train.rec"
    loose, verification, summary = folder.load(
        base, cache, image_size=image_size, max_corrupt=max_corrupt, train=not records.exists()
    )
    notes = [f"{name}: {len(pairs.same)} pairs, pictures from folders" for name, (_, pairs) in verification.items()]
    for path in sorted(base.glob("*.bin")):
        faces = BinFaces(path)
        if path.stem in verification:
            notes = [note for note in notes if not note.startswith(f"{path.stem}:")]
        notes.append(f"{path.stem}: {len(faces.pairs.same)} pairs from {path.name}")
        verification[path.stem] = (faces, faces.pairs)
    if loose is not None:
        return loose, verification, summary | {"notes": [*summary["notes"], *notes]}
    train = RecordFaces(records)
    if len(train.labels) < 2:
        raise UserError(f"{records} holds {len(train.labels)} identity; training needs two or more.")
    notes.insert(0, f"train.rec: {len(train)} pictures of {len(train.labels)} identities")
    return train, verification, {"identities": len(train.labels), "notes": [*summary["notes"], *notes]}
