"""Numbers of images and identities that a config names, before any image is decoded."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from tvconv_jax.data.formats import folder
from tvconv_jax.data.formats.bin_file import is_bin
from tvconv_jax.data.formats.pairs import pair_lists
from tvconv_jax.data.formats.record_faces import RecordFaces
from tvconv_jax.data.formats.tfds_faces import PREFIX, TfdsFaces, is_tfds, locate
from tvconv_jax.data.listing import SUFFIXES, LeftOut, named
from tvconv_jax.data.sets import packed_in
from tvconv_jax.data.source import LooseFiles, Source
from tvconv_jax.data.subset import read_include_list
from tvconv_jax.data.synthetic import embedded
from tvconv_jax.utils.files import user_path


class FaceCounts(NamedTuple):
    """Sizes of a data set of identities."""

    images: int  # to train on
    identities: tuple[str, ...]  # their names; empty if the set has no folders
    verified: bool  # whether there is a verification set
    root: str  # folder in which verification sets are looked for
    source: Source | None = None  # the images to train on; None: they are drawn
    single: tuple[str, ...] = ()  # names of the identities with one image


def count_faces(config: ConfigDict, suffixes: tuple[str, ...] = SUFFIXES) -> FaceCounts:
    """Count the images of ``config``, the ``data`` part of a config, without decoding one.

    ``suffixes`` are those of the files that are images of identities, where these lie in folders.

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
    source, names = _training(base, config, suffixes)
    images = len(source)
    if config.include_list:
        names = read_include_list(user_path(config.include_list))
        images, names = len(names), [name.partition("/")[0] for name in names]
    kinds = [pair_lists(tests), *([named(tests, is_bin)] if config.source == "casia" else [])] if tests else []
    counts = Counter(names)
    single = tuple(sorted(name for name, number in counts.items() if number == 1))
    return FaceCounts(images, tuple(sorted(counts)), any(kinds), str(tests or ""), source, single)


def _training(base: Path | None, config: ConfigDict, suffixes: tuple[str, ...]) -> tuple[Source, list[str]]:
    """Return the images to train on, and the identity of each if it is known by its folder."""
    if config.source == "casia" and (base is None or is_tfds(base)):
        return TfdsFaces(locate(str(base or config.root).removeprefix(PREFIX))), []
    if config.source == "casia" and (records := packed_in(base)):
        return RecordFaces(records), []
    files = folder.training_files(base, LeftOut(), suffixes)
    return LooseFiles(files), [path.parent.name for path in files]
