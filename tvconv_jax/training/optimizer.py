"""Optimizers: the reference's SGD with a stepwise learning rate; AdamW and SGDW with warm-up and cosine."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

OPTIMIZERS = ("adamw", "sgdw")  # of decoupled()

# Factor of the learning rate for a batch `ratio` times as large.
LR_SCALINGS = {"none": lambda ratio: 1.0, "linear": lambda ratio: ratio, "sqrt": math.sqrt}


def step_schedule(
    learning_rate: float,
    *,
    milestones: Sequence[float],
    factor: float,
    steps_per_epoch: int,
    warmup_epochs: float = 0.0,
) -> optax.Schedule:
    """Multiply ``learning_rate`` by ``factor`` at each milestone, in epochs.

    During the first ``warmup_epochs`` it grows linearly, a step at a time, up to its full value (Goyal et al. 2017,
    https://arxiv.org/abs/1706.02677, section 2.2).
    """
    boundaries: dict[int, float] = {}
    for epoch in milestones:  # several may fall on one step
        step = round(epoch * steps_per_epoch)
        boundaries[step] = boundaries.get(step, 1.0) * factor
    schedule = optax.piecewise_constant_schedule(learning_rate, boundaries)
    warmup = round(warmup_epochs * steps_per_epoch)
    if warmup == 0:
        return schedule
    return lambda step: schedule(step) * jnp.minimum((step + 1) / warmup, 1.0)


def shared_array(value: jax.Array) -> jax.Array:
    """Return a scalar as an element of an array, so that XLA for GPUs merges all that read it into few kernels.

    It merges loops of one shape if they read the same array, and a scalar does not count. Without it a step has a
    kernel for every parameter.
    """
    return lax.optimization_barrier(jnp.stack([value, value]))[0]


def sgd(schedule: optax.Schedule, *, momentum: float, weight_decay: float) -> optax.GradientTransformation:
    """Return SGD as ``torch.optim.SGD`` computes it.

    ``g = gradient + weight_decay * p; v = momentum * v + g; p = p - learning_rate * v``, for every parameter:
    norms, affinity maps and class weights too.

    Source: github.com/JierunChen/TVConv (609d4bf), face_recognition/model_interface.py.
    """
    descent = optax.scale_by_schedule(lambda step: shared_array(-jnp.asarray(schedule(step))))
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.chain(optax.trace(decay=momentum), descent))


class PeakState(NamedTuple):
    """Schedule of a run, in the optimizer's state: runs that differ in these numbers share one compiled program."""

    count: jax.Array  # steps taken, int32 []
    peak: jax.Array  # largest learning rate, float32 []
    warmup: jax.Array  # steps of the warm-up, float32 []
    total: jax.Array  # steps of the run, float32 []


def warmup_cosine(step: Any, peak: Any, warmup: Any, total: Any) -> jax.Array:
    """Return the learning rate of a step, counted from 0: linear up to ``peak``, then a half cosine to 0 at ``total``.

    Source: Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983, without restarts.
    """
    step = jnp.asarray(step, jnp.float32)
    grown = jnp.minimum((step + 1) / jnp.maximum(warmup, 1), 1)
    done = jnp.clip((step - warmup) / jnp.maximum(total - warmup, 1), 0, 1)
    return peak * grown * 0.5 * (1 + jnp.cos(jnp.pi * done))


def scale_by_peak(peak: float, *, warmup_steps: int, total_steps: int) -> optax.GradientTransformation:
    """Return updates times minus the learning rate of :func:`warmup_cosine`, whose numbers are kept in the state."""

    def init(_: Any) -> PeakState:
        numbers = (jnp.asarray(number, jnp.float32) for number in (peak, warmup_steps, total_steps))
        return PeakState(jnp.zeros((), jnp.int32), *numbers)

    def update(updates: Any, state: PeakState, _: Any = None) -> tuple[Any, PeakState]:
        descent = shared_array(-warmup_cosine(*state))
        updates = jax.tree.map(lambda update: descent.astype(update.dtype) * update, updates)
        return updates, state._replace(count=state.count + 1)

    return optax.GradientTransformation(init, update)


def decoupled(
    name: str, learning_rate: float, *, warmup_steps: int, total_steps: int, weight_decay: float
) -> optax.GradientTransformation:
    """Return AdamW or SGDW (momentum 0.9): the decay is not part of the gradient, and is multiplied by the rate.

    Norms and biases, parameters of one axis, do not decay. The learning rate follows :func:`warmup_cosine`.

    Args:
        name: ``"adamw"`` or ``"sgdw"``.
        learning_rate: Its largest value.
        warmup_steps: Steps in which it grows.
        total_steps: Steps of the run; at their end it is 0.
        weight_decay: Share of a weight that a step with learning rate 1 takes off.

    Source: Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101.
    """
    directions = {"adamw": optax.scale_by_adam, "sgdw": functools.partial(optax.trace, decay=0.9)}
    return optax.chain(
        directions[name](),
        optax.add_decayed_weights(weight_decay, mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)),
        scale_by_peak(learning_rate, warmup_steps=warmup_steps, total_steps=total_steps),
    )
