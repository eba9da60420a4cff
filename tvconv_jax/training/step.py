"""One training step: gradient, optimiser, statistics, compiled for a mesh."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from tvconv_jax.training.mesh import over_devices, replicated
from tvconv_jax.training.nonfinite import skip_not_finite
from tvconv_jax.training.state import TrainState, state_shardings

# (params, batch_stats, batch, key) -> (loss, (new batch_stats, metrics))
LossFunction = Callable[[Any, Any, Any, jax.Array], tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]]
TrainStep = Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]


def make_train_step(
    loss_function: LossFunction, optimizer: optax.GradientTransformation, mesh: Mesh, *, nan: str = "stop"
) -> TrainStep:
    """Compiles ``(state, batch) -> (state, metrics)``.

    The batch is cut over all devices of the mesh, so sums over it, batch statistics included, are global. The state
    lies where :func:`tvconv_jax.training.state.state_shardings` says, and is donated: the old one is gone after the
    call.

    Args:
        loss_function: ``(params, batch_stats, batch, key)`` to ``(loss, (new batch_stats, metrics))``.
        optimizer: Of ``params``.
        mesh: Of :func:`tvconv_jax.training.mesh.make_mesh`.
        nan: ``"skip"``: a step that is not finite changes nothing; ``"stop"`` leaves it to the loop.

    Returns:
        The step; its metrics hold ``loss`` besides what the loss function gives.
    """

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step)
        gradient = jax.value_and_grad(loss_function, has_aux=True)
        (loss, (batch_stats, metrics)), grads = gradient(state.params, state.batch_stats, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        state = jax.lax.with_sharding_constraint(state, state_shardings(state, mesh))
        return state, {"loss": loss, **metrics}

    return jax.jit(
        skip_not_finite(step) if nan == "skip" else step,
        donate_argnums=0,
        in_shardings=(None, over_devices(mesh)),  # the state's are its own
        out_shardings=(None, replicated(mesh)),
    )
