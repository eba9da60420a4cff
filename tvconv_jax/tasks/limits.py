"""Ranges of the values of a config, checked before data is opened."""

from collections.abc import Iterator
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from tvconv_jax.nn.checks import Range
from tvconv_jax.tasks.forward import check_choice
from tvconv_jax.tasks.keys import KEYS, get
from tvconv_jax.utils.errors import UserError

# Range of every number of a config. Keys that a config does not have are left out, a tuple's numbers are checked one by
# one, and a number without a row must be finite.
RULES: dict[str, Range] = {key: entry.range for key, entry in KEYS.items() if entry.range}
# Keys that a source needs; a config has those of the source behind its colon.
READ = {"embedded": ("size",), "folder": ("root",), "casia": ("root", "verify_root")}
READ_OWN = {"embedded": ("images",), "folder": ("root",)}


def check_values(config: ConfigDict) -> None:
    """Check the keys that configs share; a task checks its own.

    Raises:
        UserError: If a number is out of range, a word is not one of its choices, or ``data.source`` is not the one
            behind the colon.
    """
    for key, value in numbers(config):
        try:
            RULES.get(key, Range()).check(key, value)
        except ValueError as error:
            raise UserError(f"{str(error).removesuffix('.')}; set --config.{key}.") from None
    for key, entry in KEYS.items():
        model = key.startswith("model.")  # the model checks its own
        if entry.choices and not model and (value := get(config, key)) is not None:
            check_choice(key, value, entry.choices)
    size = config.data.get("image_size", 8)
    if isinstance(size, tuple | list) and len(size) not in (1, 2):
        rule = "must be one number or two, height and width"
        raise UserError(f"data.image_size {size} {rule}; set --config.data.image_size.")
    milestones = list(config.get("optimizer", {}).get("milestones", ()))
    if milestones != sorted(milestones):
        raise UserError(f"optimizer.milestones {milestones} must ascend; set --config.optimizer.milestones.")
    data, read = config.data, READ_OWN if _is_own(config) else READ
    for key in (key for key in read.get(data.get("source"), ()) if key not in data):
        raise UserError(
            f"data.source {data.source!r} needs data.{key}, which configs of another source lack; choose "
            f"the source behind the config's colon, as in --config=FILE:data={data.source}."
        )


def numbers(config: ConfigDict) -> Iterator[tuple[str, Any]]:
    """Yield every number of a config, or the value in the place of one, with its key; of a tuple each one."""
    for key, value in flatten_dict(config.to_dict(), sep=".").items():
        for item in value if isinstance(value, tuple | list) else (value,):
            if key in RULES or (isinstance(item, int | float) and not isinstance(item, bool)):
                yield key, item


def _is_own(config: ConfigDict) -> bool:
    """Return whether a config is of a task whose embedded set is drawn for it, with ``data.images``."""
    task = config.get("task")
    return task == "classification" or (task == "segmentation" and "test_domain" not in config.data)
