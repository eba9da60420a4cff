"""The loop: steps, checks, checkpoints and evaluations, until the last step or until asked to stop."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
from jax.sharding import Mesh

from tvconv_jax.training import nonfinite
from tvconv_jax.training.distributed import PreemptionSync, gather_rows
from tvconv_jax.training.logging import MetricsLog
from tvconv_jax.training.mesh import put_batch
from tvconv_jax.training.nonfinite import Skipped, check_finite
from tvconv_jax.training.state import TrainState, TrainStep
from tvconv_jax.utils.errors import Interrupted, UserError
from tvconv_jax.utils.progress import ProgressLine, reporter


class Plan(NamedTuple):
    """Intervals in steps."""

    total: int  # steps of the run
    log_every: int
    checkpoint_every: int
    eval_every: int  # there is an evaluation after the last step in any case


class Task(NamedTuple):
    """A task as the loop sees it."""

    train_step: TrainStep
    batches: Any  # without end, with get_state, set_state and close; each holds "index"
    evaluate: Callable[[TrainState], dict[str, float]]  # the highest "score" is the best state, without it the newest
    name_of: Callable[[int], str]  # of the image with an index
    data: dict[str, int] = {}  # set sizes by name; a saved iterator position is valid only for the same sizes
    norm_groups: int = 1  # groups of images, each with batch statistics of its own; a run keeps their number


class Checkpoints(Protocol):
    """Saved states with their positions, see :class:`tvconv_jax.training.checkpoint.Checkpoints`."""

    def restore(self, like: TrainState, *, set_aside: bool) -> tuple[TrainState, dict[str, Any]] | None: ...

    def save(self, state: TrainState, data: dict[str, Any], *, best: bool = False) -> None: ...


class PendingStep(NamedTuple):
    """A step that was dispatched and whose metrics were not read yet."""

    step: int
    metrics: dict[str, Any]
    index: np.ndarray


class Best(NamedTuple):
    """The best evaluation so far."""

    step: int
    score: float | None


class Progress(NamedTuple):
    """The best evaluation, and the number of skipped steps."""

    best: Best = Best(step=0, score=-1.0)
    skipped: Skipped = Skipped()


def resume(state: TrainState, task: Task, checkpoints: Checkpoints) -> tuple[TrainState, Progress]:
    """Restore the newest whole checkpoint and the position in the data; without one, return the state as it is.

    Raises:
        UserError: If the data, or the groups of the batch norms, are not those of the run so far.
    """
    restored = checkpoints.restore(state, set_aside=True)
    if restored is None:
        return state, Progress()
    state, saved = restored
    if (before := saved.get("data", task.data)) != task.data:
        there, now = (", ".join(f"{count} {name}" for name, count in data.items()) for data in (before, task.data))
        raise UserError(
            f"the training data changed: {there} when the run was stopped, {now} now; put it back, or train in "
            f"another --workdir."
        )
    if (groups := saved.get("norm_groups", task.norm_groups)) != task.norm_groups:
        raise UserError(
            f"batch norms averaged over {groups} groups of images when the run was stopped, and would over "
            f"{task.norm_groups} with this config on these devices; set --config.train.batch_norm={groups}."
        )
    task.batches.set_state(saved["batches"])
    return state, Progress(Best(**saved["best"]), Skipped(**saved.get("skipped", {})))


def fit(
    state: TrainState,
    progress: Progress,
    task: Task,
    plan: Plan,
    mesh: Mesh,
    checkpoints: Checkpoints,
    log: MetricsLog,
    line: ProgressLine,
) -> tuple[TrainState, Progress]:
    """Train to step ``plan.total``, from the state, which is donated, and the progress of :func:`resume`.

    Raises:
        TrainingError: If a loss is not finite, too many steps in a row were skipped, or the disk is full. What was
            saved before stays.
        Interrupted: If asked to stop by Ctrl-C, SIGTERM or SIGHUP, once the state is saved.
    """
    pending = None
    with _stop_requests() as asked:
        stop = PreemptionSync(mesh, lambda: asked.code if asked.is_set() else 0)
        for step in range(int(state.step) + 1, plan.total + 1):
            batch = next(task.batches)
            state, metrics = task.train_step(state, put_batch(batch, mesh))
            if pending:  # while the device is busy with the step after it
                progress = _process_metrics(pending, task, plan, progress, log, line)
            pending = PendingStep(step, metrics, batch["index"])
            stop.exchange()
            last = step == plan.total
            evaluate = last or step % plan.eval_every == 0
            if not (evaluate or step % plan.checkpoint_every == 0 or stop()):
                continue
            progress = _process_metrics(pending, task, plan, progress, log, line)  # only a finite state is saved
            pending = None
            check_finite(state)
            if evaluate:
                progress = _evaluate(state, task, progress, checkpoints, log, line)
            checkpoints.save(state, _position(task, progress))
            if stop() and not last:
                raise Interrupted(
                    f"stopped after step {step} of {plan.total}, and saved; the same command goes on.", code=stop()
                )
    return state, progress


def _position(task: Task, progress: Progress) -> dict[str, Any]:
    return {
        "batches": task.batches.get_state(),
        "data": task.data,
        "norm_groups": task.norm_groups,
        "best": progress.best._asdict(),
        "skipped": progress.skipped._asdict(),
    }


def _process_metrics(
    pending: PendingStep, task: Task, plan: Plan, progress: Progress, log: MetricsLog, line: ProgressLine
) -> Progress:
    """Wait for a step's metrics, log them, and count a skipped step or stop at a loss that is not finite."""
    metrics = {name: float(value) for name, value in pending.metrics.items()}
    skipped = progress.skipped

    def names() -> list[str]:
        return [task.name_of(int(i)) for i in gather_rows(pending.index)]

    if "skipped" in metrics:
        if metrics.pop("skipped"):
            skipped = nonfinite.count(skipped, pending.step, spoiled := names())
            log.write(pending.step, skipped=skipped.total)  # JSON has no number for its loss
            line.print(f"step {pending.step} skipped, not finite ({skipped.total} so far): {nonfinite.shown(spoiled)}")
            return progress._replace(skipped=skipped)
        skipped = skipped._replace(in_a_row=0)
        metrics["skipped"] = skipped.total
    if not np.isfinite(metrics["loss"]):
        raise nonfinite.stop(pending.step, metrics["loss"], names())
    line.update(pending.step, metrics["loss"])
    if pending.step % plan.log_every == 0 or pending.step == plan.total:
        log.write(pending.step, **metrics, images_per_second=round(line.images_per_second, 1))
    return progress._replace(skipped=skipped)


def _evaluate(
    state: TrainState, task: Task, progress: Progress, checkpoints: Checkpoints, log: MetricsLog, line: ProgressLine
) -> Progress:
    begin, step = time.monotonic(), int(state.step)
    with reporter.doing(f"evaluating after step {step}"):
        values = task.evaluate(state)
    nonfinite.check_score(step, values)
    if values:
        log.write(step, **values)
    line.print(f"step {step}: " + ("  ".join(f"{k} {v:.4f}" for k, v in values.items()) or "nothing to verify on"))
    score, before = values.get("score"), progress.best.score
    if score is None or before is None or score > before:
        progress = progress._replace(best=Best(step, score))
        checkpoints.save(state, _position(task, progress), best=True)
    line.pause(time.monotonic() - begin)
    return progress


class _Stop(threading.Event):
    """Set when the process was asked to stop; ``code`` is the command's exit code."""

    code = os.EX_TEMPFAIL  # also of a process that stops because another one was asked


@contextmanager
def _stop_requests() -> Iterator[_Stop]:
    """Let Ctrl-C, SIGTERM and SIGHUP ask the loop to stop after its step; a second Ctrl-C ends the process at once.

    SIGHUP, which a terminal sends that closes, stays ignored where it is, as under ``nohup``.
    """
    stop = _Stop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]

    def ask(number: int, _: Any) -> None:
        stop.code = 130 if number == signal.SIGINT else os.EX_TEMPFAIL
        stop.set()
        signal.signal(number, before[number])

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
