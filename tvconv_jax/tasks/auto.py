"""Settings that a run chooses for its data where the user gave none: the keys of ``train.auto``.

A run puts its choices into its config and ``config.json``, whose ``train.auto`` names the keys that were chosen; a
resumed run goes on with them.
"""

from collections.abc import Callable, Collection, Mapping
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


def schedule_for(images: int, batch_size: int, learning_rate: float, steps: int, given: Mapping[str, Any]) -> dict:
    """Return batch size, learning rate, epochs, warm-up and intervals of a run of about so many steps, by config key.

    ``given`` has the epochs, if the user gave them.
    """
    epochs = given.get("optimizer.epochs", float(max(1, round(steps / max(1, images // batch_size)))))
    return {
        "data.batch_size": batch_size,
        "optimizer.base_batch": batch_size,
        "optimizer.learning_rate": learning_rate,
        "optimizer.epochs": epochs,
        "optimizer.warmup_epochs": epochs * WARMUP,
        "train.eval_every": epochs / EVALUATIONS,
    }


def choose(
    config: ConfigDict,
    free: Mapping[str, Any],
    settings_for: Callable[[dict[str, Any]], dict[str, Any]],
    data: str,
    log_fn: Callable[[str], None],
) -> ConfigDict:
    """Return a config with the settings that a rule chooses for its data; print them.

    Args:
        config: The config.
        free: Keys that may be chosen, and their defaults.
        settings_for: The rule: it gets the values that the user gave by key, and returns those of all keys.
        data: The data in a few words.
        log_fn: Gets a line, if anything is chosen.
    """
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
