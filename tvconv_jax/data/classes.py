"""Classification sets: found and split without decoding, then opened with all images decoded at the model's size."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tvconv_jax.data.class_files import SPLITS, ClassFile, list_files
from tvconv_jax.data.decoded import DecodedImages, decode_files
from tvconv_jax.data.listing import LeftOut, printable
from tvconv_jax.data.split import check_groups, describe_split, held_out
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import user_path, whole_number
from tvconv_jax.utils.sizes import describe_size, height_width


class ClassSet(NamedTuple):
    """A set before its images are decoded."""

    files: list[ClassFile]
    classes: list[str]  # names in the order of the labels
    labels: np.ndarray  # int [n]
    test: np.ndarray  # whether an image is to test on, boolean [n]
    notes: list[str]

    @property
    def groups(self) -> list[str] | None:
        """Groups of the images; ``None`` if there are none."""
        return None if self.files[0].group is None else [str(file.group) for file in self.files]


class ClassData(NamedTuple):
    """Everything a classification run reads."""

    train: DecodedImages
    validation: DecodedImages | None  # a share of the training images that is not trained on
    test: DecodedImages
    classes: list[str]  # names in the order of the labels
    groups: list[str] | None  # of the test images; None if there are none
    description: str  # the data in a line, for results
    notes: list[str]  # messages for the user: split, skipped and resized images


def find_classes(config: Any) -> ClassSet:
    """List, check and split the set of ``config``, the ``data`` part of a classification config.

    Raises:
        UserError: If the root is missing, the set is not laid out as one, has fewer than two classes, a class has too
            few images, or a class or group is on the wrong sides.
    """
    root = _root(config.root)
    return _split(root, _listed(root, config), config)


def _listed(root: Path, config: Any) -> ClassSet:
    """Return the set as it is laid out; no image is to test on yet where the split is to be drawn."""
    left_out = LeftOut()
    files = list_files(root, config.group_pattern, left_out)
    classes = sorted({file.label for file in files}, key=_class_order)
    if len(classes) < 2:
        raise UserError(_too_few(root, classes, left_out))
    if {name.lower().rstrip("s") for name in classes} == {"image", "mask"}:
        raise UserError(
            f"{root} holds images and masks, not classes; train on them with "
            f"--config=configs/segmentation.py:data=folder, or rename the folders if they are classes."
        )
    numbers = {name: label for label, name in enumerate(classes)}
    labels = np.array([numbers[file.label] for file in files], np.int32)
    return ClassSet(files, classes, labels, np.array([file.split == "test" for file in files]), left_out.notes(root))


def _split(root: Path, found: ClassSet, config: Any) -> ClassSet:
    """Return the set with its split, drawn unless it has one, once both were checked."""
    drawn = not found.files[0].split
    if drawn:
        _check_counts(root, found)
        test = held_out(found.labels, found.groups, config.test_share, config.split_seed)
        found = found._replace(test=test)
    _check_sides(root, found, drawn=drawn)
    return found._replace(notes=[*_split_notes(found, config), *found.notes])


def _root(text: str) -> Path:
    if not text:
        raise UserError("data.root is empty; name a folder or a CSV with --config.data.root=PATH.")
    root = user_path(text).absolute()
    if not root.exists():
        raise UserError(f"data.root {root} does not exist; name a folder or a CSV with --config.data.root=PATH.")
    if not root.is_dir() and root.suffix.lower() not in (".csv", ".tsv", ".txt"):
        raise UserError(f"data.root {root} is neither a folder nor a CSV; name one with --config.data.root=PATH.")
    return root


def _class_order(name: str) -> tuple:
    number = whole_number(name)
    return (1, 0, name) if number is None else (0, number, name)


def _too_few(root: Path, classes: Sequence[str], left_out: LeftOut) -> str:
    named = f" ({printable(classes[0])})" if classes else ""
    where = "in its column class" if root.is_file() else "as folders <class>/, or in train/<class>/ and test/<class>/"
    notes = "".join(f" ({note})" for note in left_out.notes(root))
    return f"{root} holds {len(classes)} classes{named}; training needs two or more, {where}{notes}."


def _check_counts(root: Path, found: ClassSet) -> None:
    counts = np.bincount(found.labels, minlength=len(found.classes))
    least = int(counts.argmin())
    if counts[least] == 1:
        raise UserError(
            f"{root}: class {printable(found.classes[least])} has one image, and needs two, to train and to test on; "
            f"add some, or remove the class."
        )


def _check_sides(root: Path, found: ClassSet, *, drawn: bool) -> None:
    """Raise a ``UserError`` if a class is on one side only, or a group on both."""
    for label, name in enumerate(found.classes):
        sides = set(found.test[found.labels == label].tolist())
        if not sides:
            raise UserError(f"{root}: class {printable(name)} has no image that can be decoded; repair or remove it.")
        if len(sides) == 1:
            there, lacking = SPLITS[::-1] if sides == {True} else SPLITS
            if drawn:
                hint = "its images are of too few groups to split; add some, or change data.test_share or the groups"
            else:
                hint = f"add images of it to {lacking}, or remove it from {there}"
            raise UserError(f"{root}: class {printable(name)} is only in {there}, not in {lacking}; {hint}.")
    if found.groups is not None and not drawn:
        check_groups(root, found.groups, found.test)


def _split_notes(found: ClassSet, config: Any) -> list[str]:
    drawn, groups = not found.files[0].split, found.groups
    notes = []
    if drawn:
        notes.append(
            f"split: {describe_split(found.test, groups)} to test on, drawn by class "
            f"(data.test_share {config.test_share:g}, data.split_seed {config.split_seed})"
        )
    elif groups is not None:
        count = len({group for group, test in zip(groups, found.test, strict=True) if test})
        notes.append(f"split: {count} of {len(set(groups))} groups are to test on, none on both sides")
    return notes


def load_classes(config: Any, cache: Path) -> ClassData:
    """Open the data of ``config``, the ``data`` part of a classification config, decoding it the first time.

    Raises:
        UserError: As :func:`find_classes`, or if more images than ``max_corrupt`` cannot be decoded.
    """
    root = _root(config.root)
    found = _listed(root, config)
    size = height_width(config.image_size)
    decoded = decode_files([file.path for file in found.files], size, cache)
    notes = [*_bad_notes(found, decoded.bad, config.max_corrupt), *_size_notes(decoded.sizes, size)]
    good = np.array([row for row in range(len(found.files)) if row not in decoded.bad], np.int64)
    if not len(good):
        raise UserError(f"{root}: none of its {len(found.files)} images can be decoded; repair or convert them.")
    kept = found._replace(files=[found.files[row] for row in good], labels=found.labels[good], test=found.test[good])
    kept = _split(root, kept, config)
    images = DecodedImages(decoded.pixels, good, kept.labels, [file.name for file in kept.files])
    kind = "folder" if root.is_dir() else "CSV"
    return split_sources(images, kept, f"{kind} {config.root}", config, [*kept.notes, *notes])


def split_sources(images: DecodedImages, kept: ClassSet, title: str, config: Any, notes: list[str]) -> ClassData:
    """Return train, validation and test images of a set whose images are all decoded."""
    train, groups = np.flatnonzero(~kept.test), kept.groups
    validation = np.zeros(len(train), bool)
    if config.validation_share:
        of_train = None if groups is None else [groups[index] for index in train]
        validation = held_out(kept.labels[train], of_train, config.validation_share, config.split_seed)
        if len(np.unique(kept.labels[train[~validation]])) < len(kept.classes):
            notes = [*notes, "note: a class has too few groups for a validation part; there is none"]
            validation[:] = False
    test = np.flatnonzero(kept.test)
    parts = {"train": images.select(train[~validation]), "test": images.select(test)}
    held = images.select(train[validation]) if validation.any() else None
    description = f"{title} ({len(kept.classes)} classes, {len(parts['train'])} images to train on"
    description += f", {len(held)} to validate on" if held else ""
    description += f", {len(test)} to test on)"
    tested = None if groups is None else [groups[index] for index in test]
    return ClassData(parts["train"], held, parts["test"], kept.classes, tested, description, notes)


def _bad_notes(found: ClassSet, bad: dict[int, str], max_corrupt: float) -> list[str]:
    if not bad:
        return []
    named = [f"{printable(found.files[row].name)}: {error}" for row, error in list(bad.items())[:3]]
    shown = "; ".join(named) + (" ..." if len(bad) > 3 else "")
    if len(bad) > max_corrupt * len(found.files):
        raise UserError(
            f"{len(bad)} of {len(found.files)} images cannot be decoded ({shown}), more than data.max_corrupt "
            f"{max_corrupt:g}; repair or remove them, or raise it to leave them out."
        )
    return [f"skipped {len(bad)} of {len(found.files)} images that cannot be decoded: {shown}"]


def _size_notes(sizes: dict[str, int], size: tuple[int, int]) -> list[str]:
    resized = {name: count for name, count in sizes.items() if name != describe_size(size)}
    if not resized:
        return []
    most = max(resized, key=lambda name: resized[name])
    own = f"of {most}" if len(resized) == 1 else f"of {len(resized)} sizes, mostly {most},"
    return [f"{sum(resized.values())} of {sum(sizes.values())} images {own} are resized to {describe_size(size)}, once"]
