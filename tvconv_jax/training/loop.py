"""The loop: steps, checks, checkpoints and evaluations, until the last step or until asked to stop."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from tvconv_jax.errors import Interrupted, TrainingError
from tvconv_jax.training.checkpoint import Checkpoints
from tvconv_jax.training.logging import MetricsLog, ProgressLine
from tvconv_jax.training.mesh import put_batch
from tvconv_jax.training.state import TrainState
from tvconv_jax.training.step import TrainStep


class Plan(NamedTuple):
    """When things happen, all in steps.

    Attributes:
        total: Steps of the run.
        log_every: Between two lines of the log.
        checkpoint_every: Between two checkpoints.
        eval_every: Between two evaluations; one comes after the last step in any case.
    """

    total: int
    log_every: int
    checkpoint_every: int
    eval_every: int


class Task(NamedTuple):
    """What the loop needs of the job at hand.

    Attributes:
        train_step: ``(state, batch) -> (state, metrics)``.
        batches: Batches without end, with ``get_state`` and ``set_state``; each holds ``index``.
        evaluate: State to numbers by name, of which ``score`` says how good the state is.
        name_of: Name of the picture with an index.
    """

    train_step: TrainStep
    batches: Any
    evaluate: Callable[[TrainState], dict[str, float]]
    name_of: Callable[[int], str]


class _Taken(NamedTuple):
    """A step that was dispatched and not yet looked at."""

    step: int
    metrics: dict[str, Any]
    index: np.ndarray


class Best(NamedTuple):
    """The best evaluation so far."""

    step: int
    score: float


def resume(state: TrainState, task: Task, checkpoints: Checkpoints) -> tuple[TrainState, Best]:
    """Goes back to the newest checkpoint, the position in the data included; without one, to the beginning."""
    restored = checkpoints.restore(state)
    if restored is None:
        return state, Best(step=0, score=-1.0)
    state, saved = restored
    task.batches.set_state(saved["batches"])
    return state, Best(**saved["best"])


def fit(
    state: TrainState,
    best: Best,
    task: Task,
    plan: Plan,
    mesh: Mesh,
    checkpoints: Checkpoints,
    log: MetricsLog,
    line: ProgressLine,
) -> tuple[TrainState, Best]:
    """Trains until ``plan.total`` steps are taken.

    Args:
        state: Where to begin, as :func:`resume` gave it; donated.
        best: The best evaluation so far.
        task: The job.
        plan: When things happen.
        mesh: Over which batches are cut.
        checkpoints: Where states are saved.
        log: Where numbers go.
        line: Where the person at the terminal looks.

    Returns:
        The last state and the best evaluation.

    Raises:
        TrainingError: If a loss is not finite. What was saved before stays.
        Interrupted: If asked to stop by Ctrl-C or SIGTERM, once the state is saved.
    """
    taken = None
    with _stop_requests() as stop:
        for step in range(int(state.step) + 1, plan.total + 1):
            batch = next(task.batches)
            state, metrics = task.train_step(state, put_batch(batch, mesh))
            if taken:
                _look(taken, task, plan, log, line)  # while the device is busy with the step after it
            taken = _Taken(step, metrics, batch["index"])
            last = step == plan.total
            evaluate = last or step % plan.eval_every == 0
            if not (evaluate or step % plan.checkpoint_every == 0 or stop.is_set()):
                continue
            _look(taken, task, plan, log, line)  # nothing that is not finite is saved
            taken = None
            if evaluate:
                best = _evaluate(state, task, best, checkpoints, log, line)
            checkpoints.save(state, _position(task, best))
            if stop.is_set() and not last:
                raise Interrupted(f"stopped after step {step} of {plan.total}, and saved; the same command goes on.")
    return state, best


def _position(task: Task, best: Best) -> dict[str, Any]:
    return {"batches": task.batches.get_state(), "best": best._asdict()}


def _look(taken: _Taken, task: Task, plan: Plan, log: MetricsLog, line: ProgressLine) -> None:
    """Waits for a step's numbers, stops the run if its loss is not finite, and passes them on."""
    metrics = {name: float(value) for name, value in taken.metrics.items()}
    if not np.isfinite(metrics["loss"]):
        names = [task.name_of(int(i)) for i in taken.index[:8]]
        more = f" and {len(taken.index) - 8} more" if len(taken.index) > 8 else ""
        raise TrainingError(
            f"the loss of step {taken.step} is {metrics['loss']}; its pictures: {', '.join(names)}{more}. Lower "
            f"optimizer.learning_rate, or look at these pictures; the last checkpoint is whole."
        )
    line.update(taken.step, metrics["loss"])
    if taken.step % plan.log_every == 0 or taken.step == plan.total:
        log.write(taken.step, **metrics, images_per_second=round(line.images_per_second, 1))


def _evaluate(
    state: TrainState, task: Task, best: Best, checkpoints: Checkpoints, log: MetricsLog, line: ProgressLine
) -> Best:
    begin, step = time.monotonic(), int(state.step)
    values = task.evaluate(state)
    log.write(step, **values)
    line.print(f"step {step}: " + "  ".join(f"{name} {value:.4f}" for name, value in values.items()))
    if values["score"] > best.score:
        best = Best(step, values["score"])
        checkpoints.save_best(state, _position(task, best))
    line.pause(time.monotonic() - begin)
    return best


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM ask the loop to stop after its step; a second Ctrl-C ends the process at once."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _: Any) -> None:
        stop.set()
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():
        for number in before:
            signal.signal(number, ask)
    try:
        yield stop
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
