"""Steps whose loss or gradient is not finite: they stop the run, or are skipped and counted."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tvconv_jax.utils.errors import TrainingError

POLICIES = ("stop", "skip")
# One bad image spoils one batch of an epoch. After so many in a row the state is at fault.
MAX_IN_A_ROW = 10
# A workdir holds one config, so another learning rate needs another workdir; face configs have finetune.checkpoint.
HINT = (
    "A lower optimizer.learning_rate needs a new --workdir. --config.finetune.checkpoint=THIS WORKDIR, where the "
    "config has that key, takes the weights."
)

# Arrays of up to so many numbers are tested together: a kernel for each of the hundreds of a model takes XLA ten times
# as long to compile. Larger ones may be sharded and stay apart.
SMALL = 1 << 16


class Skipped(NamedTuple):
    """Number of skipped steps: in all, and the last ones in a row."""

    total: int = 0
    in_a_row: int = 0


def skip_nonfinite(step: Callable) -> Callable:
    """Wrap a step, not compiled, so that one that is not finite changes nothing except the count of steps.

    A loss, gradient or statistic that is not finite leaves the parameters, the statistics and the optimizer's state,
    its schedule included, as they were. There is one more metric, ``skipped``, 1 or 0.
    """

    def guarded(state: Any, batch: Any) -> tuple[Any, dict[str, jax.Array]]:
        new, metrics = step(state, batch)
        # A gradient that is not finite leaves no parameter finite that it moves.
        finite = jnp.isfinite(metrics["loss"]) & _is_finite(new)
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, state)
        return kept.replace(step=new.step), {**metrics, "skipped": 1 - finite.astype(jnp.float32)}

    return guarded


@jax.jit
def _is_finite(state: Any) -> jax.Array:
    values = jax.tree.leaves((state.params, state.batch_stats))
    groups = [value for value in values if value.size > SMALL]
    if small := [value.ravel() for value in values if value.size <= SMALL]:
        groups.append(jnp.concatenate(small))
    return jnp.stack([jnp.isfinite(group).all() for group in groups]).all()


def check_finite(state: Any) -> None:
    """Raise a ``TrainingError`` if parameters or statistics of a ``TrainState`` are not finite, though losses were."""
    if not _is_finite(state):
        raise TrainingError(
            f"after step {int(state.step)} parameters are not finite, and are not saved. Leave such steps out with "
            f"--config.train.on_nonfinite=skip: the last checkpoint is whole. {HINT}"
        )


def check_outputs(name: str, outputs: np.ndarray) -> np.ndarray:
    """Return a model's outputs ``[n, ...]``, if all are finite; comparisons would turn NaN into a finite accuracy.

    Raises:
        TrainingError: If outputs of an image are not finite, or so large that their length is not.
    """
    lengths = np.sum(np.square(outputs), axis=tuple(range(1, outputs.ndim)))
    if bad := int(np.sum(~np.isfinite(lengths))):
        raise TrainingError(
            f"{name} of {bad} of {len(outputs)} images are not finite, though the parameters are: the model has "
            f"diverged. {HINT}"
        )
    return outputs


def check_score(step: int, values: Mapping[str, float]) -> None:
    """Raise a ``TrainingError`` if a number of an evaluation is not finite."""
    if bad := {name: value for name, value in values.items() if not np.isfinite(value)}:
        raise TrainingError(
            f"the evaluation after step {step} gave {', '.join(f'{name} {value}' for name, value in bad.items())}, "
            "which cannot be compared; what was saved before stays."
        )


def stop(step: int, loss: float, names: Sequence[str]) -> TrainingError:
    """Return the error of a loss that is not finite, with the names of the step's images."""
    return TrainingError(
        f"the loss of step {step} is {loss}; its images: {shown(names)}. Look at these images, or leave such steps "
        f"out with --config.train.on_nonfinite=skip: the last checkpoint is whole. {HINT}"
    )


def count(skipped: Skipped, step: int, names: Sequence[str]) -> Skipped:
    """Count one more skipped step.

    Raises:
        TrainingError: If :data:`MAX_IN_A_ROW` were skipped in a row.
    """
    skipped = Skipped(skipped.total + 1, skipped.in_a_row + 1)
    if skipped.in_a_row >= MAX_IN_A_ROW:
        raise TrainingError(
            f"{MAX_IN_A_ROW} steps in a row, up to step {step}, were not finite and skipped; the images of the last: "
            f"{shown(names)}. {HINT}"
        )
    return skipped


def shown(names: Sequence[str]) -> str:
    """Join the first eight names and the number of the others."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
