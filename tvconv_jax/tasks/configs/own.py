"""Parts that the recipes for images of one's own share: classification and segmentation."""

from collections.abc import Iterable, Mapping
from typing import Any

from tvconv_jax.utils.sizes import height_width

AUGMENT = {"rotation": 5.0, "shear": 0.0, "scale": 0.05, "translation": 0.05, "brightness": 0.1, "contrast": 0.1}
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


def sizes(free: Mapping[str, Any], given: Mapping[str, Any], **smoke: Any) -> dict[str, Any]:
    """Return the values of ``free`` by the last word of their keys, or those of ``:smoke``, or those given."""
    size = {key.rpartition(".")[2]: value for key, value in free.items()}
    size |= SMOKE | smoke if given["smoke"] else {}
    size |= {name: value for name in size if (value := given.get(name)) is not None}
    if given["epochs"] is not None:
        size["warmup_epochs"] = size["epochs"] / 20
    return size | {"image_size": height_width(size["image_size"])}


def optimizer(size: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section ``optimizer``, with the values of :func:`sizes`."""
    keys = ("learning_rate", "epochs", "warmup_epochs")
    own = {"name": "adamw", "base_batch": size["batch_size"], "weight_decay": 0.05}
    return own | {key: size[key] for key in keys}


def intervals(size: Mapping[str, Any], free: Iterable[str], given: Mapping[str, Any], every: int) -> dict[str, Any]:
    """Return the section ``train``, with ``train.auto``: the keys of ``free`` that no argument sets."""
    auto = [key for key in free if key not in SET_BY or given[SET_BY[key]] is None]
    smoke = given["smoke"]
    return {
        "checkpoint_every": 6 if smoke else every,
        "eval_every": size["epochs"] / 4,
        "auto": "" if smoke else ",".join(auto),
    }


def boards(images: int) -> dict[str, Any]:
    """Return the keys of the embedded boards in the section ``data``."""
    return {"source": "embedded", "images": images, "shift": 0.01, "rotation": 1.0}
