"""Frontal and profile faces, as CFP lays them out: folders named ``frontal`` and ``profile``."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from tvconv_jax.data.listing import SUFFIXES, LeftOut, select, walk
from tvconv_jax.data.sets import LooseFiles
from tvconv_jax.data.tools.held_out import identity_of
from tvconv_jax.utils.errors import UserError

POSES = ("profile", "frontal")  # labels 0 and 1


class Poses(NamedTuple):
    """Faces with their pose, split by person.

    Attributes:
        train: To train on; label 1 is frontal.
        test: Of other people.
        people: How many people are in each.
        notes: What was left out of the folder.
    """

    train: LooseFiles
    test: LooseFiles
    people: tuple[int, int]
    notes: list[str]


def load(base: Path, *, test_share: float) -> Poses:
    """Finds every picture in a folder ``frontal`` or ``profile``, at whatever depth; links are followed.

    Whose face it is tells the folder that this one lies in (``Data/Images/001/frontal/01.jpg``, as CFP unpacks). Where
    that is ``base`` itself, it is the folder in it (``frontal/001/01.jpg``), or the file's name without its last number
    (``frontal/001_01.jpg``).

    Args:
        base: The folder.
        test_share: Share of the people to test on, those that a fixed shuffle puts last.

    Raises:
        UserError: If a pose has no pictures, in all or in one of the parts, or there are too few people to split.
    """
    left_out = LeftOut()
    found = select(sorted(walk(base, left_out)), SUFFIXES, left_out)
    files = [path for path in found if _pose(path, base)]
    left_out.add("images in no folder frontal or profile", *(path for path in found if not _pose(path, base)))
    labels = np.array([POSES.index(_pose(path, base)) for path in files], np.int64)
    for label, pose in enumerate(POSES):
        if not np.any(labels == label):
            raise UserError(f"{base} holds no {pose} faces; put them into {base / pose}/.")
    owners = [_person(path, base) for path in files]
    held, people = _held_out(owners, test_share)
    parts = [[i for i, owner in enumerate(owners) if (owner in held) == test] for test in (False, True)]
    for part, doing in zip(parts, ("train", "test"), strict=True):
        missing = [pose for label, pose in enumerate(POSES) if not np.any(labels[part] == label)]
        if missing:
            raise UserError(
                f"{base} holds no {missing[0]} faces of the people to {doing} on (data.test_share {test_share}); "
                f"people need pictures of both poses: add some, or change the share."
            )
    train, test = (LooseFiles([files[i] for i in part], labels[part]) for part in parts)
    return Poses(train, test, people, left_out.notes(base))


def _held_out(owners: list[str], test_share: float) -> tuple[set[str], tuple[int, int]]:
    """The people to test on; how many there are to train and to test on."""
    people = sorted(set(owners))
    count = round(test_share * len(people))
    if not 0 < count < len(people):
        raise UserError(
            f"data.test_share {test_share} of {len(people)} people leaves none to train or to test on ({people[0]}, "
            f"...); change it, or name a data.root that holds frontal/ and profile/, or people's folders with these."
        )
    order = np.random.default_rng(0).permutation(len(people))
    return {people[index] for index in order[-count:]}, (len(people) - count, count)


def _pose(path: Path, base: Path) -> str:
    return next((part for part in _folders(path, base) if part in POSES), "")


def _folders(path: Path, base: Path) -> list[str]:
    """The folders within the base that a picture lies in, in small letters."""
    return [part.lower() for part in path.relative_to(base).parent.parts]


def _person(path: Path, base: Path) -> str:
    parts = path.relative_to(base).parts
    at = _folders(path, base).index(_pose(path, base))
    if at:
        return parts[at - 1]
    return parts[1] if len(parts) > 2 else identity_of(parts[-1])
