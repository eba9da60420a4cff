"""One training step: gradient, optimizer, statistics, compiled for a mesh."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tvconv_jax.training.mesh import AXES, over_devices, replicated
from tvconv_jax.training.nonfinite import skip_nonfinite
from tvconv_jax.training.state import TrainState, TrainStep, state_shardings

# Compiler options for GPUs. By default XLA drops a rounding to bfloat16 where the reader widens the value again, and
# writes float32: an activation takes twice the memory.
GPU_OPTIONS = {"xla_allow_excess_precision": False}

# (params, batch_stats, batch, key) -> (loss, (new batch_stats, metrics))
LossFunction = Callable[[Any, Any, Any, jax.Array], tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]]


def make_train_step(
    loss_function: LossFunction,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    grad_accum_steps: int = 1,
    on_nonfinite: str = "stop",
) -> TrainStep:
    """Compile ``(state, batch) -> (state, metrics)``.

    The batch is sharded over all devices of the mesh, so sums over it, batch statistics included, are global. The state
    has the shardings of :func:`.state_shardings`, and is donated: the old one is gone after the call. The metrics are
    ``loss`` and those of the loss function.

    Args:
        loss_function: ``(params, batch_stats, batch, key)`` to ``(loss, (new batch_stats, metrics))``.
        optimizer: Of ``params``.
        mesh: Of :func:`.make_mesh`.
        grad_accum_steps: Parts that the batch is computed in, one after the other, with the memory of one. The
            optimizer gets their mean gradient. It is the whole batch's except for batch statistics: every part is
            normalized with its own, and the running averages take one after the other, as they do in PyTorch.
        on_nonfinite: ``"skip"``: a step that is not finite changes nothing; ``"stop"`` leaves it to the loop.
    """
    gradient = jax.value_and_grad(loss_function, has_aux=True)
    if grad_accum_steps > 1:
        gradient = _accumulated(gradient, grad_accum_steps, mesh)

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # for operators that loop over the batch
            key = jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step)
            (loss, (batch_stats, metrics)), grads = gradient(state.params, state.batch_stats, batch, key)
            with jax.named_scope("optimizer"):
                updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
                params = optax.apply_updates(state.params, updates)
            state = state.replace(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state)
            return lax.with_sharding_constraint(state, state_shardings(state, mesh)), {"loss": loss, **metrics}

    return jax.jit(
        skip_nonfinite(step) if on_nonfinite == "skip" else step,
        donate_argnums=0,
        in_shardings=(None, over_devices(mesh)),  # the state keeps its own
        out_shardings=(None, replicated(mesh)),
        compiler_options=GPU_OPTIONS if mesh.devices.flat[0].platform == "gpu" else None,
    )


def _accumulated(gradient: Callable, parts: int, mesh: Mesh) -> Callable:
    """Compute ``gradient`` part by part: means of loss, metrics and gradients, the last batch statistics."""

    def cut(leaf: jax.Array) -> jax.Array:
        # Every parts-th image, so that each device has its share of every part already.
        leaf = leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1)
        return lax.with_sharding_constraint(leaf, NamedSharding(mesh, PartitionSpec(None, AXES)))

    def accumulated(params: Any, batch_stats: Any, batch: Any, key: jax.Array) -> tuple:
        def add(carry: tuple, part: tuple[jax.Array, Any]) -> tuple[tuple, tuple]:
            total, batch_stats = carry
            (loss, (batch_stats, metrics)), grads = gradient(
                params, batch_stats, part[1], jax.random.fold_in(key, part[0])
            )
            return (jax.tree.map(jnp.add, total, grads), batch_stats), (loss, metrics)

        carry = jax.tree.map(jnp.zeros_like, params), batch_stats
        (grads, batch_stats), values = lax.scan(add, carry, (jnp.arange(parts), jax.tree.map(cut, batch)))
        loss, metrics = jax.tree.map(lambda value: jnp.mean(value, axis=0), values)
        return (loss, (batch_stats, metrics)), jax.tree.map(lambda total: total / parts, grads)

    return accumulated
