"""The common part of the recipes for images of one's own: classification and segmentation."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from tvconv_jax.models.registry import MODELS
from tvconv_jax.tasks.configs import base
from tvconv_jax.utils.sizes import height_width

AUGMENT = {"rotation": 5.0, "shear": 0.0, "scale": 0.05, "translation": 0.05, "brightness": 0.1, "contrast": 0.1}
BOARDS = {"shift": 0.01, "rotation": 1.0}  # of the embedded set
SMOKE = {"batch_size": 8, "epochs": 2.0, "warmup_epochs": 1.0, "images": 40}
# Arguments that set a key of train.auto.
SET_BY = {
    "data.image_size": "image_size",
    "data.batch_size": "batch_size",
    "model.width": "width",
    "optimizer.base_batch": "batch_size",
    "optimizer.epochs": "epochs",
    "optimizer.warmup_epochs": "epochs",
    "train.eval_every": "epochs",
}


def make_config(
    task: str,
    given: Mapping[str, Any],
    free: Mapping[str, Any],
    *,
    images: int,
    smoke_size: int,
    checkpoint_every: int,
    folder: Mapping[str, Any],
    **sections: Mapping[str, Any],
) -> ConfigDict:
    """Return the config of a task for own images.

    Args:
        task: Its name.
        given: Values of the ``:`` arguments.
        free: Keys that a run may choose for its data, and their defaults; ``:smoke`` has others.
        images: Training images of the embedded boards.
        smoke_size: Height and width of the images of ``:smoke``.
        checkpoint_every: Steps between two checkpoints.
        folder: Keys of ``data`` that the user's own folder needs.
        **sections: The task's own keys by section.
    """
    smoke, name = given["smoke"], sections["model"]["name"]
    size = {"images": images, **{key.rpartition(".")[2]: value for key, value in free.items()}}
    size |= SMOKE | {"image_size": smoke_size} if smoke else {}
    size |= {key: value for key in size if (value := given.get(key)) is not None}
    size |= {"image_size": height_width(size["image_size"]), "base_batch": size["batch_size"]}
    size["eval_every"] = size["epochs"] / 4
    if given["epochs"] is not None:
        size["warmup_epochs"] = size["epochs"] / 20
    chosen: dict[str, dict[str, Any]] = {"model": {}, "data": {}, "optimizer": {}, "train": {}}
    for key in free:
        section, _, last = key.partition(".")
        chosen[section][last] = size[last]
    small = {"hidden_channels": 8} | ({"depth": 0.5} if "depth" in MODELS[name].fields else {})  # minutes on two cores
    source = {"images": size["images"], **BOARDS} if given["data"] == "embedded" else {"root": "", **folder}
    auto = ",".join(key for key in free if key not in SET_BY or given[SET_BY[key]] is None)
    every = 6 if smoke else checkpoint_every
    sections |= {
        "model": {**sections["model"], **chosen["model"], **({} if smoke else small)},
        "data": {"source": given["data"], **source, **sections.get("data", {}), **chosen["data"], "flip": False},
        "optimizer": {"name": "adamw", "weight_decay": 0.05, **chosen["optimizer"]},
        "train": {"checkpoint_every": every, **chosen["train"], "auto": "" if smoke else auto},
    }
    # Boards are drawn with nuisances of their own.
    sections["data"]["augment"] = dict(AUGMENT) if given["data"] == "folder" else dict.fromkeys(AUGMENT, 0.0)
    return base.make_config(task, given, **sections)
