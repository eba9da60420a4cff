"""Boxed parameters: arrays that carry the names of their axes, as ``nn.with_partitioning`` makes them."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax


def is_boxed(value: Any) -> bool:
    """Return whether the value is a boxed array of Flax."""
    return isinstance(value, nn.meta.AxisMetadata)


def unboxed(tree: Any) -> Any:
    """Return a tree without boxes, and without the sharding constraints that ``nn.meta.unbox`` adds."""

    def unbox(leaf: Any) -> Any:
        while is_boxed(leaf):
            leaf = leaf.value if isinstance(leaf, nn.Partitioned) else leaf.unbox()
        return leaf

    return jax.tree.map(unbox, tree, is_leaf=is_boxed)


def reboxed(box: Any, value: Any, axes: Sequence[int | None]) -> Any:
    """Return an array in a box of the same kind as the array that it was computed from.

    Args:
        box: The boxed array; without a box, the value is returned unboxed.
        value: The new array.
        axes: For each axis of the value, the axis of the boxed array whose name it takes; ``None`` for no name.
    """
    if not is_boxed(box):
        return value
    if not isinstance(box, nn.Partitioned):
        return box.replace_boxed(value)
    names = dict(enumerate(box.names))
    return box.replace(value=value, names=tuple(names.get(axis) for axis in axes))
