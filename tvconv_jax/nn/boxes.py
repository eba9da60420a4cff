"""Boxed parameters: arrays that carry the names of their axes, as ``nn.with_partitioning`` makes them."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax


def is_boxed(value: Any) -> bool:
    """Whether it is an array in a box of Flax."""
    return isinstance(value, nn.meta.AxisMetadata)


def unboxed(tree: Any) -> Any:
    """Take every array out of its box, without the sharding constraint that ``nn.meta.unbox`` puts on it."""

    def unbox(leaf: Any) -> Any:
        while is_boxed(leaf):
            leaf = leaf.value if isinstance(leaf, nn.Partitioned) else leaf.unbox()
        return leaf

    return jax.tree.map(unbox, tree, is_leaf=is_boxed)


def reboxed(box: Any, value: Any, axes: Sequence[int | None]) -> Any:
    """Put an array that was computed from a boxed one into a box of the same kind.

    Args:
        box: The boxed array, or one without a box: then the value has none either.
        value: The new array.
        axes: For each of its axes the axis of the old one whose name it takes over; ``None`` leaves it without.
    """
    if not is_boxed(box):
        return value
    if not isinstance(box, nn.Partitioned):
        return box.replace_boxed(value)
    names = dict(enumerate(box.names))
    return box.replace(value=value, names=tuple(names.get(axis) for axis in axes))
