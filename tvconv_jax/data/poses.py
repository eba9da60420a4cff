"""Frontal and profile faces, as CFP lays them out: folders named ``frontal`` and ``profile``."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from tvconv_jax.data.folder import SUFFIXES
from tvconv_jax.data.held_out import identity_of
from tvconv_jax.data.sets import LooseFiles
from tvconv_jax.errors import UserError

POSES = ("profile", "frontal")  # labels 0 and 1


class Poses(NamedTuple):
    """Faces with their pose, split by person.

    Attributes:
        train: To train on; label 1 is frontal.
        test: Of other people.
        people: How many people are in each.
    """

    train: LooseFiles
    test: LooseFiles
    people: tuple[int, int]


def load(base: Path, *, test_share: float) -> Poses:
    """Finds every picture in a folder ``frontal`` or ``profile``, at whatever depth.

    Whose face it is tells the folder above or below that one (``001/frontal/01.jpg``, ``frontal/001/01.jpg``), or the
    file's name without its last number (``frontal/001_01.jpg``).

    Args:
        base: The folder.
        test_share: Share of the people to test on, those that a fixed shuffle puts last.

    Raises:
        UserError: If a pose has no pictures, or there are too few people to split.
    """
    files = sorted(path for path in base.rglob("*") if path.suffix.lower() in SUFFIXES and _pose(path, base))
    labels = np.array([POSES.index(_pose(path, base)) for path in files], np.int64)
    for label, pose in enumerate(POSES):
        if not np.any(labels == label):
            raise UserError(f"{base} holds no {pose} faces; put them into {base / pose}/.")
    owners = [_person(path, base) for path in files]
    people = sorted(set(owners))
    count = round(test_share * len(people))
    if not 0 < count < len(people):
        raise UserError(f"data.test_share {test_share} of {len(people)} people leaves none to train or to test on.")
    order = np.random.default_rng(0).permutation(len(people))
    held = {people[index] for index in order[-count:]}
    parts = [[i for i, owner in enumerate(owners) if (owner in held) == test] for test in (False, True)]
    train, test = (LooseFiles([files[i] for i in part], labels[part]) for part in parts)
    return Poses(train, test, (len(people) - count, count))


def _pose(path: Path, base: Path) -> str:
    return next((part for part in path.relative_to(base).parent.parts if part in POSES), "")


def _person(path: Path, base: Path) -> str:
    rest = [part for part in path.relative_to(base).parts if part not in POSES]
    return rest[0] if len(rest) > 1 else identity_of(rest[0])
