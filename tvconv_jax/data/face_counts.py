"""Numbers of images and identities of the faces that a config names, before any image is decoded."""

from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from tvconv_jax.data.formats import folder
from tvconv_jax.data.formats.bin_file import is_bin
from tvconv_jax.data.formats.pairs import pair_lists
from tvconv_jax.data.formats.record_faces import RecordFaces
from tvconv_jax.data.formats.tfds_faces import PREFIX, TfdsFaces, is_tfds, locate
from tvconv_jax.data.listing import LeftOut, named
from tvconv_jax.data.sets import packed_in
from tvconv_jax.data.subset import read_include_list
from tvconv_jax.data.synthetic import embedded
from tvconv_jax.utils.files import user_path


class FaceCounts(NamedTuple):
    """Sizes of a face data set."""

    images: int  # to train on
    identities: tuple[str, ...]  # their names; empty if the set has no folders
    verified: bool  # whether there is a verification set
    root: str  # folder in which verification sets are looked for


def count_faces(config: ConfigDict) -> FaceCounts:
    """Count the faces of ``config``, the ``data`` part of a face config, without decoding an image.

    Raises:
        UserError: If a folder is missing, or holds nothing to train on.
    """
    if config.source == "embedded":
        identities, photos, _ = embedded.SIZES[config.size]
        return FaceCounts(identities * photos, (), True, "")
    packed = config.source == "casia" and config.root.startswith(PREFIX)
    base = None if packed else folder.existing(config.root)
    other = config.get("verify_root")
    tests = folder.existing(other, "data.verify_root") if other else base
    images, identities = _training(base, config)
    if config.include_list:
        names = read_include_list(user_path(config.include_list))
        images, identities = len(names), tuple(sorted({name.partition("/")[0] for name in names}))
    kinds = [pair_lists(tests), *([named(tests, is_bin)] if config.source == "casia" else [])] if tests else []
    return FaceCounts(images, identities, any(kinds), str(tests or ""))


def _training(base: Path | None, config: ConfigDict) -> tuple[int, tuple[str, ...]]:
    if config.source == "casia" and (base is None or is_tfds(base)):
        return len(TfdsFaces(locate(str(base or config.root).removeprefix(PREFIX)))), ()
    if config.source == "casia" and (records := packed_in(base)):
        return len(RecordFaces(records)), ()
    files = folder.training_files(base, LeftOut())
    return len(files), tuple(sorted({path.parent.name for path in files}))
