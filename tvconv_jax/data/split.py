"""Splits into images to train and to test on: a share of every class, and whole groups."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tvconv_jax.data.listing import printable
from tvconv_jax.utils.errors import UserError

ORDERS = 10  # of groups that are tried


def held_out(labels: np.ndarray, groups: Sequence[str] | None, share: float, seed: int) -> np.ndarray:
    """Choose images to hold out, so that each class gives about the share and no group is on both sides.

    Groups are taken in a random order; each is held out if the numbers by class come nearer to the share. Of a few
    orders the best one counts. Without groups, every image is one, and each class gives the rounded share, but at least
    one image and not all.

    Args:
        labels: Labels, ``int [n]``, from 0.
        groups: Name of each image's group; ``None``: none.
        share: Between 0 and 1.
        seed: Seed of the orders.

    Returns:
        Whether each image is held out, boolean ``[n]``.
    """
    totals = np.bincount(labels)
    target = np.clip(np.round(share * totals), 1, np.maximum(totals - 1, 0))
    names, members = np.unique(np.arange(len(labels)) if groups is None else np.array(groups), return_inverse=True)
    counts = np.zeros((len(names), len(totals)), np.int64)
    np.add.at(counts, (members, labels), 1)
    random = np.random.default_rng(seed)
    orders = [random.permutation(len(names)) for _ in range(1 if groups is None else ORDERS)]
    chosen = min((_filled(counts[order], target, order) for order in orders), key=lambda found: found[0])[1]
    return chosen[members]


def describe_split(test: np.ndarray, groups: Sequence[str] | None) -> str:
    """Return how many of all images, and of their groups, a boolean mask ``[n]`` chooses: "20 of 100 images"."""
    text = f"{int(test.sum())} of {len(test)} images"
    if groups is None:
        return text
    return f"{text}, {len(set(np.array(groups)[test]))} of {len(set(groups))} groups,"


def _filled(counts: np.ndarray, target: np.ndarray, order: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the distance to the target, and the chosen groups, boolean ``[groups]``, of groups in an order."""
    held, chosen = np.zeros(len(target)), np.zeros(len(order), bool)
    distance = float(np.square(target).sum())
    for group, count in zip(order, counts, strict=True):
        after = float(np.square(held + count - target).sum())
        if after < distance:
            held, distance, chosen[group] = held + count, after, True
    return distance, chosen


def find_groups(names: Sequence[str], pattern: str) -> list[str] | None:
    """Return the group of every image, such as its person or device; ``None`` without a pattern.

    Args:
        names: File names, or paths.
        pattern: Regular expression whose first group, or whole match, in a name is the image's group.

    Raises:
        UserError: If the pattern is invalid, or finds nothing in a name.
    """
    if not pattern:
        return None
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"data.group_pattern {pattern!r} is not a regular expression ({error}); correct it, as in "
            f"--config.data.group_pattern='(p[0-9]+)_'."
        ) from None
    matches = [regex.search(name) for name in names]
    groups = [(match[1] if regex.groups else match[0]) if match else None for match in matches]
    if lacking := [name for name, group in zip(names, groups, strict=True) if not group]:
        raise UserError(
            f"data.group_pattern {pattern!r} finds no group in {len(lacking)} of {len(names)} paths, such as "
            f"{printable(lacking[0])}; correct it, so that every path names its person or device."
        )
    return [str(group) for group in groups]


def check_groups(root: Path, groups: Sequence[str], test: np.ndarray) -> None:
    """Raise a ``UserError`` if a group has images on both sides; ``test`` is boolean ``[n]``."""
    sides = [{group for group, tested in zip(groups, test, strict=True) if tested == side} for side in (False, True)]
    if both := sides[0] & sides[1]:
        raise UserError(
            f"{root}: {len(both)} groups have images in train and in test, such as {printable(min(both))}; move "
            f"each to one side, or correct data.group_pattern."
        )
