"""Frontal and profile faces, as CFP lays them out: folders named ``frontal`` and ``profile``."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from tvconv_jax.data.listing import SUFFIXES, LeftOut, select, walk
from tvconv_jax.data.source import LooseFiles
from tvconv_jax.data.tools.held_out import identity_of
from tvconv_jax.utils.errors import UserError

POSES = ("profile", "frontal")  # labels 0 and 1
ONLY_POSES = (
    "This task distinguishes frontal faces from profiles; for a classifier of other images take "
    "--config=configs/classification.py:data=folder."
)


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
    number (``frontal/001_01.jpg``). The identities that a fixed shuffle puts last, ``test_share``, are for the test.

    Raises:
        UserError: If a pose has no images, in all or in one of the parts, or there are too few identities to split.
    """
    left_out = LeftOut()
    found = {path: _describe(path, base) for path in select(sorted(walk(base, left_out)), SUFFIXES, left_out)}
    left_out.add("images in no folder frontal or profile", *(path for path, (pose, _) in found.items() if not pose))
    faces = [(path, POSES.index(pose), owner) for path, (pose, owner) in found.items() if pose]
    if lacking := _lacking(faces):
        raise UserError(f"{base} holds no {lacking} faces; put them into {base / lacking}/. {ONLY_POSES}")
    held, identities = _held_out([owner for _, _, owner in faces], test_share)
    sources = []
    for test, doing in enumerate(("train", "test")):
        part = [face for face in faces if (face[2] in held) == test]
        if lacking := _lacking(part):
            raise UserError(
                f"{base} holds no {lacking} faces of the identities to {doing} on (data.test_share {test_share}); "
                f"identities need images of both poses: add some, or change the share."
            )
        sources.append(LooseFiles([path for path, _, _ in part], [label for _, label, _ in part]))
    return Poses(*sources, identities, left_out.notes(base))


def _lacking(faces: list[tuple[Path, int, str]]) -> str | None:
    labels = {label for _, label, _ in faces}
    return next((pose for label, pose in enumerate(POSES) if label not in labels), None)


def _held_out(owners: list[str], test_share: float) -> tuple[set[str], tuple[int, int]]:
    """Return the identities to test on, and the numbers of those to train and to test on."""
    names = sorted(set(owners))
    count = round(test_share * len(names))
    if not 0 < count < len(names):
        named = f" ({names[0] or 'without a name'})" if len(names) == 1 else ""
        raise UserError(
            f"data.test_share {test_share} of {len(names)} identities{named} leaves none to train or to test on; "
            f"change it, name files IDENTITY_NUMBER.jpg, or put them into folders of identities. {ONLY_POSES}"
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
