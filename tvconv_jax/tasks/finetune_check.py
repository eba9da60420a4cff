"""Whether a run can start from ``finetune.checkpoint``, found out before data is read and anything is compiled."""

import os
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from tvconv_jax.tasks.finetune import check_weights
from tvconv_jax.tasks.parts import model_of
from tvconv_jax.tasks.saved_config import flat, read_config
from tvconv_jax.training import checkpoint_files
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import user_path
from tvconv_jax.utils.sizes import height_width

STARTS = {"verification": ("verification", "face")}  # tasks whose runs a task can start from, if not its own alone
NEW_COLON = ("model.name", "model.operator")  # set by the config file and its argument: other keys depend on them


def start_config(config: ConfigDict) -> ConfigDict | None:
    """Return the config of the run from which a run starts; ``None`` if it starts fresh or from a file.

    Raises:
        UserError: If ``finetune.checkpoint`` does not exist, or is a folder without a checkpoint of the same task.
    """
    source = config.finetune.checkpoint
    if not source:
        return None
    path = user_path(source).absolute()
    if not os.path.lexists(path):
        raise UserError(f"finetune.checkpoint {path} does not exist; name the workdir of a run, or a file of weights.")
    if not path.is_dir():
        return None
    folder = checkpoint_files.checkpoints_of(path, "finetune.checkpoint")
    if not any(checkpoint_files.found(folder / kind) for kind in checkpoint_files.KINDS):
        workdir = next((str(above) for above in path.parents[:2] if (above / "config.json").exists()), None)
        raise UserError(
            f"finetune.checkpoint {path} is a folder without checkpoints; name the workdir of a run"
            f"{f', which is {workdir}' if workdir else ''}."
        )
    if not (path / "config.json").exists():
        return None
    start = read_config(path)
    if start.task not in STARTS.get(config.task, (config.task,)):
        raise UserError(f"finetune.checkpoint {path} is a run of the task {start.task}; name one of {config.task}.")
    return start


def check_file(config: ConfigDict) -> None:
    """Raise a ``UserError`` if ``finetune.checkpoint`` is a file that a run cannot start from."""
    source = config.finetune.checkpoint
    if source and (path := user_path(source)).is_file():
        check_weights(path, model_of(config), config.data.image_size)


def check_same_model(config: ConfigDict, start: ConfigDict) -> None:
    """Raise a ``UserError`` that names the keys, if a run has not the parameters of the run that it starts from."""
    ours, theirs = _keys(config), _keys(start)
    different = [key for key in ours if key in theirs and ours[key] != theirs[key]]
    if not different or _shapes(config) == _shapes(start):
        return
    shown = "; ".join(f"{key}: {theirs[key]} there, {ours[key]} here" for key in different)
    flags = [f"--config.{key}={theirs[key]}" for key in different if key not in NEW_COLON]
    if "model.operator" in different:
        flags.append(f"operator={theirs['model.operator']} behind the config's colon")
    hint = f"take a config of {theirs['model.name']}" if "model.name" in different else f"set {' and '.join(flags)}"
    raise UserError(
        f"finetune.checkpoint {config.finetune.checkpoint} is another model's ({shown}); {hint}, or name another run."
    )


def _keys(config: ConfigDict) -> dict[str, Any]:
    size = height_width(config.data.image_size)
    keys = flat({"model": config.model.to_dict()}) | {"data.image_size": size[0] if size[0] == size[1] else size}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in keys.items()}


def _shapes(config: ConfigDict) -> Any:
    size = height_width(config.data.image_size)
    variables = jax.eval_shape(
        model_of(config).init, jax.random.key(0), jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    )
    return jax.tree.map(lambda leaf: leaf.shape, variables)
