"""What devices share: loops over a batch (of ``jax.set_mesh``), each over its own pictures; gradients in a shard_map.

The partitioner alone would give every device the whole batch, because a loop reads it one image after the other.
"""

from collections.abc import Callable

import jax
from jax import lax
from jax.sharding import PartitionSpec


def sum_over_devices(sums: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """``sums(*arrays)``, sums over the first axis of all arrays."""
    if not (axes := _axes_that_share(arrays[0])):
        return sums(*arrays)

    def total(*own: jax.Array) -> jax.Array:
        return lax.psum(sums(*own), axes)

    return jax.shard_map(total, in_specs=PartitionSpec(axes), out_specs=PartitionSpec(), check_vma=False)(*arrays)


def map_over_devices(images: Callable[..., jax.Array], x: jax.Array, *shared: jax.Array) -> jax.Array:
    """``images(x, *shared)``, whose first axis is that of ``x``."""
    if not (axes := _axes_that_share(x)):
        return images(x, *shared)
    batch, whole = PartitionSpec(axes), (PartitionSpec(),) * len(shared)
    return jax.shard_map(images, in_specs=(batch, *whole), out_specs=batch, check_vma=False)(x, *shared)


def match_vma(gradients: tuple, primals: tuple) -> tuple:
    """Gradients that custom backward passes return, with what ``jax.shard_map`` wants of them.

    Of what all devices have alike, weights in general, each has the gradient of its own pictures: they are summed, as
    autodiff would. Outside a ``shard_map``, or in one with ``check_vma=False``, nothing is done.
    """

    def like(gradient: jax.Array, primal: jax.Array) -> jax.Array:
        axes = _varying(gradient) - _varying(primal)
        return lax.psum(gradient, tuple(sorted(axes))) if axes else gradient

    return jax.tree.map(like, gradients, primals)


def pcast_like(values: jax.Array, x: jax.Array) -> jax.Array:
    """What a loop over ``x`` adds to: inside a ``shard_map`` it must vary as ``x`` does before the first turn."""
    axes = _varying(x) - _varying(values)
    return lax.pcast(values, tuple(sorted(axes)), to="varying") if axes else values


def _varying(x: jax.Array) -> frozenset[str]:
    """Axes of a ``shard_map`` along which devices may have different values."""
    return frozenset(jax.typeof(x).manual_axis_type.varying)


def _axes_that_share(batch: jax.Array) -> tuple[str, ...]:
    """Axes of the mesh whose devices can each loop over a part of the batch; none if there is one device."""
    mesh = jax.sharding.get_abstract_mesh()
    divided = not mesh.empty and mesh.size > 1 and mesh.are_all_axes_auto and len(batch) % mesh.size == 0
    return mesh.axis_names if divided else ()
