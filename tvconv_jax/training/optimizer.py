"""The reference's optimiser: SGD with momentum, weight decay on every parameter, a rate that falls in steps."""

from collections.abc import Sequence

import optax


def step_schedule(
    learning_rate: float, *, milestones: Sequence[float], factor: float, steps_per_epoch: int
) -> optax.Schedule:
    """``learning_rate`` times ``factor`` once more from each milestone on; milestones are in epochs."""
    boundaries = {round(epoch * steps_per_epoch): factor for epoch in milestones}
    return optax.piecewise_constant_schedule(learning_rate, boundaries)


def sgd(schedule: optax.Schedule, *, momentum: float, weight_decay: float) -> optax.GradientTransformation:
    """SGD as ``torch.optim.SGD`` computes it.

    ``g = gradient + weight_decay * p; v = momentum * v + g; p = p - learning_rate * v``, for every parameter:
    norms, affinity maps and class weights too.

    Source: github.com/JierunChen/TVConv (609d4bf), face_recognition/model_interface.py.
    """
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum=momentum))
