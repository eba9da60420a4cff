"""The state of a run: everything that a step changes and a checkpoint keeps, except the position in the data."""

from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from flax.core import FrozenDict
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tvconv_jax.training.mesh import over_model, replicated


class TrainState(flax.struct.PyTreeNode):
    """State of a run."""

    step: jax.Array  # steps taken, int32 []
    params: Any  # of model and head
    batch_stats: Any  # running statistics of the model
    opt_state: optax.OptState
    key_data: jax.Array  # bits of the random key from which each step derives its own
    # True number of columns of each parameter [d, columns], by name, that is sharded along "model". Zeros behind them
    # make a multiple of the devices; checkpoints are without.
    columns: FrozenDict[str, int] = flax.struct.field(pytree_node=False, default=FrozenDict())


TrainStep = Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]


def create_state(
    params: Any,
    batch_stats: Any,
    optimizer: optax.GradientTransformation,
    seed: int,
    mesh: Mesh,
    *,
    columns: Mapping[str, int] = FrozenDict(),
) -> TrainState:
    """Return the state before the first step; parameters in ``columns`` went through :func:`pad_columns`."""
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=jax.eval_shape(optimizer.init, params),
        key_data=jax.random.key_data(jax.random.key(seed)),
        columns=FrozenDict(columns),
    )
    shardings = state_shardings(state, mesh)
    params = jax.device_put(params, shardings.params)
    opt_state = jax.jit(optimizer.init, out_shardings=shardings.opt_state)(params)  # zeros, in one program
    return jax.device_put(state.replace(params=params, opt_state=opt_state), shardings)


def pad_columns(weights: jax.Array, mesh: Mesh) -> jax.Array:
    """Append columns of zeros to ``[d, columns]``, up to a multiple of the devices along ``model``."""
    return _with_columns(weights, weights.shape[1] + -weights.shape[1] % mesh.shape["model"])


def state_shardings(state: TrainState, mesh: Mesh) -> TrainState:
    """Return the sharding of every array; the optimizer's arrays have those of their parameters."""
    return _map_columns(state, lambda *_: over_model(mesh), lambda _: replicated(mesh))


def to_saved(state: TrainState) -> TrainState:
    """Copy the state as checkpoints keep it, the same for every mesh: true columns only."""

    def true(leaf: jax.Array, columns: int) -> jax.Array:
        if leaf.shape[1] == columns:
            return jnp.copy(leaf)
        cut = jax.jit(_with_columns, static_argnums=1, out_shardings=_saved_sharding(leaf, columns))
        return cut(leaf, columns)

    return _map_columns(state, true, jnp.copy)


def saved_like(state: TrainState) -> TrainState:
    """Return shapes, dtypes and, if the state has them, shardings of :func:`to_saved`."""

    def true(leaf: Any, columns: int) -> jax.ShapeDtypeStruct:
        shape = (leaf.shape[0], columns)
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=_saved_sharding(leaf, columns))

    return _map_columns(state, true, lambda leaf: leaf)


def from_saved(saved: TrainState, like: TrainState) -> TrainState:
    """Return a restored state with the columns and shardings of ``like``."""

    def padded(leaf: jax.Array, wanted: Any) -> jax.Array:
        if leaf.shape == wanted.shape:
            return leaf
        return jax.jit(_with_columns, static_argnums=1, out_shardings=wanted.sharding)(leaf, wanted.shape[1])

    return jax.tree.map(padded, saved, like)


def _map_columns(state: TrainState, cut: Any, other: Any) -> TrainState:
    """Map ``cut(leaf, true columns)`` over arrays that are sharded along ``model``, ``other(leaf)`` over all others."""

    def of(path: tuple, leaf: Any) -> Any:
        columns = state.columns.get(getattr(path[-1], "key", None))
        return other(leaf) if columns is None else cut(leaf, columns)

    return jax.tree_util.tree_map_with_path(of, state)


def _with_columns(weights: jax.Array, columns: int) -> jax.Array:
    missing = columns - weights.shape[1]
    return jnp.pad(weights, ((0, 0), (0, missing))) if missing > 0 else weights[:, :columns]


def _saved_sharding(leaf: Any, columns: int) -> NamedSharding | None:
    """Shard rows where devices cannot share the columns equally, or replicate where they cannot share these either."""
    sharding = leaf.sharding
    if sharding is None or leaf.shape[1] == columns:
        return sharding
    rows = leaf.shape[0] % sharding.mesh.shape["model"] == 0
    return NamedSharding(sharding.mesh, PartitionSpec("model") if rows else PartitionSpec())
