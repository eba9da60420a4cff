"""Identities in folders: ``root/train/<identity>/*.jpg`` (or ``root/<identity>/*.jpg``), ``root/<set>_pair.txt``."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tvconv_jax.data.cache import digest, stamp
from tvconv_jax.data.decoder import READING, ImageError, pixels, read_image
from tvconv_jax.data.formats.pairs import Pairs, pair_lists, read_pairs, set_of
from tvconv_jax.data.listing import SUFFIXES, LeftOut, identity_images, printable, scan
from tvconv_jax.data.records import ImageSource, RecordBuilder, one_writer, prepare
from tvconv_jax.data.source import Record
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import check_names, read_json, user_path, write_json
from tvconv_jax.utils.progress import track
from tvconv_jax.utils.sizes import Size, describe_size, height_width

# Names that a verification set cannot have, with the reasons.
RESERVED = {
    "train": "the name of the training images",
    "all": "which means all splits of a set",
    "step": "the name of the step in metrics.jsonl",
    "score": "the name of the mean over the sets",
}


class FolderFaces(RecordBuilder):
    """Copies of the user's loose images, in the cache."""

    name = "folder_faces"


def load(
    base: Path,
    cache: Path,
    *,
    image_size: Size,
    max_corrupt: float,
    train: bool = True,
    suffixes: tuple[str, ...] = SUFFIXES,
) -> tuple[ImageSource | None, dict[str, tuple[ImageSource, Pairs]], dict[str, Any]]:
    """Copy the images of a folder into records, unless the cache holds their current state.

    Args:
        base: The folder; every ``<set>_pair.txt`` in it is a verification set with its images in ``base/<set>/``.
        cache: The cache folder.
        image_size: Expected height and width in pixels; the notes count images of another size.
        max_corrupt: Largest share of unreadable training images that is skipped; a larger one is an error.
        train: Whether to read the identities; ``False`` if the training images come from elsewhere.
        suffixes: Of the files that are read as images of identities.

    Returns:
        The training images; each verification set's images and pairs; ``{"identities": int, "notes": [str]}``.

    Raises:
        UserError: If the folder is missing, holds fewer than two identities, or an image or a pair list is bad.
    """
    lists, left_out = _pair_lists(base), LeftOut()
    splits = {"train": training_files(base, left_out, suffixes)} if train else {}
    splits |= {name: [base / name / file for file in files] for name, (_, files) in lists.items()}
    if not splits:
        return None, {}, {"identities": 0, "notes": []}
    # The records are made again when a file is added, removed or changed. They do not depend on image_size.
    check_names(path for files in splits.values() for path in files)
    stamps = [f"{split} {stamp(path)}" for split in splits for path in splits[split]]
    folder = cache / f"folder-{digest(READING, str(base), *stamps)}"
    summary_file = folder / "summary.json"
    if not summary_file.exists():
        with one_writer(folder):
            if not summary_file.exists():  # another process may have written it meanwhile
                _write(folder, base, splits, max_corrupt)
    summary = read_json(summary_file, f"remove {folder}")
    notes = [*left_out.notes(base), *_shared_notes(splits)]
    for split, checked in summary["checked"].items():
        notes += _notes(checked, max_corrupt if split == "train" else 0, image_size)
    builder = FolderFaces(splits=dict.fromkeys(splits, []), data_dir=folder)
    sources = {split: ImageSource(builder, split) for split in splits}
    verification = {name: (sources[name], pairs) for name, (pairs, _) in lists.items()}
    return sources.get("train"), verification, {"identities": summary["identities"], "notes": notes}


def _shared_notes(splits: dict[str, list[Path]]) -> list[str]:
    """Return a note for every verification set with folders of identities that are trained on."""
    names, notes = {split: {path.parent.name for path in files} for split, files in splits.items()}, []
    for split in names.keys() - {"train"}:
        if shared := sorted(names.get("train", set()) & names[split]):
            notes.append(
                f"note: {len(shared)} of the {len(names[split])} identities of {split} are trained on too, by the "
                f"names of their folders ({printable(shared[0])}): its accuracy says little about new identities"
            )
    return sorted(notes)


def _pair_lists(base: Path) -> dict[str, tuple[Pairs, list[str]]]:
    """Return pairs and names by set; LFW's own ``pairs.txt`` is used only without an ``lfw_pair.txt``."""
    lists = {}
    for path in pair_lists(base):
        name, _ = set_of(path)
        check_set_name(path, name)
        if name not in lists:
            lists[name] = read_pairs(path)
    return lists


def check_set_name(path: Path, name: str) -> None:
    """Raise a ``UserError`` if a verification set cannot have this name."""
    if name in RESERVED:
        raise UserError(f"{path}: no verification set can be called {name!r}, {RESERVED[name]}; give it another name.")


def existing(root: str, key: str = "data.root") -> Path:
    """Return the folder that a config key names; raise a ``UserError`` if there is none."""
    if not root:
        raise UserError(f"{key} is empty; name the folder with --config.{key}=DIR.")
    base = user_path(root).absolute()
    if not base.is_dir():
        raise UserError(f"{key} {base} is not a folder; name one with --config.{key}=DIR.")
    return base


def training_files(base: Path, left_out: LeftOut, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """Return :func:`identity_files`; raise a ``UserError`` if there are fewer than two identities, or one is lost."""
    files = identity_files(base, left_out, suffixes)
    identities = {path.parent for path in files}
    if len(identities) < 2:
        raise UserError(
            f"{_identity_folder(base)} holds {len(identities)} identities with images; training needs two or more "
            f"folders <identity>/*.jpg in it{_elsewhere(base)}{''.join(f' ({note})' for note in left_out.notes(base))}."
        )
    return files


def _elsewhere(base: Path) -> str:
    """Return a hint about a packed set, which may have been meant, in the folder or one below it."""
    folders, files = scan(base, LeftOut()) if base.is_dir() else ([], [])
    files = [*files, *(path for folder in folders for path in scan(folder, LeftOut())[1])]
    packed = next((path for path in files if path.suffix.lower() == ".rec"), None)
    if not packed:
        return ""
    rename = "" if packed.name.lower() == "train.rec" else "call it train.rec, and "
    return f". A packed set is in {packed}: {rename}train on it with data=casia and --config.data.root={packed.parent}"


def _identity_folder(base: Path) -> Path:
    return base / "train" if (base / "train").is_dir() else base


def identity_files(base: Path, left_out: LeftOut, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """Return the images of all identities in a folder or in its ``train``, sorted, without verification sets."""
    folder = _identity_folder(base)
    ignore = {set_of(path)[0] for path in pair_lists(base)} if folder == base else set()
    return identity_images(folder, suffixes, left_out, ignore)


def _write(folder: Path, base: Path, splits: dict[str, list[Path]], max_corrupt: float) -> None:
    """Check every image, then write the records and, last, the summary that marks them as complete."""
    checked = {}
    for split, files in splits.items():
        splits[split], checked[split] = _readable(files)
        _notes(checked[split], max_corrupt if split == "train" else 0, 0)  # raises before anything is written
        if split == "train":
            _check_identities(files, splits[split], checked[split])
    names = sorted({path.parent.name for path in splits.get("train", [])})
    identities = {name: label for label, name in enumerate(names)}

    def records(files: list[Path]) -> Iterator[Record]:
        for path in files:
            label = identities.get(path.parent.name, 0)
            name = path.relative_to(base) if path.is_relative_to(base) else path
            yield Record(image=path.read_bytes(), label=label, name=str(name))

    records_of = {split: records(files) for split, files in splits.items()}
    prepare(FolderFaces(splits=records_of, data_dir=folder), f"the images of {base}")
    write_json(folder / "summary.json", {"identities": len(identities), "checked": checked})


def _check_identities(files: list[Path], good: list[Path], checked: dict[str, Any]) -> None:
    """Note identities without a readable image; raise a ``UserError`` if fewer than two are left."""
    identities, left = ({path.parent.name for path in paths} for paths in (files, good))
    checked["lost"] = sorted(identities - left)
    if len(left) < 2:
        raise UserError(
            f"{checked['folder']} holds {len(left)} identities with images that can be read "
            f"({len(checked['bad'])} of {len(files)} cannot); training needs two or more: repair them."
        )


def _readable(files: list[Path]) -> tuple[list[Path], dict[str, Any]]:
    """Return the files that can be decoded, and the errors and sizes for :func:`_notes`."""
    good, bad, sizes = [], [], Counter()
    for path in track(files, total=len(files), text=f"Checking {files[0].parent.parent.name}"):
        try:
            height, width = pixels(read_image(path)).shape[:2]
            sizes[f"{width}x{height}"] += 1
            good.append(path)
        except ImageError as error:
            bad.append(f"{path}: {error}")
    return good, {"folder": str(files[0].parent.parent), "files": len(files), "bad": bad, "sizes": sizes}


def _notes(checked: dict[str, Any], max_corrupt: float, image_size: Size) -> list[str]:
    """Return notes on skipped and resized images; raise a ``UserError`` if more than a share cannot be read."""
    bad, count, notes = checked["bad"], checked["files"], []
    named = ", ".join(map(printable, bad[:3])) + (" ..." if len(bad) > 3 else "")
    if len(bad) > max_corrupt * count:
        raise UserError(
            f"{len(bad)} of {count} images cannot be read ({named}), more than the share {max_corrupt} that is "
            f"skipped; repair or remove them."
        )
    if bad:
        notes.append(f"skipped {len(bad)} of {count} images that cannot be read: {named}")
    if lost := checked.get("lost"):
        notes.append(f"{len(lost)} identities have no image that can be read: left out ({printable(lost[0])})")
    height, width = height_width(image_size)
    if resized := sum(checked["sizes"].values()) - checked["sizes"].get(f"{width}x{height}", 0):
        size = describe_size(image_size) + " (height x width)" * (height != width)
        notes.append(f"{resized} of {count} images in {checked['folder']} are resized to {size}")
    return notes
