"""The identities that a run trains and verifies on, from its config: embedded, in folders, or packed."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from tvconv_jax.data.cache import cache_dir
from tvconv_jax.data.formats import folder
from tvconv_jax.data.formats.bin_file import BinFaces, is_bin
from tvconv_jax.data.formats.pairs import Pairs, pair_lists
from tvconv_jax.data.formats.record_faces import RecordFaces
from tvconv_jax.data.formats.tfds_faces import PREFIX, TfdsFaces, is_tfds, locate
from tvconv_jax.data.listing import SUFFIXES, LeftOut, named
from tvconv_jax.data.sets import open_faces, packed_in
from tvconv_jax.data.source import LooseFiles, Source
from tvconv_jax.data.subset import Subset, read_include_list, select_listed
from tvconv_jax.data.synthetic import embedded
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import user_path


class FaceData(NamedTuple):
    """Everything a verification run reads."""

    train: Source  # training images, labels 0 to num_classes - 1
    num_classes: int  # identities in the training images
    verification: dict[str, tuple[Source, Pairs]]  # for each set its unique images and the pairs of them
    description: str  # the data in a line, for results
    notes: list[str]  # messages for the user: skipped and resized images


class FaceCounts(NamedTuple):
    """Sizes of a data set of identities."""

    images: int  # to train on
    identities: tuple[str, ...]  # their names; empty if the set has no folders
    verified: bool  # whether there is a verification set
    root: str  # folder in which verification sets are looked for
    source: Source | None = None  # the images to train on; None: they are drawn
    single: tuple[str, ...] = ()  # names of the identities with one image


def load_faces(config: ConfigDict, suffixes: tuple[str, ...] = SUFFIXES) -> FaceData:
    """Open the data of ``config``, the ``data`` part of a config, preparing it in the cache the first time.

    ``source`` is ``embedded``, ``folder`` (``<identity>/*.jpg`` and ``<set>_pair.txt``) or ``casia``: any format, found
    by looking. Its training images are ``root/train.rec``, a TFDS set, or else folders of identities; its verification
    sets are every ``<set>.bin``, every ``<set>_pair.txt`` with its folder, and LFW's ``pairs.txt``, in ``verify_root``
    or else in ``root``. If a set is there twice, its ``.bin`` is used.

    Args:
        config: The ``data`` part.
        suffixes: Of the files that are images of identities, where these lie in folders.

    Raises:
        UserError: If the source is unknown, there is nothing to train on, or a file is missing or damaged.
    """
    if config.source == "embedded":
        options = _drawn(config) | {"seed": getattr(config, "split_seed", 0)}
        train, verification, identities = embedded.load(config.size, cache_dir(), **options)
        text = f"embedded synthetic faces drawn by tvconv_jax ({identities} identities, {len(train)} images)"
        return FaceData(train, identities, verification, text, [])
    if config.source not in ("folder", "casia"):
        raise UserError(f"data.source {config.source!r} is unknown; there are: embedded, folder, casia.")
    base = folder.existing(config.root) if config.source == "folder" else None
    data = _load_folder(base, config, suffixes) if base else _detect(config, suffixes)
    train, identities, notes = data.train, data.num_classes, data.notes
    if config.include_list:
        path = user_path(config.include_list)
        train, identities = select_listed(train, path)
        notes.append(f"kept {len(train)} of {len(data.train)} images, {identities} identities, by {path}")
    text = f"{config.source} {config.root} ({identities} identities, {len(train)} images)"
    return FaceData(train, identities, data.verification, text, notes)


def _drawn(config: ConfigDict) -> dict[str, int]:
    return {name: getattr(config, name, 0) for name in ("identities", "photos")}


def _load_folder(base: Path, config: ConfigDict, suffixes: tuple[str, ...], *, train: bool = True) -> FaceData:
    options = {"image_size": config.image_size, "max_corrupt": config.max_corrupt, "suffixes": suffixes}
    source, verification, summary = folder.load(base, cache_dir(), **options, train=train)
    return FaceData(source, summary["identities"], verification, "", summary["notes"])


def _detect(config: ConfigDict, suffixes: tuple[str, ...]) -> FaceData:
    base = None if config.root.startswith(PREFIX) else folder.existing(config.root)
    tests = folder.existing(config.verify_root, "data.verify_root") if config.verify_root else base
    data = _open_packed(base or config.root)
    loose = data is None
    if loose:
        data = _load_folder(base, config, suffixes)
    if tests is not None and not (loose and tests == base):
        beside = _load_folder(tests, config, suffixes, train=False)
        data = data._replace(verification=beside.verification, notes=[*data.notes, *beside.notes])
    verification = data.verification
    notes = {name: f"{name}: {len(pairs.same)} pairs, images from folders" for name, (_, pairs) in verification.items()}
    for path in named(tests, is_bin) if tests else []:
        folder.check_set_name(path, path.stem)
        faces = BinFaces(path)
        notes[path.stem] = f"{path.stem}: {len(faces.pairs.same)} pairs from {path.name}"
        verification[path.stem] = (faces, faces.pairs)
    return data._replace(verification=verification, notes=[*data.notes, *notes.values()])


def _open_packed(root: Path | str) -> FaceData | None:
    """Open the training images of a TFDS set or of ``train.rec``; ``None`` if ``root`` is neither."""
    if isinstance(root, str) or is_tfds(root):
        faces, title = TfdsFaces(locate(str(root).removeprefix(PREFIX))), str(root)
        path, identities = faces.path, len(faces.identities or ())
        if not identities:  # labels are any numbers; the class weights need 0, 1, ..., so all are read
            packed = open_faces(title)
            faces, identities = Subset(faces, np.arange(len(faces)), packed.labels), len(packed.identities)
        notes = [f"TFDS {path}: {len(faces)} images of {identities} identities"]
    elif records := packed_in(root):
        packed, title = open_faces(records), str(records)  # with the names of train.lst, if it exists
        faces, identities = packed.source, len(packed.identities)
        notes = [f"{records.name}: {len(faces)} images of {identities} identities", *packed.notes]
    else:
        return None
    if identities < 2:
        raise UserError(f"{title} holds {identities} identity; training needs two or more.")
    return FaceData(faces, identities, {}, "", notes)


def count_faces(config: ConfigDict, suffixes: tuple[str, ...] = SUFFIXES) -> FaceCounts:
    """Count the images of ``config``, the ``data`` part of a config, without decoding one.

    ``suffixes`` are those of the files that are images of identities, where these lie in folders.

    Raises:
        UserError: If a folder is missing, or holds nothing to train on.
    """
    if config.source == "embedded":
        identities, photos = embedded.count(config.size, **_drawn(config))
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
