"""Balanced pairs of images in ten folds, drawn at random from identities."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tvconv_jax.data.formats.pairs import FOLDS
from tvconv_jax.utils.errors import UserError

MAX_OF_A_KIND = 300  # pairs of a fold by default, as in LFW

Pair = tuple[Path, Path]


class Fold(NamedTuple):
    """Pairs of one fold."""

    same: list[Pair]  # of one identity
    different: list[Pair]  # of two


def draw_folds(
    random: np.random.Generator, identities: Sequence[list[Path]], pairs_per_fold: int | None, what: str
) -> tuple[list[Fold], str]:
    """Draw as many pairs of one identity as of two, ten times.

    Args:
        random: Generator of random numbers.
        identities: Images of each identity.
        pairs_per_fold: Even; ``None``: as many as there are in the smallest fold, up to 600.
        what: Follows the number of identities in a message.

    Returns:
        The folds, and the reason why they share identities, empty if they do not.

    Raises:
        UserError: If there are fewer pairs.
    """
    dealt = _deal(random, identities)
    largest = min(_capacity(part) for part in dealt)
    shared = _capacity(identities) // FOLDS
    if not max(largest, shared) or (pairs_per_fold or 0) // 2 > max(largest, shared):
        raise _too_few(identities, pairs_per_fold, 2 * max(largest, shared), what)
    count = pairs_per_fold // 2 if pairs_per_fold else min(MAX_OF_A_KIND, largest or shared)
    if count <= largest:
        return [Fold(_same(random, part, count), _different(random, part, count)) for part in dealt], ""
    same, different = (draw(random, identities, FOLDS * count) for draw in (_same, _different))
    reason = f"to keep them apart takes {2 * FOLDS} identities, {FOLDS} of them with two images"
    reason = f"{2 * largest} pairs in a fold, or fewer, keep them apart" if largest else reason
    return [Fold(same[i::FOLDS], different[i::FOLDS]) for i in range(FOLDS)], reason


def _deal(random: np.random.Generator, identities: Sequence[list[Path]]) -> list[list[list[Path]]]:
    """Deal identities to ten folds, those with the most images first, forth and back."""
    order = sorted(random.permutation(len(identities)).tolist(), key=lambda i: -len(identities[i]))
    turns = [*range(FOLDS), *reversed(range(FOLDS))]
    folds: list[list[list[Path]]] = [[] for _ in range(FOLDS)]
    for place, index in enumerate(order):
        folds[turns[place % len(turns)]].append(identities[index])
    return folds


def _counts(identities: Sequence[list[Path]]) -> tuple[int, int]:
    """Return how many pairs there are of one identity, and of two."""
    sizes = [len(images) for images in identities]
    same = sum(math.comb(size, 2) for size in sizes)
    return same, math.comb(sum(sizes), 2) - same


def _capacity(identities: Sequence[list[Path]]) -> int:
    return min(_counts(identities))


def _too_few(identities: Sequence[list[Path]], pairs_per_fold: int | None, largest: int, what: str) -> UserError:
    same, different = _counts(identities)
    asked = f"--pairs-per-fold={pairs_per_fold}: " if pairs_per_fold else ""
    hint = f"give {largest} at most" if largest else f"{FOLDS} folds need {FOLDS} of each kind: add images"
    hint += ", or hold out more identities" if what else ""
    return UserError(
        f"{asked}{len(identities)} identities{what} give {same} pairs of images of one identity and "
        f"{different} of two; {hint}."
    )


def _same(random: np.random.Generator, identities: Sequence[list[Path]], count: int) -> list[Pair]:
    """Draw pairs of one identity, from each identity as many, if it has them."""
    groups = [images for images in identities if len(images) > 1]
    found = []
    for group, index in _in_turns(random, [math.comb(len(images), 2) for images in groups], count):
        right, left = _combination(index)
        found.append((groups[group][left], groups[group][right]))
    return [found[i] for i in random.permutation(count)]


def _different(random: np.random.Generator, identities: Sequence[list[Path]], count: int) -> list[Pair]:
    """Draw pairs of two identities, from each two as many, if they have them."""
    total = math.comb(len(identities), 2)
    chosen = random.choice(total, count, replace=False) if total > count else range(total)
    groups = [tuple(identities[i] for i in _combination(int(index))) for index in chosen]
    found = []
    for group, index in _in_turns(random, [len(a) * len(b) for a, b in groups], count):
        left, right = groups[group]
        found.append((left[index // len(right)], right[index % len(right)]))
    return [found[i] for i in random.permutation(count)]


def _in_turns(random: np.random.Generator, sizes: Sequence[int], count: int) -> Iterator[tuple[int, int]]:
    """Yield ``count`` different (group, index), ``index < sizes[group]``; from each group as many, if it has them."""
    limits, taken, left = np.array(sizes), np.zeros(len(sizes), int), count
    while left:
        groups = np.flatnonzero(taken < limits)
        groups = random.choice(groups, left, replace=False) if len(groups) > left else groups
        taken[groups] += 1
        left -= len(groups)
    for group, number in enumerate(taken.tolist()):
        yield from ((group, int(index)) for index in random.choice(sizes[group], number, replace=False))


def _combination(index: int) -> tuple[int, int]:
    """Return the pair ``a > b >= 0`` of that index, of (1, 0), (2, 0), (2, 1), (3, 0), ..."""
    a = (1 + math.isqrt(1 + 8 * index)) // 2
    return a, index - math.comb(a, 2)
