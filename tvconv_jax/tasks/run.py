"""What every training job does: resume, train, keep; and the parts of a config that all jobs share."""

from collections.abc import Callable, Iterable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tvconv_jax.models import create_model
from tvconv_jax.tasks.configs.base import ONE_BLOCK
from tvconv_jax.training import loop
from tvconv_jax.training.checkpoint import Checkpoints
from tvconv_jax.training.distributed import is_first
from tvconv_jax.training.logging import MetricsLog, NoLog
from tvconv_jax.training.maps import MapsLog
from tvconv_jax.training.mesh import make_mesh, norm_note
from tvconv_jax.training.nonfinite import POLICIES
from tvconv_jax.training.optimizer import LR_SCALINGS, sgd, step_schedule
from tvconv_jax.training.progress import ProgressLine
from tvconv_jax.training.state import TrainState
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import read_json, write_text
from tvconv_jax.utils.storage import locked, writing


class Job(Protocol):
    """A job put together from its config.

    Attributes:
        config: The config.
        mesh: Over which batches are cut.
        batch_size: Pictures in a step.
        notes: What the person at the terminal should know before the first step.
    """

    config: ConfigDict
    mesh: Mesh
    batch_size: int
    notes: list[str]

    def init_state(self) -> TrainState: ...

    def task(self) -> loop.Task: ...

    def plan(self) -> loop.Plan: ...


class TrainResult(NamedTuple):
    """A run that took its last step; its speed is ``None`` where nobody knows it."""

    state: TrainState
    best: loop.Best
    images_per_second: float | None


MAX_STEPS = 1 << 31  # a state counts its steps in 32 bits
TRACED = "\n-----"  # what JAX appends to an error of a traced function begins so
TIMED = 5  # steps that tell a speed

_TRACED: set[str] = set()  # image sizes and models that fit each other

InitFn = Callable[[TrainState, Callable[[str], None]], TrainState]


def run(job: Job, workdir: Path, *, init_fn: InitFn = lambda state, _: state) -> TrainResult:
    """Trains from the newest checkpoint of the workdir, or from the beginning, to the last step.

    Args:
        job: The job.
        workdir: Of the run.
        init_fn: What becomes of the fresh state where there is no checkpoint, given it and a way to print a line.
    """
    first = is_first()
    with closing(ProgressLine(job.plan().total, job.batch_size)) as line:
        with locked(workdir, line.print) if first else nullcontext():
            norm = norm_note(job.config.train.batch_norm, job.mesh)
            for note in (*job.notes, *norm, rate_note(job.config, job.batch_size)):
                line.print(note)
            with Checkpoints(workdir, line.print) as checkpoints:
                task = job.task()
                with closing(task.batches):
                    state, progress = _train(job, task, workdir, checkpoints, line, init_fn)
    return TrainResult(state, progress.best, measured_speed(line, workdir / "results.json"))


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


def measured_speed(line: ProgressLine, results: Path) -> float | None:
    """Images per second; of a command that took too few steps to tell, what the results of an earlier one say."""
    if line.steps >= TIMED:
        return round(line.images_per_second, 1)
    earlier = read_json(results, "remove it; the same command writes it anew") if results.exists() else {}
    return earlier.get("images_per_second") or None


def _with_maps(task: loop.Task, state: TrainState, maps: MapsLog) -> loop.Task:
    """The task, of which every evaluation writes the affinity maps too; those of the beginning are written here."""

    def evaluate(state: TrainState) -> dict[str, float]:
        maps.write(int(state.step), state.params)
        return task.evaluate(state)

    if int(state.step) == 0:
        maps.write(0, state.params)
    return task._replace(evaluate=evaluate)


def check_trained(workdir: Path) -> None:
    """Raises a ``UserError`` if a workdir was never trained in."""
    if not (workdir / "checkpoints").is_dir():
        raise UserError(f"{workdir} holds no checkpoint; train first, with --mode=train.")


def restore_best(job: Job, workdir: Path) -> TrainState:
    """The best state of a workdir.

    Raises:
        UserError: If there is none.
    """
    with Checkpoints(workdir) as checkpoints:
        restored = checkpoints.restore(job.init_state(), best=True)
    if restored is None:
        raise UserError(f"{workdir} holds no best checkpoint; train until the first evaluation, with --mode=train.")
    return restored[0]


def restore_last(job: Job, workdir: Path) -> TrainState:
    """The last state of a workdir that was trained in."""
    with Checkpoints(workdir) as checkpoints:
        restored = checkpoints.restore(job.init_state())
    if restored is None:
        raise UserError(f"{workdir} holds no checkpoint; train first, with --mode=train.")
    return restored[0]


def model_of(config: ConfigDict) -> nn.Module:
    """The model that ``config.model`` names, once it was traced for the config's images.

    Raises:
        UserError: If a field does not fit, or the model does not fit the images.
    """
    try:
        fields = config.model.to_dict()
        for says_what_variables_start_from in ("pretrained", "affinity_init"):
            fields.pop(says_what_variables_start_from, None)
        if not fields.get("stages"):  # those that the operator goes to by itself
            fields.pop("stages", None)
        model = create_model(fields.pop("name", ""), **fields)
        of = f"{config.data.image_size} {config.model.to_json()}"
        if of not in _TRACED:  # the runs of a sweep have few models
            _trace(model, config.data.image_size)
            _TRACED.add(of)
        return model
    except (ValueError, TypeError) as error:
        raise UserError(f"config.model: {' '.join(str(error).split(TRACED)[0].split())}") from None


def _trace(model: nn.Module, image_size: int) -> None:
    """Whatever a layer has against its input or its fields, it says while it is traced.

    One block of a stage has what all of its blocks have, and takes a third of the time.
    """
    short = {"depth": ONE_BLOCK, "layers": 1}.items()
    model = model.clone(**{name: least for name, least in short if getattr(model, name, 0) > least})
    jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32))


def mesh_of(config: ConfigDict) -> Mesh:
    """The devices as ``config.mesh`` lays them out."""
    return make_mesh(data=config.mesh.data, model=config.mesh.model)


def schedule_of(config: ConfigDict, *, batch_size: int, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate by step, of ``config.optimizer``, for a global batch.

    The recipe's rate belongs to batches of ``base_batch``; ``lr_scaling`` says how it grows with the batch.
    """
    o = config.optimizer
    check_choice("optimizer.lr_scaling", o.lr_scaling, LR_SCALINGS)
    if not 0 <= o.warmup_epochs <= o.epochs:
        raise UserError(f"optimizer.warmup_epochs {o.warmup_epochs} must be 0 to optimizer.epochs, {o.epochs}.")
    return step_schedule(
        o.learning_rate * LR_SCALINGS[o.lr_scaling](batch_size / o.base_batch),
        milestones=o.milestones,
        factor=o.factor,
        steps_per_epoch=steps_per_epoch,
        warmup_epochs=o.warmup_epochs,
    )


def rate_note(config: ConfigDict, batch_size: int) -> str:
    """The learning rate in words, with what is likely to be a mistake."""
    o = config.optimizer
    rate = o.learning_rate * LR_SCALINGS[o.lr_scaling](batch_size / o.base_batch)
    falls = ", ".join(f"{epoch:.3g}" for epoch in o.milestones)
    note = f"rate: {rate:.3g}, times {o.factor:g} at epochs {falls} of {o.epochs:.3g}"
    note += f", growing for {o.warmup_epochs:.3g}" if o.warmup_epochs else ""
    if any(epoch >= o.epochs for epoch in o.milestones):
        note += "; it does not fall to its end: `epochs=` behind the config's colon moves milestones along"
    if o.lr_scaling == "none" and batch_size < o.base_batch:
        note += f"; it belongs to batches of {o.base_batch}, not {batch_size}: see optimizer.lr_scaling"
    return note


def optimizer_of(config: ConfigDict, steps_per_epoch: int) -> optax.GradientTransformation:
    """SGD with the schedule of ``config.optimizer``."""
    schedule = schedule_of(config, batch_size=config.data.batch_size, steps_per_epoch=steps_per_epoch)
    return sgd(schedule, momentum=config.optimizer.momentum, weight_decay=config.optimizer.weight_decay)


def plan_of(config: ConfigDict, steps_per_epoch: int) -> loop.Plan:
    """When the loop logs, saves and evaluates, by ``config.train`` and ``config.optimizer.epochs``."""
    train = config.train
    check_choice("train.on_nonfinite", train.on_nonfinite, POLICIES)
    total = round(config.optimizer.epochs * steps_per_epoch)
    if total < 1:
        raise UserError(
            f"optimizer.epochs {config.optimizer.epochs} of {steps_per_epoch} steps each are no step; take at least "
            f"{1 / steps_per_epoch:.2g}."
        )
    if total >= MAX_STEPS:
        raise UserError(
            f"optimizer.epochs {config.optimizer.epochs} of {steps_per_epoch} steps each are {total:,} steps, and a "
            f"run counts to {MAX_STEPS - 1:,}; take fewer."
        )
    return loop.Plan(
        total=total,
        log_every=train.log_every,
        checkpoint_every=train.checkpoint_every,
        eval_every=max(1, round(train.eval_every * steps_per_epoch)),
    )


def normalize(images: jax.Array) -> jax.Array:
    """``uint8`` pixels to float32 in [-1, 1]: ``(x / 255 - 0.5) / 0.5``."""
    return (images.astype(jnp.float32) / 255 - 0.5) / 0.5


def check_choice(name: str, value: Any, choices: Iterable) -> None:
    """Raises a ``UserError`` that lists the choices, if ``value`` is none of them."""
    if value not in choices:
        raise UserError(f"{name} {value!r} is unknown; there are: {', '.join(map(str, choices))}.")
