"""Files of a classification set: class folders, with or without ``train/`` and ``test/``, or a CSV that names them."""

import csv
import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from tvconv_jax.data.listing import (
    DECODED_SUFFIXES,
    IMAGE_SUFFIXES,
    LeftOut,
    check_once,
    inode,
    printable,
    scan,
    select,
    walk,
)
from tvconv_jax.data.split import find_groups
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import check_names, posix, read_lines, user_path

SPLITS = ("train", "test")
COLUMNS = ("path", "class", "split", "group")  # of a CSV; the first two are needed
BESIDE = "images beside the folders of classes"
NOT_SPLIT = "folders beside train/ and test/"
OTHER_SPLITS = ("val", "valid", "validation", "dev", "eval", "testing", "training")


class ClassFile(NamedTuple):
    """One image of a set."""

    path: Path
    name: str  # for messages: the path below the root, or as the CSV has it
    label: str  # name of its class
    split: str  # "train", "test", or "" where the split is drawn
    group: str | None  # person or device; None where there are none


def list_files(root: Path, group_pattern: str, left_out: LeftOut) -> list[ClassFile]:
    """List the images of a set, sorted by name; of a CSV in its order.

    Args:
        root: The folder or the CSV.
        group_pattern: Regular expression whose first group, or whole match, on the path below the folder of classes is
            the image's group; empty: no groups, or those of the CSV.
        left_out: Collects what is not read.

    Raises:
        UserError: If the root is not laid out as a set, a class is empty, a CSV is wrong or names missing files, or the
            pattern is invalid or does not match a path.
    """
    if root.is_file():
        files = _read_csv(root)
        if group_pattern and any(file.group is not None for file in files):
            raise UserError(f"{root} has a column group, and data.group_pattern is set too; leave one out.")
        files = _grouped(files, group_pattern, [posix(file.name) for file in files])
    else:
        above, parts = {inode(root)}, _parts(root, left_out) or {"": root}
        files = []
        for split, base in parts.items():
            files += _class_folders(base, split, group_pattern, left_out, above)
    # Whoever lists an image more often, to train on it more often, does so within a class and within train.
    check_once((file.path, (file.label, file.split) if file.split else file.path) for file in files)
    return files


def _parts(root: Path, left_out: LeftOut) -> dict[str, Path]:
    """Return the folders of train and test, in any case; none if the folders of a root are classes."""
    folders, _ = scan(root, LeftOut())
    parts = [folder for folder in folders if folder.name.casefold() in (*SPLITS, *OTHER_SPLITS) and _is_part(folder)]
    found = {folder.name.casefold(): folder for folder in parts if folder.name.casefold() in SPLITS}
    other = [folder.name for folder in parts if folder.name.casefold() in OTHER_SPLITS]
    if len(found) + len(other) < len(parts):
        names = " and ".join(f"{folder.name}/" for folder in parts)
        raise UserError(f"{root} holds {names}, some of them twice but for their case; merge them.")
    if not found and len(other) < 2:  # one folder of such a name may be a class
        return {}
    if not found:
        raise UserError(f"{root} holds {other[0]}/ and {other[1]}/; rename them to train/ and test/.")
    if len(found) == 1:
        ((name, folder),) = found.items()
        (lacking,) = {*SPLITS} - {name}
        rename = f"rename {other[0]}/ to {lacking}/" if other else f"add {lacking}/"
        raise UserError(
            f"{root} holds {folder.name}/ but no {lacking}/; {rename}, or give --config.data.root={folder}, to split "
            f"its images."
        )
    left_out.add(NOT_SPLIT, *(folder for folder in folders if folder not in found.values()))
    return {split: found[split] for split in SPLITS}


def _is_part(folder: Path) -> bool:
    """Return whether a folder holds classes: it may be a class too, with images, and maybe others one folder deeper."""
    folders, files = scan(folder, LeftOut())
    return len(folders) > any(path.suffix.lower() in DECODED_SUFFIXES for path in files)


def _class_folders(
    base: Path, split: str, pattern: str, left_out: LeftOut, above: Collection[tuple[int, int]]
) -> list[ClassFile]:
    above = {*above, inode(base)}
    folders, files = scan(base, left_out, above)
    left_out.add(BESIDE, *(path for path in files if path.suffix.lower() in IMAGE_SUFFIXES))
    found = []
    for folder in folders:
        here = LeftOut()
        every = list(walk(folder, here, above))
        images = select(every, DECODED_SUFFIXES, here)
        if not images:
            _raise_empty(folder, [path for path in every if path.suffix.lower() in IMAGE_SUFFIXES])
        for reason, paths in here.paths.items():
            left_out.add(reason, *paths)
        found += [(path, folder.name) for path in images]
    check_names(path for path, _ in found)
    paths = [path.relative_to(base).as_posix() for path, _ in found]
    prefix = f"{base.name}/" if split else ""
    listed = [ClassFile(p, prefix + name, label, split, None) for (p, label), name in zip(found, paths, strict=True)]
    return sorted(_grouped(listed, pattern, paths), key=lambda file: file.name)


def _raise_empty(folder: Path, unread: Sequence[Path]) -> None:
    where = printable(str(folder))
    if unread:
        raise UserError(
            f"{where} would be lost as a class: none of its images has a format that is read "
            f"({', '.join(DECODED_SUFFIXES)}), such as {printable(unread[0].name)}; convert them, or move the folder "
            f"elsewhere."
        )
    raise UserError(f"{where} is a class without an image; put images into it, or move the folder elsewhere.")


def _grouped(files: list[ClassFile], pattern: str, paths: Sequence[str]) -> list[ClassFile]:
    """Return the files with the groups that a pattern finds in their paths."""
    groups = find_groups(paths, pattern)
    return files if groups is None else [f._replace(group=g) for f, g in zip(files, groups, strict=True)]


def _read_csv(path: Path) -> list[ClassFile]:
    """Read a CSV of path, class, split and group; a separator is a comma, a semicolon or a tab."""
    hint = "give a CSV with the columns path, class and maybe split and group"
    lines = read_lines(path, hint)
    header = lines[0] if lines else ""
    delimiter = max(",;\t", key=header.count)
    try:
        rows = list(csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV ({error}); {hint}.") from None
    columns = [name.strip().casefold() for name in rows[0]] if rows else []
    _check_columns(path, columns)
    files = []
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(columns):
            raise UserError(f"{path}, row {number} has {len(row)} cells for {len(columns)} columns; correct it.")
        files.append(_row(path, number, dict(zip(columns, (cell.strip() for cell in row), strict=True))))
    _check_rows(path, files)
    return files


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    unknown = [name for name in columns if name not in COLUMNS]
    missing = [name for name in COLUMNS[:2] if name not in columns]
    twice = [name for name, count in Counter(columns).items() if count > 1]
    for names, fault in ((missing, "lacks"), (unknown, "has an unknown"), (twice, "has twice the")):
        if names:
            raise UserError(
                f"{path} {fault} column {printable(names[0])!r}; its first line names the columns: path and class, and "
                f"maybe split and group."
            )


def _row(path: Path, number: int, cells: dict[str, str]) -> ClassFile:
    for name in ("path", "class", *(["group"] if "group" in cells else [])):
        if not cells[name]:
            raise UserError(f"{path}, row {number} has no {name}; fill it in, or remove the row.")
    split = cells.get("split", "").casefold()
    if split not in ("", *SPLITS):
        raise UserError(f"{path}, row {number}: split {cells['split']!r} must be train or test, or empty in all rows.")
    name = cells["path"]
    file = path.parent / user_path(posix(name))
    return ClassFile(file, name, cells["class"], split, cells.get("group"))


def _check_rows(path: Path, files: Sequence[ClassFile]) -> None:
    if not files:
        raise UserError(f"{path} names no image; add rows below its first line.")
    if {"", *SPLITS} & {file.split for file in files} > {""}:
        empty = next(file.name for file in files if not file.split)
        raise UserError(f"{path} gives a split to some images, but not to {printable(empty)}; give it to all or none.")
    absent = [file.name for file in files if not os.path.isfile(file.path)]  # of any length
    if absent:
        raise UserError(
            f"{path}: {len(absent)} of {len(files)} files are missing, such as {printable(absent[0])}; paths start at "
            f"the folder of the CSV: correct them, or remove the rows."
        )
    check_names(file.path for file in files)
    twice = [name for name, count in Counter(str(file.path) for file in files).items() if count > 1]
    if twice:
        raise UserError(
            f"{path} names {len(twice)} files more than once, such as {printable(twice[0])}; name each once."
        )
