"""Frontal and profile faces, as CFP lays them out: folders named ``frontal`` and ``profile``."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from tvconv_jax.data.listing import SUFFIXES, LeftOut, select, walk
from tvconv_jax.data.source import LooseFiles
from tvconv_jax.data.tools.held_out import identity_of
from tvconv_jax.utils.errors import UserError

POSES = ("profile", "frontal")  # labels 0 and 1


class Poses(NamedTuple):
    """Faces with their pose, split by identity; label 1 is frontal."""

    train: LooseFiles
    test: LooseFiles
    identities: tuple[int, int]  # numbers of them in each
    notes: list[str]  # on files that were left out


def load_poses(base: Path, *, test_share: float) -> Poses:
    """Find every image in a folder ``frontal`` or ``profile``, at any depth; links are followed.

    The identity is the name of the folder above the pose (``Data/Images/001/frontal/01.jpg``, as CFP unpacks). If that
    is ``base`` itself, it is the folder below the pose (``frontal/001/01.jpg``), or the file's name without its last
    number (``frontal/001_01.jpg``).

    Args:
        base: The folder.
        test_share: Share of the identities for the test, those that a fixed shuffle puts last.

    Raises:
        UserError: If a pose has no images, in all or in one of the parts, or there are too few identities to split.
    """
    left_out = LeftOut()
    found = {path: _describe(path, base) for path in select(sorted(walk(base, left_out)), SUFFIXES, left_out)}
    left_out.add("images in no folder frontal or profile", *(path for path, (pose, _) in found.items() if not pose))
    files = [path for path, (pose, _) in found.items() if pose]
    labels = np.array([POSES.index(found[path][0]) for path in files], np.int64)
    for label, pose in enumerate(POSES):
        if not np.any(labels == label):
            raise UserError(f"{base} holds no {pose} faces; put them into {base / pose}/.")
    owners = [found[path][1] for path in files]
    held, identities = _held_out(owners, test_share)
    parts = [[i for i, owner in enumerate(owners) if (owner in held) == test] for test in (False, True)]
    for part, doing in zip(parts, ("train", "test"), strict=True):
        missing = [pose for label, pose in enumerate(POSES) if not np.any(labels[part] == label)]
        if missing:
            raise UserError(
                f"{base} holds no {missing[0]} faces of the identities to {doing} on (data.test_share "
                f"{test_share}); identities need images of both poses: add some, or change the share."
            )
    train, test = (LooseFiles([files[i] for i in part], labels[part]) for part in parts)
    return Poses(train, test, identities, left_out.notes(base))


def _held_out(owners: list[str], test_share: float) -> tuple[set[str], tuple[int, int]]:
    """Return the identities to test on, and the numbers of those to train and to test on."""
    names = sorted(set(owners))
    count = round(test_share * len(names))
    if not 0 < count < len(names):
        raise UserError(
            f"data.test_share {test_share} of {len(names)} identities leaves none to train or to test on ({names[0]}, "
            f"...); change it, or name a data.root with frontal/ and profile/, or with folders of identities that hold "
            f"these."
        )
    order = np.random.default_rng(0).permutation(len(names))
    return {names[index] for index in order[-count:]}, (len(names) - count, count)


def _describe(path: Path, base: Path) -> tuple[str, str]:
    """Return an image's pose and identity; empty if it lies in no folder of a pose."""
    parts = path.relative_to(base).parts
    for at, part in enumerate(parts[:-1]):
        if part.lower() in POSES:
            return part.lower(), parts[at - 1] if at else parts[1] if len(parts) > 2 else identity_of(parts[-1])
    return "", ""
