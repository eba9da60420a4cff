"""The flow of every task: train, evaluate, write the report, restore; a task's job fills in its parts."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import flax.linen as nn
import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from tvconv_jax.data.pipeline import eval_batches, train_batches
from tvconv_jax.data.source import Source
from tvconv_jax.data.workers import WatchedBatches
from tvconv_jax.nn.freeze import freeze
from tvconv_jax.tasks import report_data, write_report
from tvconv_jax.tasks.device_data import check_cache, feed
from tvconv_jax.tasks.forward import Forward, make_forward
from tvconv_jax.tasks.parts import find_speed, learning_rate_note, plan_of, schedule_of
from tvconv_jax.tasks.report_data import ReportData
from tvconv_jax.tasks.trained import Trained, check_trained, training_images
from tvconv_jax.training import loop
from tvconv_jax.training.checkpoint import Checkpoints
from tvconv_jax.training.distributed import is_first, to_host
from tvconv_jax.training.logging import MetricsLog, last_loss
from tvconv_jax.training.maps import MapsLog
from tvconv_jax.training.mesh import (
    check_batch_size,
    eval_batch_size,
    local_rows,
    make_mesh,
    norm_groups,
    norm_note,
    put_batch,
)
from tvconv_jax.training.nonfinite import check_outputs
from tvconv_jax.training.state import TrainState
from tvconv_jax.training.step import LossFunction, TrainStep, make_train_step
from tvconv_jax.utils.environment import provenance
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import write_json, write_text
from tvconv_jax.utils.progress import ProgressLine, reporter
from tvconv_jax.utils.storage import locked, writing

MEASURING = "measuring the results on the test images"


class Job(ABC):
    """A run put together from its config, the base of every task's job.

    A task's job sets the attributes without a value below and ``data``, with the training images ``data.train``, and
    defines the abstract methods.

    Raises:
        UserError: If something in the config or the data does not fit.
    """

    model: nn.Module
    optimizer: optax.GradientTransformation
    batch_size: int  # images in a step
    steps_per_epoch: int
    sizes: dict[str, int]  # of the data, as checkpoints hold them
    augmentation: Mapping[str, Any] = MappingProxyType({})  # arguments of train_batches
    sets: Any = None  # verification or test sets by name, for the report
    results_of_best = False  # whether results.json describes the best checkpoint; False: the last
    eval_of_best = True  # whether --mode=eval evaluates it
    devices: Sequence[jax.Device] | None = None  # of the mesh; None: all of this process
    files = ("report.html", "results.json", "metrics.jsonl", "tensorboard/", "checkpoints/")  # named when a run ends

    def __init__(self, config: ConfigDict) -> None:
        self.config = config
        self.mesh = make_mesh(data=config.mesh.data, model=config.mesh.model, devices=self.devices)
        self.eval_batch_size = eval_batch_size(config.eval.batch_size, self.mesh)
        check_cache(config)
        self.freeze = jax.jit(lambda variables: freeze(self.model, variables).variables)

    @classmethod
    def open(cls, config: ConfigDict) -> Self:
        """Return the job of a config with the data that it names."""
        return cls(config)

    @property
    def source(self) -> str:
        """Name of the training data in an error."""
        return self.data.description

    @property
    def notes(self) -> list[str]:
        """Lines before the first step."""
        return [f"data: {self.data.description}", *self.data.notes]

    @abstractmethod
    def init_state(self) -> TrainState:
        """Return the state before the first step."""

    def init_fn(self, state: TrainState, _: Callable[[str], None]) -> TrainState:
        """Return the fresh state as the config changes it; the function prints a line."""
        return state

    @abstractmethod
    def loss(self, forward: Forward) -> LossFunction:
        """Return the loss of the model's forward pass."""

    @abstractmethod
    def scores(self, state: TrainState) -> dict[str, float]:
        """Return the numbers of an evaluation during training; the highest ``score`` is the best state."""

    @abstractmethod
    def measure(self, state: TrainState) -> Any:
        """Return all results of a state on the test data."""

    @abstractmethod
    def results(self, found: Any, state: TrainState, best: loop.Best) -> dict[str, Any]:
        """Return the task's own keys of ``results.json`` for what :meth:`measure` found."""

    @abstractmethod
    def show(self, found: Any, step: int, *, trained: bool) -> None:
        """Print what :meth:`measure` found, after a training or in ``--mode=eval``."""

    def write_files(self, workdir: Path, found: Any) -> None:
        """Write the files that only this task has; none by default."""
        return None

    def artifact(self, workdir: Path, step: int) -> dict[str, Any]:
        """Return the task's own fields of :class:`Trained`, if its models can be exported."""
        raise NotImplementedError(f"{type(self).__name__} has no artifact.")

    @classmethod
    def prepare(cls, config: ConfigDict, _workdir: Path, *, train: bool) -> ConfigDict:
        """Return the config with a task's choices for its data; refuse what cannot work, before data is read."""
        return config

    @classmethod
    def load_sets(cls, _: ConfigDict) -> Any:
        """Return the sets whose worst images a report shows, if the data is still there."""
        return None

    def check_batch_size(self, name: str) -> None:
        """Raise a ``UserError`` if the batch cannot be split as the config asks; ``name`` is its key."""
        train = self.config.train
        check_batch_size(name, self.batch_size, self.mesh, parts=train.grad_accum_steps, batch_norm=train.batch_norm)

    def train_step(self) -> TrainStep:
        """Return the compiled step."""
        train = self.config.train
        loss = self.loss(make_forward(self.model, self.mesh, precision=train.precision, batch_norm=train.batch_norm))
        options = {"grad_accum_steps": train.grad_accum_steps, "on_nonfinite": train.on_nonfinite}
        return make_train_step(loss, self.optimizer, self.mesh, **options)

    def batches(self) -> Any:
        """Return the training batches without end."""
        data, rows = self.config.data, local_rows(self.batch_size, self.mesh)
        options = {"image_size": data.image_size, "seed": self.config.seed, "workers": data.workers, "rows": rows}
        return train_batches(self.data.train, batch_size=self.batch_size, **options, **self.augmentation)

    def name_of(self, index: int) -> str:
        """Return the name of a training image."""
        return self.data.train.name(index)

    def task(self) -> loop.Task:
        """Return the job as the training loop sees it."""
        step, groups = self.train_step(), norm_groups(self.config.train.batch_norm, self.mesh)
        batches = WatchedBatches(self.batches(), timeout=self.config.data.timeout, source=self.source)
        return loop.Task(step, batches, self.scores, self.name_of, self.sizes, groups)

    def schedule(self) -> optax.Schedule:
        """Return the learning rate by step."""
        return schedule_of(self.config, batch_size=self.batch_size, steps_per_epoch=self.steps_per_epoch)

    def outputs(self, title: str, function: Callable, source: Source, **part: int) -> np.ndarray:
        """Return the outputs of a function of images ``uint8 [n, h, w, 3]`` for every image of a source, each once."""
        size, parts = {"batch_size": self.eval_batch_size, "image_size": self.config.data.image_size}, []
        for batch in eval_batches(source, **size, **part, rows=local_rows(self.eval_batch_size, self.mesh)):
            found = to_host(function(put_batch(batch["image"], self.mesh)))[batch["mask"]]
            parts.append(check_outputs(title, found))
        return np.concatenate(parts)

    def plan(self) -> loop.Plan:
        """Return the intervals of the loop."""
        return plan_of(self.config, self.steps_per_epoch)

    def variables(self, state: TrainState) -> dict[str, Any]:
        """Return the variables of the model in a state."""
        return {"params": state.params.get("model", state.params), "batch_stats": state.batch_stats}

    def report_data(self, state: TrainState, _: Any = None) -> ReportData:
        """Return what the report shows besides results, of a state and what :meth:`measure` found for it."""
        return report_data.of_run(self.schedule(), self.plan().total, state.params)

    @classmethod
    def train(cls, config: ConfigDict, workdir: Path) -> None:
        """Train from the newest checkpoint of the workdir, or from the beginning, and write the results."""
        config = cls.prepare(config, workdir, train=True)
        job = cls.open(config)
        ended = run(job, workdir)
        state = restore(job, workdir, best=True) if job.results_of_best else ended.state
        with reporter.doing(MEASURING):
            found = job.measure(state)
        results = job.results(found, state, ended.best)
        if not is_first():
            return
        job.write_files(workdir, found)
        results = {**results, "train_loss": last_loss(workdir), **provenance(config.seed, ended.images_per_second)}
        write_json(workdir / "results.json", results)
        data = job.report_data(state, found)
        report_data.save(workdir, data)
        write_report(workdir, config, data, job.sets)
        job.show(found, int(state.step), trained=True)
        print(f"Everything is in {workdir}: {', '.join(cls.files)}")

    @classmethod
    def evaluate(cls, config: ConfigDict, workdir: Path) -> None:
        """Print the results of a workdir's best checkpoint, or of the one that ``eval.checkpoint`` names."""
        check_trained(workdir)
        job = cls.open(cls.prepare(config, workdir, train=False))
        state = restore(job, workdir, best=job.eval_of_best)
        with reporter.doing(MEASURING):
            found = job.measure(state)
        job.show(found, int(state.step), trained=False)

    @classmethod
    def report(cls, config: ConfigDict, workdir: Path) -> None:
        """Write the report of a run that ended again."""
        data = report_data.load(workdir)
        if data is None:  # a run of an older version
            job = cls.open(config)
            data = job.report_data(restore(job, workdir, best=job.results_of_best))
            report_data.save(workdir, data)
        write_report(workdir, config, data, cls.load_sets(config))

    @classmethod
    def trained(cls, config: ConfigDict, workdir: Path, *, best: bool) -> Trained:
        """Return a trained run, with its best checkpoint or its last."""
        check_trained(workdir)
        job = cls.open(config)
        state = restore(job, workdir, best=best)
        parts, step = {"config": config, "model": job.model, "variables": job.variables(state)}, int(state.step)
        return Trained(**parts, step=step, batches=lambda: training_images(job), **job.artifact(workdir, step))


class TrainResult(NamedTuple):
    """A run that took its last step; its speed is ``None`` if it is not known."""

    state: TrainState
    best: loop.Best
    images_per_second: float | None


def run(job: Job, workdir: Path) -> TrainResult:
    """Train from the newest checkpoint of the workdir, or from the beginning, to the last step."""
    with ExitStack() as stack:
        line = stack.enter_context(closing(ProgressLine(job.plan().total, job.batch_size)))
        if first := is_first():
            stack.enter_context(locked(workdir, line.print))
        norm = norm_note(job.config.train.batch_norm, job.mesh)
        for note in (*job.notes, *norm, learning_rate_note(job.config, job.batch_size)):
            line.print(note)
        checkpoints = stack.enter_context(Checkpoints(workdir, line.print))
        task = job.task()
        stack.enter_context(closing(task.batches))
        fresh = job.init_state()
        state, progress = loop.resume(fresh, task, checkpoints)
        if state is fresh:
            state = job.init_fn(state, line.print)
        with line.hidden():  # decoding shows its own progress
            batches = stack.enter_context(closing(feed(job, task.batches)))
        if first:
            with writing(workdir, "config.json"):
                write_text(workdir / "config.json", job.config.to_json(indent=2) + "\n")
        step = int(state.step)
        log, maps = stack.enter_context(closing(MetricsLog(workdir, step))), MapsLog(workdir, step)

        def evaluate(state: TrainState) -> dict[str, float]:
            maps.write(int(state.step), state.params)
            return task.evaluate(state)

        if step == 0:
            maps.write(0, state.params)
        watched = task._replace(evaluate=evaluate, batches=batches)
        state, progress = loop.fit(state, progress, watched, job.plan(), job.mesh, checkpoints, log, line)
    return TrainResult(state, progress.best, find_speed(line, workdir / "results.json"))


def restore(job: Job, workdir: Path, *, best: bool) -> TrainState:
    """Return the best or the last state of a workdir.

    Raises:
        UserError: If there is none.
    """
    with Checkpoints(workdir) as checkpoints:
        restored = checkpoints.restore(job.init_state(), best=best)
    if restored is None:
        kind, hint = ("best checkpoint", "train until the first evaluation") if best else ("checkpoint", "train first")
        raise UserError(f"{workdir} holds no {kind}; {hint}, with --mode=train.")
    return restored[0]
