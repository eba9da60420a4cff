"""The steps of every training command: resume, train, keep, report."""

from collections.abc import Callable, Iterable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from tvconv_jax.data.workers import WatchedBatches
from tvconv_jax.nn.freeze import freeze
from tvconv_jax.tasks import report_data, write_report
from tvconv_jax.tasks.parts import learning_rate_note, make_forward, mesh_of, plan_of, schedule_of
from tvconv_jax.tasks.report_data import ReportData
from tvconv_jax.training import loop
from tvconv_jax.training.checkpoint import Checkpoints
from tvconv_jax.training.distributed import is_first
from tvconv_jax.training.logging import MetricsLog, NoLog
from tvconv_jax.training.maps import MapsLog
from tvconv_jax.training.mesh import check_batch_size, eval_batch_size, norm_groups, norm_note
from tvconv_jax.training.progress import ProgressLine
from tvconv_jax.training.provenance import provenance
from tvconv_jax.training.state import TrainState
from tvconv_jax.training.step import LossFunction, TrainStep, make_train_step
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import read_json, write_json, write_text
from tvconv_jax.utils.storage import locked, writing

MIN_TIMED_STEPS = 5  # that a speed is taken from

InitFn = Callable[[TrainState, Callable[[str], None]], TrainState]


class Job:
    """A run put together from its config.

    A task's job has ``model``, ``optimizer``, ``batch_size`` (images in a step), ``steps_per_epoch`` and ``notes``
    (lines before the first step) besides, and defines :meth:`init_state` and :meth:`task`.

    Attributes:
        config: The config.
        mesh: Over which batches are sharded.
        eval_batch_size: ``eval.batch_size``, a multiple of the devices.
    """

    batch_size: int
    steps_per_epoch: int
    notes: list[str]

    def __init__(self, config: ConfigDict) -> None:
        self.config, self.mesh = config, mesh_of(config)
        self.eval_batch_size = eval_batch_size(config.eval.batch_size, self.mesh)
        self.freeze = jax.jit(lambda variables: freeze(self.model, variables).variables)

    def init_state(self) -> TrainState:
        """Return the state before the first step."""
        raise NotImplementedError

    def task(self) -> loop.Task:
        """Return the job as the training loop sees it."""
        raise NotImplementedError

    def check_batch_size(self, name: str) -> None:
        """Raise a ``UserError`` if the batch cannot be split as the config asks; ``name`` is its key."""
        train = self.config.train
        check_batch_size(name, self.batch_size, self.mesh, parts=train.grad_accum_steps, batch_norm=train.batch_norm)

    def forward(self) -> Callable:
        """Return the forward pass of the model as ``config.train`` sets it, see :func:`make_forward`."""
        train = self.config.train
        return make_forward(self.model, self.mesh, precision=train.precision, batch_norm=train.batch_norm)

    def compile_step(self, loss: LossFunction) -> TrainStep:
        """Compile the training step of a loss."""
        train = self.config.train
        options = {"grad_accum_steps": train.grad_accum_steps, "on_nonfinite": train.on_nonfinite}
        return make_train_step(loss, self.optimizer, self.mesh, **options)

    def loop_task(
        self, step: TrainStep, batches: Any, evaluate: Callable, name_of: Callable, data: dict[str, int], source: str
    ) -> loop.Task:
        """Return the task of its parts; ``source`` is the name of the data in an error of batches that do not come."""
        batches = WatchedBatches(batches, timeout=self.config.data.timeout, source=source)
        groups = norm_groups(self.config.train.batch_norm, self.mesh)
        return loop.Task(step, batches, evaluate, name_of, data, groups)

    def plan(self) -> loop.Plan:
        """Return the intervals of the loop."""
        return plan_of(self.config, self.steps_per_epoch)

    def report_data(self, state: TrainState) -> ReportData:
        """Return what the report shows of a state besides its results."""
        schedule = schedule_of(self.config, batch_size=self.batch_size, steps_per_epoch=self.steps_per_epoch)
        return report_data.of_run(schedule, self.plan().total, state.params)


class TrainResult(NamedTuple):
    """A run that took its last step; its speed is ``None`` if it is not known."""

    state: TrainState
    best: loop.Best
    images_per_second: float | None


def run(job: Job, workdir: Path, *, init_fn: InitFn = lambda state, _: state) -> TrainResult:
    """Train from the newest checkpoint of the workdir, or from the beginning, to the last step.

    Args:
        job: The job.
        workdir: Of the run.
        init_fn: Changes the fresh state where there is no checkpoint; gets a function that prints a line, too.
    """
    first = is_first()
    with closing(ProgressLine(job.plan().total, job.batch_size)) as line:
        with locked(workdir, line.print) if first else nullcontext():
            norm = norm_note(job.config.train.batch_norm, job.mesh)
            for note in (*job.notes, *norm, learning_rate_note(job.config, job.batch_size)):
                line.print(note)
            with Checkpoints(workdir, line.print) as checkpoints:
                task = job.task()
                with closing(task.batches):
                    state, progress = _train(job, task, workdir, checkpoints, line, init_fn)
    return TrainResult(state, progress.best, find_speed(line, workdir / "results.json"))


def _train(
    job: Job, task: loop.Task, workdir: Path, checkpoints: Checkpoints, line: ProgressLine, init_fn: InitFn
) -> tuple[TrainState, loop.Progress]:
    first, fresh = is_first(), job.init_state()
    state, progress = loop.resume(fresh, task, checkpoints)
    if state is fresh:
        state = init_fn(state, line.print)
    if first:
        with writing(workdir, "config.json"):
            write_text(workdir / "config.json", job.config.to_json(indent=2) + "\n")
    with closing(MetricsLog(workdir, int(state.step)) if first else NoLog()) as log:
        task = _with_maps(task, state, MapsLog(workdir, int(state.step)))
        return loop.fit(state, progress, task, job.plan(), job.mesh, checkpoints, log, line)


def find_speed(line: ProgressLine, results: Path) -> float | None:
    """Return images/s; of a command that took too few steps to time, those of the results of an earlier one."""
    if line.steps >= MIN_TIMED_STEPS:
        return round(line.images_per_second, 1)
    earlier = read_json(results, "remove it; the same command writes it again") if results.exists() else {}
    return earlier.get("images_per_second") or None


def _with_maps(task: loop.Task, state: TrainState, maps: MapsLog) -> loop.Task:
    """Write the affinity maps now, if the run begins, and at every evaluation of the task."""

    def evaluate(state: TrainState) -> dict[str, float]:
        maps.write(int(state.step), state.params)
        return task.evaluate(state)

    if int(state.step) == 0:
        maps.write(0, state.params)
    return task._replace(evaluate=evaluate)


def write_results(
    job: Job, result: TrainResult, workdir: Path, results: dict[str, Any], data: ReportData, sets: Any = None
) -> None:
    """Write ``results.json``, ``report.npz`` and ``report.html``.

    Args:
        job: The job.
        result: Of its training.
        workdir: The folder.
        results: The task's own keys of ``results.json``.
        data: Of the report.
        sets: Verification sets of a face run.
    """
    write_json(workdir / "results.json", results | provenance(job.config.seed, result.images_per_second))
    report_data.save(workdir, data)
    write_report(workdir, job.config, data, sets)


def load_or_measure(workdir: Path, measure: Callable[[], ReportData]) -> ReportData:
    """Return the report data of a run that ended; ``measure`` makes it for a run of an older version."""
    data = report_data.load(workdir)
    if data is None:
        report_data.save(workdir, data := measure())
    return data


def print_files(workdir: Path, names: Iterable[str]) -> None:
    """Print the files of a run that ended."""
    print(f"Everything is in {workdir}: {', '.join(names)}")


def check_trained(workdir: Path) -> None:
    """Raise a ``UserError`` if a workdir was never trained in."""
    if not (workdir / "checkpoints").is_dir():
        raise UserError(f"{workdir} holds no checkpoint; train first, with --mode=train.")


def restore_best(job: Job, workdir: Path) -> TrainState:
    """Return the best state of a workdir.

    Raises:
        UserError: If there is none.
    """
    with Checkpoints(workdir) as checkpoints:
        restored = checkpoints.restore(job.init_state(), best=True)
    if restored is None:
        raise UserError(f"{workdir} holds no best checkpoint; train until the first evaluation, with --mode=train.")
    return restored[0]


def restore_last(job: Job, workdir: Path) -> TrainState:
    """Return the last state of a workdir that was trained in."""
    with Checkpoints(workdir) as checkpoints:
        restored = checkpoints.restore(job.init_state())
    if restored is None:
        raise UserError(f"{workdir} holds no checkpoint; train first, with --mode=train.")
    return restored[0]
