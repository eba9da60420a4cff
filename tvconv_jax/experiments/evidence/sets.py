"""Sets of the evidence table: which images train, which ones choose the learning rate, which ones test.

The training images come in a seeded order, all images of a person (:attr:`Spec.group`) together. The first ``LIMIT``
train the final models. The first four fifths of them train the models that choose the learning rate, and the images
that follow, up to ``HELD_OUT``, score them. Test images only test.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tvconv_jax.data.decoder import ImageError, decode, gray, read_image
from tvconv_jax.data.formats.pairs import Pairs, read_pairs
from tvconv_jax.data.listing import SUFFIXES, LeftOut, scan
from tvconv_jax.utils.errors import UserError

LIMIT, FIT_SHARE, HELD_OUT, TEST_LIMIT = 3000, 0.8, 2000, 3000
SEED = 0  # of the order of images
# A segmentation model costs four times as much: by this, steps, batches and held-out images are divided.
DIVIDED = {"classification": 1, "segmentation": 2, "verification": 1}
PAIRS = 2000  # of held-out identities, for verification


class Spec(NamedTuple):
    """A set."""

    about: str
    image_size: tuple[int, int]  # height, width
    group: str = ""  # regular expression on "folder/name"; its match names the person. None: every image alone
    task: str = "classification"


SETS = {
    "slices": Spec("brain slices, which of 24 positions", (32, 32), r"(?<=/)[^/]+$"),
    "stages": Spec("brain slices, which of three diagnoses", (32, 32), r"^.+(?=_\d+\.)"),
    "cells": Spec("solar cells, whole or with a defect", (32, 32)),
    "digits": Spec("handwritten digits", (28, 28)),
    "meter": Spec("digits of utility meters", (32, 20)),
    "needle": Spec("dials with a needle, whole part of the reading", (32, 32)),
    "hippocampus": Spec("hippocampus, masks of two parts", (40, 56), r"^.+(?=_\d+\.)", "segmentation"),
    "iris": Spec("eyes, the same one or not", (32, 32), r"^\d+", "verification"),
}


class Part(NamedTuple):
    """Images, decoded."""

    paths: Sequence[Path]
    images: np.ndarray  # uint8 [n, h, w, 3]
    labels: np.ndarray  # int32 [n]; masks, int32 [n, h, w]
    groups: np.ndarray  # int [n], the person of every image
    pairs: Pairs | None = None

    def between(self, start: int, stop: int) -> "Part":
        """Return a range of the images."""
        rows = slice(start, stop)
        return Part(self.paths[rows], self.images[rows], self.labels[rows], self.groups[rows])

    @property
    def item_groups(self) -> np.ndarray:
        """Group of every item that is scored, ``[items]``: an image, a pair, or all masks of a person."""
        if self.pairs is not None:
            return np.arange(len(self.pairs.same))  # which pairs share a person is left out
        return self.groups if self.labels.ndim == 1 else np.arange(len(np.unique(self.groups)))

    @property
    def items(self) -> int:
        """Number of items that are scored."""
        return len(self.item_groups)


class ImageSet(NamedTuple):
    """A set, loaded."""

    name: str
    spec: Spec
    classes: int
    fit: Part  # trains the models that choose the learning rate
    held_out: Part  # scores them
    train: Part  # trains the final models
    test: Part  # scores them


class Files(NamedTuple):
    """Files of a split."""

    paths: list[Path]
    labels: np.ndarray  # int [n]; of segmentation zeros
    groups: np.ndarray  # int [n]

    def take(self, rows: np.ndarray) -> "Files":
        """Return some of the files."""
        return Files([self.paths[row] for row in rows], self.labels[rows], self.groups[rows])


def load(name: str, data: Path, limit: int = LIMIT) -> ImageSet:
    """Read the images of a set.

    Raises:
        UserError: If a folder is missing or empty, or a file cannot be decoded.
    """
    spec = SETS[name]
    root = data / name
    classes = sorted(path.name for path in _folders(root / "train"))
    train = _files(root / "train", spec, classes)
    order = _in_order(train.groups)
    used = _end_of_group(train.groups[order], limit)
    fit = _end_of_group(train.groups[order], int(FIT_SHARE * used))
    held_out = _end_of_group(train.groups[order], min(fit + HELD_OUT // DIVIDED[spec.task], len(order)))
    decoded = _part(train.take(order[: max(used, held_out)]), spec)
    parts = [decoded.between(*ends) for ends in ((0, fit), (fit, held_out), (0, used))]
    if spec.task == "verification":
        test = _test_pairs(root, name, spec)
        parts[1] = _with_pairs(parts[1])
    else:
        test = _files(root / "test", spec, classes)
        rows = _in_order(test.groups)
        test = _part(test.take(rows[: _end_of_group(test.groups[rows], TEST_LIMIT)]), spec)
    if spec.task == "segmentation":
        classes = range(1 + max(int(part.labels.max()) for part in (*parts, test)))
    return ImageSet(name, spec, len(classes), *parts, test)


def explained_by_mean(images: np.ndarray) -> float:
    """Return the share of the variance of pixels ``[n, h, w, 3]`` that their mean image explains, 0 to 1.

    Every image is first brought to mean 0 and standard deviation 1, so light and contrast do not count. The share is 1
    where all images are alike then: one minus the cross-image variance of pixels in
    :mod:`tvconv_jax.experiments.set_figures`.
    """
    values = images.astype(np.float64)
    values -= values.mean(axis=(1, 2, 3), keepdims=True)
    values /= np.maximum(values.std(axis=(1, 2, 3), keepdims=True), 1e-6)
    return float((values.mean(axis=0).var(axis=(0, 1)) / values.var(axis=(0, 1, 2))).mean())


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; lay out the sets there, or name others with --sets.")
    return scan(folder, LeftOut())[0]


def _images(folder: Path) -> list[Path]:
    return [path for path in scan(folder, LeftOut())[1] if path.suffix.lower() in SUFFIXES]


def _files(folder: Path, spec: Spec, classes: Sequence[str]) -> Files:
    segmentation = spec.task == "segmentation"
    folders = [folder / "image"] if segmentation else _folders(folder)
    rows = [
        (path, 0 if segmentation else classes.index(part.name), f"{part.name}/{path.name}")
        for part in folders
        if segmentation or part.name in classes
        for path in _images(part)
    ]
    if not rows:
        raise UserError(f"{folder} holds no images; lay out the set again.")
    paths, labels, names = zip(*rows, strict=True)
    return Files(list(paths), np.array(labels), _groups(names, spec.group))


def _groups(names: Sequence[str], pattern: str) -> np.ndarray:
    """Number the groups of files: the match of a pattern in ``folder/name``."""
    if not pattern:
        return np.arange(len(names))
    found = [re.search(pattern, name) for name in names]
    if None in found:
        raise UserError(f"{names[found.index(None)]} does not name its person; lay out the set again.")
    return np.unique([match[0] for match in found], return_inverse=True)[1]


def _in_order(groups: np.ndarray) -> np.ndarray:
    """Return the rows with the groups in a random order, those of a group together."""
    rank = np.random.default_rng(SEED).permutation(groups.max() + 1)
    return np.argsort(rank[groups], kind="stable")


def _end_of_group(ordered: np.ndarray, count: int) -> int:
    """Return a count of at least ``count``, that does not divide a group."""
    while 0 < count < len(ordered) and ordered[count] == ordered[count - 1]:
        count += 1
    return min(count, len(ordered))


def _part(files: Files, spec: Spec) -> Part:
    images = np.stack([_decoded(path, spec) for path in files.paths])
    labels = files.labels
    if spec.task == "segmentation":
        labels = np.stack([_mask(path) for path in files.paths])
    return Part(files.paths, images, labels.astype(np.int32), files.groups)


def _decoded(path: Path, spec: Spec) -> np.ndarray:
    try:
        return decode(read_image(path), spec.image_size)
    except ImageError as error:
        raise UserError(f"{path}: {error}; lay out the set again.") from None


def _mask(path: Path) -> np.ndarray:
    mask = path.parent.with_name("mask") / path.name
    try:
        return gray(read_image(mask))
    except ImageError as error:
        raise UserError(f"{mask}: {error}; lay out the set again.") from None


def _with_pairs(part: Part) -> Part:
    """Add as many pairs of one identity as of two, drawn in ten folds."""
    random, rows = np.random.default_rng(SEED), np.arange(len(part.labels))
    left, right, same = [], [], np.arange(PAIRS) % 2 == 0
    several = [row for row in rows if np.sum(part.labels == part.labels[row]) > 1]
    if not several or len(np.unique(part.labels)) < 2:
        raise UserError("the held-out images have no two identities, or none with two images; give more of them.")
    for wanted in same:
        first = random.choice(several if wanted else rows)
        others = rows[(part.labels == part.labels[first]) == wanted]
        left.append(first)
        right.append(random.choice(others[others != first]))
    pairs = Pairs(np.array(left), np.array(right), same, np.arange(PAIRS) // 2 % 10)
    return part._replace(pairs=pairs)


def _test_pairs(root: Path, name: str, spec: Spec) -> Part:
    """Read the pairs of ``name_pair.txt``, of images in the folder ``name``."""
    file = root / f"{name}_pair.txt"
    if not file.is_file():
        raise UserError(f"there is no list of pairs {file}; lay out the set again.")
    pairs, names = read_pairs(file)
    files = Files([root / name / one for one in names], np.zeros(len(names), int), np.arange(len(names)))
    return _part(files, spec)._replace(pairs=pairs)
