"""Faces in folders: ``root/train/<identity>/*.jpg`` (or ``root/<identity>/*.jpg``), ``root/<set>_pair.txt``."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tvconv_jax.data.cache import digest
from tvconv_jax.data.decoder import READING, ImageError, pixels, read_image
from tvconv_jax.data.formats.pairs import Pairs, pair_lists, read_pairs, set_of
from tvconv_jax.data.listing import SUFFIXES, LeftOut, identity_images, printable, scan
from tvconv_jax.data.records import ImageSource, RecordBuilder, one_writer, prepare
from tvconv_jax.data.source import Record
from tvconv_jax.data.tools.progress import track
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import check_names, read_json, user_path, write_json

# Names that a verification set cannot have, and why.
RESERVED = {
    "train": "as the training pictures are",
    "all": "which means all splits of a set",
    "step": "as the step in metrics.jsonl is",
    "score": "as the mean over the sets is",
}


class FolderFaces(RecordBuilder):
    """Copies of the user's loose pictures, in the cache."""

    name = "folder_faces"


def load(
    base: Path, cache: Path, *, image_size: int, max_corrupt: float, train: bool = True
) -> tuple[ImageSource | None, dict[str, tuple[ImageSource, Pairs]], dict[str, Any]]:
    """Copies the faces of a folder into records, unless the cache holds them as they are now.

    Args:
        base: The folder; every ``<set>_pair.txt`` in it is a verification set with its pictures in ``base/<set>/``.
        cache: The cache folder.
        image_size: Side that pictures are expected to have; the others are counted in the notes.
        max_corrupt: Share of unreadable training pictures that is skipped; a larger one is an error.
        train: Whether to take the identities; ``False`` where the training pictures come from elsewhere.

    Returns:
        The training pictures; each verification set's pictures and pairs; ``{"identities": int, "notes": [str]}``.

    Raises:
        UserError: If the folder is missing, holds no identities or only one, or a picture or a pair list is bad.
    """
    lists, left_out = _pair_lists(base), LeftOut()
    splits = {"train": training_files(base, left_out)} if train else {}
    splits |= {name: [base / name / file for file in files] for name, (_, files) in lists.items()}
    if not splits:
        return None, {}, {"identities": 0, "notes": []}
    # The records are made anew as soon as a file comes, goes or changes; they serve every image_size and max_corrupt.
    check_names(path for files in splits.values() for path in files)
    stamps = [_stamp(split, path) for split in splits for path in splits[split]]
    folder = cache / f"folder-{digest(READING, str(base), *stamps)}"
    summary_file = folder / "summary.json"
    if not summary_file.exists():
        with one_writer(folder):
            if not summary_file.exists():  # no other process wrote it while this one waited
                _write(folder, base, splits, max_corrupt)
    summary = read_json(summary_file, f"remove {folder}")
    notes = left_out.notes(base)
    for split, checked in summary["checked"].items():
        notes += _notes(checked, max_corrupt if split == "train" else 0, image_size)
    builder = FolderFaces(splits=dict.fromkeys(splits, []), data_dir=folder)
    sources = {split: ImageSource(builder, split) for split in splits}
    verification = {name: (sources[name], pairs) for name, (pairs, _) in lists.items()}
    return sources.get("train"), verification, {"identities": summary["identities"], "notes": notes}


def _stamp(split: str, path: Path) -> str:
    status = path.stat()
    return f"{split} {path} {status.st_size} {status.st_mtime_ns}"


def _pair_lists(base: Path) -> dict[str, tuple[Pairs, list[str]]]:
    """By set: ``<set>_pair.txt``, and LFW's own ``pairs.txt`` where there is no ``lfw_pair.txt``."""
    lists = {}
    for path in pair_lists(base):
        name, _ = set_of(path)
        check_set_name(path, name)
        if name not in lists:
            lists[name] = read_pairs(path)
    return lists


def check_set_name(path: Path, name: str) -> None:
    """Raises a ``UserError`` if a verification set cannot be called so."""
    if name in RESERVED:
        raise UserError(f"{path}: no verification set can be called {name!r}, {RESERVED[name]}; give it another name.")


def existing(root: str, key: str = "data.root") -> Path:
    """The folder that a config key names; a ``UserError`` if there is none."""
    if not root:
        raise UserError(f"{key} is empty; name the folder with --config.{key}=DIR.")
    base = user_path(root).absolute()
    if not base.is_dir():
        raise UserError(f"{key} {base} is no folder; name one with --config.{key}=DIR.")
    return base


def training_files(base: Path, left_out: LeftOut) -> list[Path]:
    """Every picture of every identity, sorted.

    Args:
        base: The folder; identities lie in it or in its ``train``.
        left_out: Where to count what is left out.

    Raises:
        UserError: If there are no two identities, or one would be lost.
    """
    files = identity_files(base, left_out)
    identities = {path.parent for path in files}
    if len(identities) < 2:
        raise UserError(
            f"{_people(base)} holds {len(identities)} identities with pictures; training needs two or more folders "
            f"<identity>/*.jpg in it{_elsewhere(base)}{''.join(f' ({note})' for note in left_out.notes(base))}."
        )
    return files


def _elsewhere(base: Path) -> str:
    """Where a packed set lies that may have been meant: in the folder or one below it."""
    if not base.is_dir():
        return ""
    folders, files = scan(base, LeftOut())
    for folder in folders:
        files = files + scan(folder, LeftOut())[1]
    packed = next((path for path in files if path.suffix.lower() == ".rec"), None)
    if not packed:
        return ""
    rename = "" if packed.name.lower() == "train.rec" else "call it train.rec, and "
    return f". A packed set is in {packed}: {rename}train on it with data=casia and --config.data.root={packed.parent}"


def _people(base: Path) -> Path:
    """The folder of identities: the one named ``train``, or ``base`` itself."""
    return base / "train" if (base / "train").is_dir() else base


def identity_files(base: Path, left_out: LeftOut) -> list[Path]:
    """The pictures in the folders of identities, sorted; the folders of the verification sets beside them are none."""
    people = _people(base)
    apart = {set_of(path)[0] for path in pair_lists(base)} if people == base else set()
    return identity_images(people, SUFFIXES, left_out, apart)


def _write(folder: Path, base: Path, splits: dict[str, list[Path]], max_corrupt: float) -> None:
    """Checks every picture, then writes the records and, last, the summary that makes them complete."""
    checked = {}
    for split, files in splits.items():
        splits[split], checked[split] = _readable(files)
        _notes(checked[split], max_corrupt if split == "train" else 0, 0)  # too many are an error, and nothing is kept
        if split == "train":
            _check_identities(files, splits[split], checked[split])
    people = sorted({path.parent.name for path in splits.get("train", [])})
    identities = {name: label for label, name in enumerate(people)}

    def records(files: list[Path]) -> Iterator[Record]:
        for path in files:
            label = identities.get(path.parent.name, 0)
            name = path.relative_to(base) if path.is_relative_to(base) else path
            yield Record(image=path.read_bytes(), label=label, name=str(name))

    records_of = {split: records(files) for split, files in splits.items()}
    prepare(FolderFaces(splits=records_of, data_dir=folder), f"the faces of {base}")
    write_json(folder / "summary.json", {"identities": len(identities), "checked": checked})


def _check_identities(files: list[Path], good: list[Path], checked: dict[str, Any]) -> None:
    """Notes identities of which no picture can be read; an error if fewer than two are left."""
    people, left = ({path.parent.name for path in paths} for paths in (files, good))
    checked["lost"] = sorted(people - left)
    if len(left) < 2:
        raise UserError(
            f"{checked['folder']} holds {len(left)} identities with pictures that can be read "
            f"({len(checked['bad'])} of {len(files)} cannot); training needs two or more: repair them."
        )


def _readable(files: list[Path]) -> tuple[list[Path], dict[str, Any]]:
    """The files that decode whole, and what :func:`_notes` tells of all: faults and sizes."""
    good, bad, sizes = [], [], Counter()
    for path in track(files, total=len(files), text=f"Checking {files[0].parent.parent.name}"):
        try:
            height, width = pixels(read_image(path)).shape[:2]
            sizes[f"{width}x{height}"] += 1
            good.append(path)
        except ImageError as error:
            bad.append(f"{path}: {error}")
    return good, {"folder": str(files[0].parent.parent), "files": len(files), "bad": bad, "sizes": sizes}


def _notes(checked: dict[str, Any], max_corrupt: float, side: int) -> list[str]:
    """What is skipped or of another size; an error if more than a share cannot be read."""
    bad, count, notes = checked["bad"], checked["files"], []
    named = ", ".join(map(printable, bad[:3])) + (" ..." if len(bad) > 3 else "")
    if len(bad) > max_corrupt * count:
        raise UserError(
            f"{len(bad)} of {count} pictures cannot be read ({named}), more than the share {max_corrupt} that "
            f"is skipped; repair or remove them."
        )
    if bad:
        notes.append(f"skipped {len(bad)} of {count} pictures that cannot be read: {named}")
    if lost := checked.get("lost"):
        notes.append(f"{len(lost)} identities have no picture that can be read: left out ({printable(lost[0])})")
    if resized := sum(checked["sizes"].values()) - checked["sizes"].get(f"{side}x{side}", 0):
        notes.append(f"{resized} of {count} pictures in {checked['folder']} are resized to {side}x{side}")
    return notes
