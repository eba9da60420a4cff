"""Settings that a run chooses for its data where the user gave none: the keys of ``train.auto``.

A run puts its choices into its config and ``config.json``, whose ``train.auto`` names the keys that were chosen; a
resumed run goes on with them.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from tvconv_jax.tasks.keys import get
from tvconv_jax.tasks.saved_config import read_config
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.sizes import describe_size

STEPS = 8  # an epoch of a chosen batch size has at least so many, except with the smallest batch
WARMUP, EVALUATIONS = 0.05, 4  # share of the epochs, and evaluations of a run, in schedule_for


def open_keys(config: ConfigDict, free: Collection[str]) -> list[str]:
    """Return the keys of ``train.auto`` that a task may choose."""
    return [key for key in getattr(config.train, "auto", "").split(",") if key in free]


def unchanged_keys(config: ConfigDict, free: Mapping[str, Any]) -> list[str]:
    """Return the open keys whose values are the defaults in ``free``: no config file has set them either."""
    return [key for key in open_keys(config, free) if get(config, key) == free[key]]


def with_choices(config: ConfigDict, chosen: Mapping[str, Any], auto: str | None = None) -> ConfigDict:
    """Return a config with values that were chosen, and in ``train.auto`` their keys, or those that are given."""
    auto = ",".join(chosen) if auto is None else auto
    if auto == getattr(config.train, "auto", "") == "":
        return config
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict({**chosen, "train.auto": auto})
    return config


def resume(config: ConfigDict, workdir: Path, free: Collection[str]) -> ConfigDict:
    """Return a config with the choices of the run in a workdir, if there is one."""
    keys = open_keys(config, free)
    if not keys or not (workdir / "config.json").exists():
        return config
    run = read_config(workdir)
    values = {key: get(run, key) for key in open_keys(run, free) if key in keys}
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return with_choices(config, values, get(run, "train.auto") or "")  # what was chosen stays so if given in between


def batch_size_for(images: int, *, least: int, most: int) -> int:
    """Return a power of two: :data:`STEPS` batches or more in an epoch, but at least ``least`` images."""
    batch = min(max(images // STEPS, least), images, most)
    return 1 << (max(batch, 1).bit_length() - 1)


def schedule_for(
    images: int,
    table: Sequence[tuple[float, int, int]],
    learning_rate: float,
    given: Mapping[str, Any],
    *,
    min_batch: int,
    trained: int | None = None,
) -> dict[str, Any]:
    """Return batch size, learning rate, epochs, warm-up and intervals of a run, by config key.

    A row of the table holds the largest number of images, their batch size and the steps of a run. ``given`` has the
    values that the user gave; ``trained`` are the images that are trained on, by default all.
    """
    _, batch, steps = next(row for row in table if images <= row[0])
    batch = given.get("data.batch_size", batch_size_for(images, least=min_batch, most=batch))
    per_epoch = max(1, (images if trained is None else trained) // batch)
    epochs = given.get("optimizer.epochs", float(max(1, round(steps / per_epoch))))
    return {
        "data.batch_size": batch,
        "optimizer.base_batch": batch,
        "optimizer.learning_rate": learning_rate,
        "optimizer.epochs": epochs,
        "optimizer.warmup_epochs": epochs * WARMUP,
        "train.eval_every": epochs / EVALUATIONS,
    }


def prepare(
    config: ConfigDict,
    workdir: Path,
    free: Mapping[str, Any],
    classes: int,
    settings_for: Callable[[dict[str, Any]], dict[str, Any]],
    data: str,
    log_fn: Callable[[str], None],
) -> ConfigDict:
    """Return the config of a run on own images with their number of classes and the choices of a rule; print these.

    The rule ``settings_for`` gets the values that the user gave, and returns those of all keys in ``free``, which holds
    their defaults; ``data`` names the data in a few words. A run that goes on keeps the choices in its ``config.json``.

    Raises:
        UserError: If the data has other classes than ``model.num_classes``.
    """
    config = with_classes(config, classes)
    if (workdir / "config.json").exists():
        return resume(config, workdir, free)
    if not (keys := unchanged_keys(config, free)):
        return with_choices(config, {})
    given = {key: get(config, key) for key in free if key not in keys}
    chosen = {key: value for key, value in settings_for(given).items() if key in keys}
    if chosen:
        log_fn(f"chosen for {data}: {', '.join(f'{key} {describe(value)}' for key, value in chosen.items())}")
    return with_choices(config, chosen)


def with_classes(config: ConfigDict, classes: int) -> ConfigDict:
    """Return a config with the number of classes of the data; raise a ``UserError`` if it has another one."""
    given = config.model.num_classes
    if given not in (0, classes):
        raise UserError(f"model.num_classes is {given}, and the data has {classes} classes; leave it at 0.")
    if given == classes:
        return config
    config = config.copy_and_resolve_references()
    config.model.num_classes = classes
    return config


def describe(value: Any) -> str:
    """Return a chosen value in short; a size as ``:image_size=`` takes it, ``48x64``."""
    if isinstance(value, tuple):
        sized = all(isinstance(item, int) for item in value)
        return describe_size(value) if sized else f"({', '.join(map(describe, value))})"
    return f"{value:.4g}"
