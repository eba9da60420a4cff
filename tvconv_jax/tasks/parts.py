"""Parts of a run that its config describes: model, learning rate, intervals."""

import functools
from collections.abc import Sequence
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from tvconv_jax.data.listing import printable
from tvconv_jax.models import create_model
from tvconv_jax.tasks.configs.base import ONE_BLOCK
from tvconv_jax.tasks.forward import check_choice
from tvconv_jax.training import loop
from tvconv_jax.training.optimizer import LR_SCALINGS, decoupled, sgd, step_schedule, warmup_cosine
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import read_json
from tvconv_jax.utils.progress import ProgressLine
from tvconv_jax.utils.sizes import Size, height_width

MAX_NAMED = 20  # classes that a line of sizes names
MIN_TIMED_STEPS = 5  # that a speed is taken from
MAX_STEPS = 1 << 31  # a state counts its steps in 32 bits
_NOT_FIELDS = ("pretrained", "affinity_init")  # keys of config.model that set initial values
_JAX_NOTE = "\n-----"  # begins what JAX appends to an error of a traced function
_traced: set[str] = set()  # image sizes and models that fit each other


def model_of(config: ConfigDict) -> nn.Module:
    """Return the model of ``config.model``, once it was traced for the config's images.

    Raises:
        UserError: If a field does not fit, or the model does not fit the images.
    """
    try:
        fields = {name: value for name, value in config.model.to_dict().items() if name not in _NOT_FIELDS}
        if not fields.get("stages"):  # the operator's own
            fields.pop("stages", None)
        model = create_model(fields.pop("name", ""), **fields)
        key = f"{config.data.image_size} {config.model.to_json()}"
        if key not in _traced:  # the runs of a sweep have few models
            _trace(model, config.data.image_size)
            _traced.add(key)
        return model
    except (ValueError, TypeError) as error:
        raise UserError(f"config.model: {' '.join(str(error).split(_JAX_NOTE)[0].split())}") from None


def _trace(model: nn.Module, image_size: Size) -> None:
    """Let every layer check its input and fields; one block of a stage has what all have, in a third of the time."""
    short = {"depth": ONE_BLOCK, "layers": 1}.items()
    model = model.clone(**{name: low for name, low in short if getattr(model, name, 0) > low})
    jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *height_width(image_size), 3), jnp.float32))


def _learning_rate(config: ConfigDict, batch_size: int) -> float:
    """Scale the config's learning rate, which belongs to ``base_batch``, to a global batch."""
    o = config.optimizer
    return o.learning_rate * LR_SCALINGS[o.lr_scaling](batch_size / o.base_batch)


def schedule_of(config: ConfigDict, *, batch_size: int, steps_per_epoch: int) -> optax.Schedule:
    """Return the learning rate by step, of ``config.optimizer``, for a global batch."""
    o = config.optimizer
    check_choice("optimizer.lr_scaling", o.lr_scaling, LR_SCALINGS)
    if not 0 <= o.warmup_epochs <= o.epochs:
        raise UserError(f"optimizer.warmup_epochs {o.warmup_epochs} must be 0 to optimizer.epochs, {o.epochs}.")
    learning_rate = _learning_rate(config, batch_size)
    if hasattr(o, "name"):  # of the configs with warm-up and cosine
        steps = {"warmup": warmup_steps(config, steps_per_epoch), "total": round(o.epochs * steps_per_epoch)}
        return functools.partial(warmup_cosine, peak=learning_rate, **steps)
    epochs = {"milestones": o.milestones, "warmup_epochs": o.warmup_epochs}
    return step_schedule(learning_rate, factor=o.factor, steps_per_epoch=steps_per_epoch, **epochs)


def warmup_steps(config: ConfigDict, steps_per_epoch: int) -> int:
    """Return the steps of the warm-up."""
    return round(config.optimizer.warmup_epochs * steps_per_epoch)


def optimizer_of(config: ConfigDict, *, batch_size: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """Return the optimizer that ``config.optimizer`` sets, whose learning rate follows :func:`schedule_of`."""
    o, schedule = config.optimizer, schedule_of(config, batch_size=batch_size, steps_per_epoch=steps_per_epoch)
    if not hasattr(o, "name"):
        return sgd(schedule, momentum=o.momentum, weight_decay=o.weight_decay)
    steps = {"warmup_steps": warmup_steps(config, steps_per_epoch), "total_steps": round(o.epochs * steps_per_epoch)}
    return decoupled(o.name, _learning_rate(config, batch_size), **steps, weight_decay=o.weight_decay)


def learning_rate_note(config: ConfigDict, batch_size: int) -> str:
    """Return a line about the learning rate, and about likely mistakes in it."""
    o = config.optimizer
    if hasattr(o, "name"):  # of the configs with warm-up and cosine
        rate, grown = _learning_rate(config, batch_size), f"grows for {o.warmup_epochs:.3g} epochs, then "
        return f"learning rate: {rate:.3g}; it {grown if o.warmup_epochs else ''}falls to 0 at epoch {o.epochs:.3g}"
    epochs = ", ".join(f"{epoch:.3g}" for epoch in o.milestones)
    note = f"learning rate: {_learning_rate(config, batch_size):.3g}, times {o.factor:g} at epochs {epochs}"
    note += f" of {o.epochs:.3g}"
    note += f", growing for {o.warmup_epochs:.3g}" if o.warmup_epochs else ""
    if any(epoch >= o.epochs for epoch in o.milestones):
        note += "; it does not fall to its end: `epochs=` behind the config's colon moves milestones along"
    if o.lr_scaling == "none" and batch_size < o.base_batch:
        note += f"; it belongs to batches of {o.base_batch}, not {batch_size}: see optimizer.lr_scaling"
    return note


def plan_of(config: ConfigDict, steps_per_epoch: int) -> loop.Plan:
    """Return the intervals of ``config.train`` and ``config.optimizer.epochs`` in steps."""
    train, epochs = config.train, config.optimizer.epochs
    total, given = round(epochs * steps_per_epoch), f"optimizer.epochs {epochs} of {steps_per_epoch} steps each are"
    if total < 1:
        raise UserError(f"{given} no step; take at least {1 / steps_per_epoch:.2g}.")
    if total >= MAX_STEPS:
        raise UserError(f"{given} {total:,} steps, and a run counts to {MAX_STEPS - 1:,}; take fewer.")
    eval_every = max(1, round(train.eval_every * steps_per_epoch))
    return loop.Plan(total, train.log_every, train.checkpoint_every, eval_every)


def set_sizes(images: int, classes: Sequence[str]) -> dict[str, int]:
    """Return the sizes of a set of own images, as checkpoints hold them: a run does not go on with other classes."""
    names = [printable(str(name)) for name in classes[:MAX_NAMED]]
    return {"images": images, f"classes ({', '.join(names)}{', ...' * (len(classes) > MAX_NAMED)})": len(classes)}


def find_speed(line: ProgressLine, results: Path) -> float | None:
    """Return images/s; of a command that took too few steps to time, those of the results of an earlier one."""
    if line.steps >= MIN_TIMED_STEPS:
        return round(line.images_per_second, 1)
    earlier = read_json(results, "remove it; the same command writes it again") if results.exists() else {}
    return earlier.get("images_per_second") or None
