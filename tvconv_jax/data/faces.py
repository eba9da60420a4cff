"""Which faces a run trains and verifies on, from its config."""

from typing import NamedTuple

from ml_collections import ConfigDict

from tvconv_jax.data import autodetect as found
from tvconv_jax.data.formats import folder
from tvconv_jax.data.formats.pairs import Pairs
from tvconv_jax.data.records import Source, cache_dir
from tvconv_jax.data.subset import KeptFaces
from tvconv_jax.data.synthetic import embedded
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import user_path


class FaceData(NamedTuple):
    """Everything a face run reads.

    Attributes:
        train: Training pictures, labels 0 to ``num_classes - 1``.
        num_classes: Identities in the training pictures.
        verification: For each set its unique pictures and the pairs of them.
        description: What the data is, for results.
        notes: What the user should know: skipped and resized pictures.
    """

    train: Source
    num_classes: int
    verification: dict[str, tuple[Source, Pairs]]
    description: str
    notes: list[str]


def load_faces(config: ConfigDict) -> FaceData:
    """Opens the data of ``config.data``, preparing it in the cache the first time.

    Args:
        config: The ``data`` part of a face config: ``source`` and what that source reads.

    Raises:
        UserError: If the source is unknown or what it needs is missing or broken.
    """
    if config.source == "embedded":
        train, verification, identities = embedded.load(config.size, cache_dir())
        text = f"embedded synthetic faces drawn by tvconv_jax ({identities} people, {len(train)} pictures)"
        return FaceData(train, identities, verification, text, [])
    if config.source not in ("folder", "casia"):
        raise UserError(f"data.source {config.source!r} is unknown; there are: embedded, folder, casia.")
    size = {"image_size": config.image_size, "max_corrupt": config.max_corrupt}
    if config.source == "folder":
        train, verification, summary = folder.load(folder.existing(config.root), cache_dir(), **size)
    else:
        train, verification, summary = found.load(config.root, cache_dir(), verify_root=config.verify_root, **size)
    identities, notes = summary["identities"], summary["notes"]
    if config.include_list:
        train = KeptFaces(train, user_path(config.include_list))
        notes.append(train.note)
        identities = train.identities
    text = f"{config.source} {config.root} ({identities} identities, {len(train)} pictures)"
    return FaceData(train, identities, verification, text, notes)
