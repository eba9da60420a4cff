"""Settings that a run chooses for its data where the user gave none: the keys of ``train.auto``.

A run puts its choices into its config and ``config.json``, whose ``train.auto`` names the keys that were chosen; a
resumed run goes on with them.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from tvconv_jax.tasks.keys import get
from tvconv_jax.tasks.saved_config import read_config
from tvconv_jax.utils.sizes import describe_size


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


def describe(value: Any) -> str:
    """Return a chosen value in short; a size as ``:image_size=`` takes it, ``48x64``."""
    if isinstance(value, tuple):
        return describe_size(value)
    return f"{value:.4g}"
