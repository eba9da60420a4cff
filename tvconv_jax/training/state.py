"""Everything that a step changes and a checkpoint keeps, but for the position in the data."""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from tvconv_jax.training.mesh import replicated


class TrainState(flax.struct.PyTreeNode):
    """State of a run.

    Attributes:
        step: Steps taken, ``int32 []``.
        params: Parameters of model and head.
        batch_stats: Running statistics of the model.
        opt_state: State of the optimiser.
        key_data: Bits of the random key from which each step derives its own.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    key_data: jax.Array


def create_state(
    params: Any, batch_stats: Any, optimizer: optax.GradientTransformation, seed: int, mesh: Mesh
) -> TrainState:
    """The state before the first step, the same on every device of the mesh."""
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        key_data=jax.random.key_data(jax.random.key(seed)),
    )
    return jax.device_put(state, replicated(mesh))
