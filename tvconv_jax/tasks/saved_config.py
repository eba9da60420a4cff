"""``config.json`` of a workdir: read, and compared with the config of a command."""

import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from tvconv_jax.tasks.configs.base import complete
from tvconv_jax.training import checkpoint_files
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import check_unclaimed, parse_json, read_json

# Keys that decide where and how patiently a run goes on, not what it computes.
IGNORED = ("mesh.", "data.cache", "data.timeout", "train.on_nonfinite", "train.auto")
# Files that runs write into a workdir, after config.json.
WRITTEN = (
    *("results.json", "metrics.jsonl", "report.html", "report.npz", "scores.csv", "pictures.png"),
    "predictions.csv",
)

flat = functools.partial(flatten_dict, sep=".")  # values of a nested dictionary, by keys with dots


def read_config(workdir: Path) -> ConfigDict:
    """Return the config of a run, with new names of its keys and those that it is too old to have.

    Raises:
        UserError: If there is no run in the folder.
    """
    try:
        values = complete(parse_json((workdir / "config.json").read_text()))
        if isinstance(size := values.get("data", {}).get("image_size"), list):  # JSON has no tuples
            values["data"]["image_size"] = tuple(size)
        config = ConfigDict(values)
        config.task  # noqa: B018, raises where this is not a config of a run
    except (OSError, ValueError, AttributeError, TypeError):
        raise UserError(f"{workdir} holds no run (config.json); name a workdir of tvconv_jax.main.") from None
    return config


def check_workdir(config: ConfigDict, workdir: Path, *, ignore: Sequence[str] = ()) -> None:
    """Raise a ``UserError`` if a folder holds a run of another config, or one whose config is not known.

    Keys that begin as one in ``ignore`` may differ.
    """
    file, checkpoints = workdir / "config.json", checkpoint_files.checkpoints_of(workdir)
    kinds = [checkpoints / kind for kind in checkpoint_files.KINDS]
    hint = "choose another --workdir, or remove that folder"
    for folder in (checkpoints, *kinds):
        if os.path.lexists(folder) and not folder.is_dir():  # a file, or a link to a disk that is not there
            where = "move it away, or choose another --workdir"
            raise UserError(f"{folder} is not a folder, and checkpoints go there; {where}.")
    if file.exists():
        if different := differences(read_json(file, hint), config, ignore=ignore):
            raise UserError(f"{workdir} holds a run of another config ({different}); {hint}.")
        return
    if any(map(checkpoint_files.found, kinds)):
        raise UserError(f"{workdir} holds checkpoints, but no config.json names their run; {hint}.")
    check_unclaimed(workdir, WRITTEN, marker="config.json", flag="--workdir")


def differences(run: dict, config: ConfigDict, *, ignore: Sequence[str] = ()) -> str:
    """Return the differences of a run's ``config.json`` to a config, in words; empty if they compute the same."""
    try:
        old, new = flat(complete(run)), flat(json.loads(config.to_json()))
    except ValueError as error:
        return str(error)
    different = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    if new.get("optimizer.lr_scaling") == "none":  # then the batch is not compared with another
        different = [key for key in different if key != "optimizer.base_batch"]
    if new.get("model.num_classes") == 0:  # those of the data
        different = [key for key in different if key != "model.num_classes"]
    norms = {str(keys.get("train.batch_norm")) for keys in (old, new)}
    if "per_replica" in norms and all(norm.isdecimal() for norm in norms - {"per_replica"}):
        # As many groups as there were devices: the checkpoint knows whether it is the same number.
        different = [key for key in different if key != "train.batch_norm"]
    # The run chose a value where the command gives none: the command goes on with it.
    chosen = set.intersection(*({*str(keys.get("train.auto", "")).split(",")} for keys in (old, new)))
    different = [key for key in different if key not in chosen and not key.startswith((*IGNORED, *ignore))]
    shown = "; ".join(f"{key}: {old.get(key)} there, {new.get(key)} now" for key in different[:3])
    return f"{len(different)} keys differ: {shown}" if different else ""
