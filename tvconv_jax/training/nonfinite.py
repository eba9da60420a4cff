"""What becomes of a step whose loss or gradient is not finite: it stops the run, or it is skipped and counted."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tvconv_jax.training.state import TrainState
from tvconv_jax.utils.errors import TrainingError

POLICIES = ("stop", "skip")
# One bad picture spoils one batch of an epoch. So many batches in a row: it is the state that is at fault.
IN_A_ROW = 10
# A workdir holds one config, so another rate needs another workdir; face configs have start.checkpoint.
OTHER_RATE = (
    "A lower optimizer.learning_rate needs a new --workdir; --config.start.checkpoint=THIS WORKDIR, where the config "
    "has that key, brings the weights along."
)

# Arrays of up to so many numbers are looked at together: a kernel for each of the hundreds of a model takes XLA ten
# times as long to compile. Larger ones may be cut over devices and stay apart.
SMALL = 1 << 16

Step = Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]


class Skipped(NamedTuple):
    """How many steps were skipped: in all, and the last ones in a row."""

    total: int = 0
    in_a_row: int = 0


def skip_not_finite(step: Step) -> Step:
    """A step that changes nothing but the count of steps where its result is not finite.

    A loss, gradient or statistic that is not finite leaves the parameters, the statistics and the optimizer's state,
    its schedule included, as they were.

    Args:
        step: ``(state, batch) -> (state, metrics)``, not compiled.

    Returns:
        The same with the metric ``skipped``, 1 or 0.
    """

    def guarded(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        new, metrics = step(state, batch)
        # A gradient that is not finite leaves no parameter finite that it moves.
        finite = jnp.isfinite(metrics["loss"]) & _is_finite(new)
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, state)
        return kept.replace(step=new.step), {**metrics, "skipped": 1 - finite.astype(jnp.float32)}

    return guarded


@jax.jit
def _is_finite(state: TrainState) -> jax.Array:
    values = jax.tree.leaves((state.params, state.batch_stats))
    groups = [value for value in values if value.size > SMALL]
    if small := [value.ravel() for value in values if value.size <= SMALL]:
        groups.append(jnp.concatenate(small))
    return jnp.stack([jnp.isfinite(group).all() for group in groups]).all()


def check_finite(state: TrainState) -> None:
    """Raises a ``TrainingError`` if a gradient or a statistic was not finite, though no loss told of it so far."""
    if not _is_finite(state):
        raise TrainingError(
            f"after step {int(state.step)} parameters are not finite, and are not saved. Leave such steps out with "
            f"--config.train.nan=skip: the last checkpoint is whole. {OTHER_RATE}"
        )


def check_outputs(what: str, outputs: np.ndarray) -> np.ndarray:
    """Pass a model's outputs on, unless some of them mean nothing.

    Comparisons would turn what is not a number into a finite accuracy.

    Args:
        what: What they are, for the message.
        outputs: ``[n, ...]``, of an image each.

    Raises:
        TrainingError: If outputs of an image are not finite, or so large that their length is not.
    """
    lengths = np.sum(np.square(outputs), axis=tuple(range(1, outputs.ndim)))
    if bad := int(np.sum(~np.isfinite(lengths))):
        raise TrainingError(
            f"{what} of {bad} of {len(outputs)} images are not finite, though the parameters are: the model has "
            f"diverged. {OTHER_RATE}"
        )
    return outputs


def check_score(step: int, values: Mapping[str, float]) -> None:
    """Raise a ``TrainingError`` if an evaluation gave a number that is neither better nor worse than another."""
    if bad := {name: value for name, value in values.items() if not np.isfinite(value)}:
        raise TrainingError(
            f"the evaluation after step {step} gave {', '.join(f'{name} {value}' for name, value in bad.items())}, "
            "which cannot be compared; what was saved before stays."
        )


def stop(step: int, loss: float, names: Sequence[str]) -> TrainingError:
    """The error of a run whose loss is not finite."""
    return TrainingError(
        f"the loss of step {step} is {loss}; its pictures: {shown(names)}. Look at these pictures, or leave such steps "
        f"out with --config.train.nan=skip: the last checkpoint is whole. {OTHER_RATE}"
    )


def count(skipped: Skipped, step: int, names: Sequence[str]) -> Skipped:
    """One more step skipped.

    Raises:
        TrainingError: If it is one too many in a row.
    """
    skipped = Skipped(skipped.total + 1, skipped.in_a_row + 1)
    if skipped.in_a_row >= IN_A_ROW:
        raise TrainingError(
            f"{IN_A_ROW} steps in a row, up to step {step}, were not finite and skipped; the pictures of the last: "
            f"{shown(names)}. {OTHER_RATE}"
        )
    return skipped


def shown(names: Sequence[str]) -> str:
    """The first eight names and the number of the others."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
