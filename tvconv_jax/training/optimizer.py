"""The reference's optimizer: SGD with momentum, weight decay on every parameter, a stepwise learning rate."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import optax

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


def sgd(schedule: optax.Schedule, *, momentum: float, weight_decay: float) -> optax.GradientTransformation:
    """Return SGD as ``torch.optim.SGD`` computes it.

    ``g = gradient + weight_decay * p; v = momentum * v + g; p = p - learning_rate * v``, for every parameter:
    norms, affinity maps and class weights too.

    Source: github.com/JierunChen/TVConv (609d4bf), face_recognition/model_interface.py.
    """
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum=momentum))
