"""Run per-image loops on each device's shard of the batch, and match gradients to the axes of a ``shard_map``.

The partitioner alone would give every device the whole batch, because a loop reads it one image after the other.
"""

from collections.abc import Callable

import jax
from jax import lax
from jax.sharding import PartitionSpec


def sum_over_devices(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """Return ``function(*arrays)``, a sum over the first axis of all arrays; that axis is sharded over devices."""
    if not (axes := _batch_axes(arrays[0])):
        return function(*arrays)

    def total(*shards: jax.Array) -> jax.Array:
        return lax.psum(function(*shards), axes)

    return jax.shard_map(total, in_specs=PartitionSpec(axes), out_specs=PartitionSpec(), check_vma=False)(*arrays)


def map_over_devices(function: Callable[..., jax.Array], x: jax.Array, *shared: jax.Array) -> jax.Array:
    """Return ``function(x, *shared)``, whose first axis is that of ``x``; that axis is sharded over devices."""
    if not (axes := _batch_axes(x)):
        return function(x, *shared)
    batch, replicated = PartitionSpec(axes), (PartitionSpec(),) * len(shared)
    return jax.shard_map(function, in_specs=(batch, *replicated), out_specs=batch, check_vma=False)(x, *shared)


def match_vma(gradients: tuple, primals: tuple) -> tuple:
    """Sum the gradients of a custom backward pass over the ``jax.shard_map`` axes along which a primal is replicated.

    Each device has the gradient of its own images; autodiff would sum them too. Outside a ``shard_map``, or in one with
    ``check_vma=False``, nothing is done.
    """

    def match(gradient: jax.Array, primal: jax.Array) -> jax.Array:
        axes = _varying_axes(gradient) - _varying_axes(primal)
        return lax.psum(gradient, tuple(sorted(axes))) if axes else gradient

    return jax.tree.map(match, gradients, primals)


def pcast_like(values: jax.Array, x: jax.Array) -> jax.Array:
    """Let ``values``, the carry of a loop over ``x``, vary along the ``shard_map`` axes along which ``x`` does."""
    axes = _varying_axes(x) - _varying_axes(values)
    return lax.pcast(values, tuple(sorted(axes)), to="varying") if axes else values


def _varying_axes(x: jax.Array) -> frozenset[str]:
    return frozenset(jax.typeof(x).manual_axis_type.varying)


def _batch_axes(batch: jax.Array) -> tuple[str, ...]:
    """Return the axes of ``jax.set_mesh`` whose devices divide the batch; none if there is one device."""
    mesh = jax.sharding.get_abstract_mesh()
    divided = not mesh.empty and mesh.size > 1 and mesh.are_all_axes_auto and len(batch) % mesh.size == 0
    return mesh.axis_names if divided else ()
