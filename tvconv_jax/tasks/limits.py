"""Values of a config that would end a run late, or do the opposite of what they say, refused before data is opened."""

import functools
import math
from typing import Any

from ml_collections import ConfigDict

from tvconv_jax.errors import UserError
from tvconv_jax.tasks.run import check_choice

# The least value of a key, where a config has that key.
LEAST = {
    "seed": 0,
    "data.image_size": 8,
    "data.workers": 0,
    "data.timeout": 0,
    "data.max_corrupt": 0,
    "optimizer.base_batch": 1,
    "optimizer.factor": 0,
    "optimizer.learning_rate": 0,
    "optimizer.momentum": 0,
    "optimizer.weight_decay": 0,
    "train.log_every": 1,
    "train.checkpoint_every": 1,
    "eval.pictures": 0,
}
POSITIVE = ("optimizer.epochs", "train.eval_every", "loss.scale")  # less than one epoch makes sense, none does not
SHARES = ("data.crop", "data.test_share")  # of a picture's side, of the people: up to all of it
# Keys that the reader of a source needs; a config has those of the source behind its colon.
READ = {"embedded": ("size",), "folder": ("root",), "casia": ("root", "verify_root")}


def check_values(config: ConfigDict) -> None:
    """Checks what all tasks have in their configs; what one task alone has, that task checks.

    Args:
        config: Of any task.

    Raises:
        UserError: If a number lies outside of what makes sense, or ``data.source`` is not the one behind the colon.
    """
    for key, least in LEAST.items():
        value = _at(config, key)
        if value is not None and not least <= value < math.inf:
            raise UserError(f"{key} {value} must be at least {least}; set --config.{key}.")
    for key in POSITIVE:
        value = _at(config, key)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{key} {value} must be greater than 0; set --config.{key}.")
    for key in SHARES:
        value = _at(config, key)
        if value is not None and not 0 < value <= 1:
            raise UserError(f"{key} {value} must be greater than 0, and at most 1; set --config.{key}.")
    data = config.data
    missing = [key for key in READ.get(data.get("source"), ()) if key not in data]
    if missing:
        raise UserError(
            f"data.source {data.source!r} needs data.{missing[0]}, which configs of another source have not; choose "
            f"the source behind the config's colon, as in --config=FILE:data={data.source}."
        )
    if "size" in data:
        check_choice("data.size", data.size, ("full", "smoke"))


def _at(config: ConfigDict, key: str) -> Any:
    """What stands at ``a.b``; ``None`` where the config has no such key."""
    return functools.reduce(lambda part, name: (part or {}).get(name), key.split("."), config)
