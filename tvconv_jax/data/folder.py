"""Faces in folders: ``root/train/<identity>/*.jpg`` (or ``root/<identity>/*.jpg``), ``root/<set>_pair.txt``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from tvconv_jax.data.decoder import DECODE_ERRORS, check_mode
from tvconv_jax.data.pairs import Pairs, read_lfw_pairs, read_pairs
from tvconv_jax.data.progress import track
from tvconv_jax.data.records import ImageSource, Record, RecordBuilder, digest, one_writer, prepare
from tvconv_jax.errors import UserError
from tvconv_jax.files import check_names, read_json, user_path, write_json

SUFFIXES = (".jpg", ".jpeg", ".png")


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
    lists = _pair_lists(base)
    splits = {"train": training_files(base)} if train else {}
    sets = {name: [base / name / file for file in files] for name, (_, files) in lists.items()}
    splits |= sets
    if not splits:
        return None, {}, {"identities": 0, "notes": []}
    # The records are made anew as soon as a file comes, goes or changes.
    every = [path for files in splits.values() for path in files]
    check_names(every)
    stamps = [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in every]
    folder = cache / f"folder-{digest(str(image_size), str(max_corrupt), *stamps)}"
    summary_file = folder / "summary.json"
    if not summary_file.exists():
        with one_writer(folder):
            if not summary_file.exists():  # no other process wrote it while this one waited
                _write(folder, base, splits, image_size, max_corrupt)
    builder = FolderFaces(splits=dict.fromkeys(splits, []), data_dir=folder)
    sources = {split: ImageSource(builder, split) for split in splits}
    verification = {name: (sources[name], pairs) for name, (pairs, _) in lists.items()}
    return sources.get("train"), verification, read_json(summary_file, f"remove {folder}")


def _pair_lists(base: Path) -> dict[str, tuple[Pairs, list[str]]]:
    """By set: ``<set>_pair.txt``, and LFW's own ``pairs.txt``."""
    lists = {}
    for path in sorted(base.glob("*_pair.txt")):
        name = path.name.removesuffix("_pair.txt")
        check_set_name(path, name)
        lists[name] = read_pairs(path, base / name)
    if "lfw" not in lists and (base / "pairs.txt").exists():
        lists["lfw"] = read_lfw_pairs(base / "pairs.txt", base / "lfw")
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


def training_files(base: Path) -> list[Path]:
    """Every picture of every identity, sorted.

    Raises:
        UserError: If there are no two identities.
    """
    files = [path for path in identity_files(base) if path.suffix.lower() in SUFFIXES]
    identities = {path.parent for path in files}
    if len(identities) < 2:
        raise UserError(
            f"{_people(base)} holds {len(identities)} identities with pictures; training needs two or more folders "
            f"<identity>/*.jpg in it."
        )
    return files


def _people(base: Path) -> Path:
    """The folder of identities: the one named ``train``, or ``base`` itself."""
    return base / "train" if (base / "train").is_dir() else base


def identity_files(base: Path) -> list[Path]:
    """What lies in the folders of identities, sorted; the folders of the verification sets beside them are none."""
    people, sets = _people(base), set()
    if people == base:
        sets = {path.name.removesuffix("_pair.txt") for path in base.glob("*_pair.txt")}
        sets |= {"lfw"} if (base / "pairs.txt").exists() else set()
    return sorted(path for path in people.glob("*/*") if path.parent.name not in sets)


def _left_out(base: Path) -> list[str]:
    """A note on files of identities that are no pictures we read."""
    others = [p for p in identity_files(base) if p.suffix.lower() not in SUFFIXES and p.name[0] != "." and p.is_file()]
    return (
        [f"{len(others)} files of identities are not {', '.join(SUFFIXES)}: left out ({others[0]})"] if others else []
    )


def _write(folder: Path, base: Path, splits: dict[str, list[Path]], image_size: int, max_corrupt: float) -> None:
    """Checks every picture, then writes the records and, last, the summary that makes them complete."""
    notes = _left_out(base) if "train" in splits else []
    splits = {
        split: _readable(files, max_corrupt if split == "train" else 0, image_size, notes)
        for split, files in splits.items()
    }
    people = sorted({path.parent.name for path in splits.get("train", [])})
    identities = {name: label for label, name in enumerate(people)}

    def records(files: list[Path]) -> Iterator[Record]:
        for path in files:
            label = identities.get(path.parent.name, 0)
            yield Record(image=path.read_bytes(), label=label, name=str(path.relative_to(base)))

    records_of = {split: records(files) for split, files in splits.items()}
    prepare(FolderFaces(splits=records_of, data_dir=folder), f"the faces of {base}")
    write_json(folder / "summary.json", {"identities": len(identities), "notes": notes})


def _readable(files: list[Path], max_corrupt: float, side: int, notes: list[str]) -> list[Path]:
    """The files that decode whole; what is skipped or of another size is noted."""
    good, bad, resized = [], [], 0
    for path in track(files, total=len(files), text=f"Checking {files[0].parent.parent.name}"):
        try:
            with Image.open(path) as image:
                image.load()
                check_mode(image)
                resized += image.size != (side, side)
            good.append(path)
        except ValueError as error:
            bad.append(f"{path}: {error}")
        except DECODE_ERRORS:
            bad.append(str(path))
    named = ", ".join(bad[:3]) + (" ..." if len(bad) > 3 else "")
    if len(bad) > max_corrupt * len(files):
        raise UserError(
            f"{len(bad)} of {len(files)} pictures cannot be read ({named}), more than the share {max_corrupt} that "
            f"is skipped; repair or remove them."
        )
    if bad:
        notes.append(f"skipped {len(bad)} of {len(files)} pictures that cannot be read: {named}")
    if resized:
        notes.append(f"{resized} of {len(files)} pictures in {files[0].parent.parent} are resized to {side}x{side}")
    return good
