"""Stratified splits: a share of every class, and whole groups."""

from collections.abc import Sequence

import numpy as np


def held_out(labels: np.ndarray, groups: Sequence[str] | None, share: float, seed: int) -> np.ndarray:
    """Choose images to hold out, so that each class gives about the share and no group is on both sides.

    Groups are taken in a random order, the large ones first; each goes to the side on which the numbers by class come
    nearer to the share. Without groups, every image is one, and each class gives the rounded share, but at least one
    image and not all.

    Args:
        labels: Labels, ``int [n]``, from 0.
        groups: Name of each image's group; ``None``: none.
        share: Between 0 and 1.
        seed: Seed of the order.

    Returns:
        Whether each image is held out, boolean ``[n]``.
    """
    totals = np.bincount(labels)
    target = np.minimum(np.maximum(np.round(share * totals), 1), totals - 1)
    names, members = np.unique(np.arange(len(labels)) if groups is None else np.array(groups), return_inverse=True)
    counts = np.zeros((len(names), len(totals)), np.int64)
    np.add.at(counts, (members, labels), 1)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    held, chosen = np.zeros(len(totals)), np.zeros(len(names), bool)
    for group in order:
        after = held + counts[group]
        if np.square(after - target).sum() < np.square(held - target).sum():
            held, chosen[group] = after, True
    return chosen[members]
