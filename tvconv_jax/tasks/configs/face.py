"""Recipe of the face task."""

from typing import Any

from ml_collections import ConfigDict

from tvconv_jax.models.registry import MODELS, list_operators
from tvconv_jax.tasks.configs import base
from tvconv_jax.tasks.configs.arguments import Argument, common_arguments, parse_arguments, with_given
from tvconv_jax.tasks.keys import KEYS

# The reference divides the learning rate by 10 at epochs 22, 30 and 35 of 38; shorter runs keep the proportions.
EPOCHS, MILESTONES = 38, (22, 30, 35)
PAPER = {"image_size": 96, "epochs": float(EPOCHS), "batch_size": 512}
SIZES = {
    "folder": PAPER,
    "casia": PAPER,
    "embedded": {"image_size": 48, "epochs": 4.0, "batch_size": 64},
    "smoke": {"image_size": 24, "epochs": 2.0, "batch_size": 16},
}
# Values of the paper's recipe that a run may replace, see :mod:`tvconv_jax.tasks.small_data`.
FREE = {
    "data.batch_size": PAPER["batch_size"],
    "data.image_size": PAPER["image_size"],
    "optimizer.base_batch": PAPER["batch_size"],
    "optimizer.epochs": PAPER["epochs"],
    "optimizer.learning_rate": 0.1,
    "optimizer.milestones": tuple(map(float, MILESTONES)),
    "optimizer.warmup_epochs": 0.0,
}


def face_arguments(model: str) -> dict[str, Argument]:
    """Return the ``:`` arguments of a face config."""
    data = Argument(str, "embedded", "origin of the images", KEYS["data.source"].choices)
    batch_size = Argument(int, None, "images in a batch, of all devices together")
    return {"data": data, **common_arguments(list_operators(model)), "batch_size": batch_size}


def face_config(arg: str | None, *, model: str, width: float) -> ConfigDict:
    """Return the config of the face task.

    ``data=folder``, and ``data=casia`` for the field's own formats, are the paper's recipe (96x96, batches of 512, 38
    epochs, learning rate 0.1). The embedded faces are smaller and fewer, for two cores and five minutes: the learning
    rate is scaled by the square root of 64 / 512, to 0.035, and grows during the first quarter of the epochs. At 0.1
    some runs do not learn (docs/appendix/seeds.md).

    Args:
        arg: ``:`` arguments: ``data=embedded|folder|casia``, ``operator=`` one of ``list_operators(model)``,
            ``image_size``, ``epochs``, ``batch_size``, ``seed``, ``smoke`` (a test of seconds).
        model: Name of the model.
        width: Width multiplier of the model.

    Raises:
        UserError: If an argument does not fit.
    """
    given = parse_arguments(arg, face_arguments(model))
    smoke, source = given["smoke"], given["data"]
    scaled = source == "embedded" and not smoke
    size = SIZES["smoke" if smoke else source]
    base_batch = 512 if scaled else size["batch_size"]  # that the learning rate belongs to
    size = with_given(size, given)
    epochs = size.pop("epochs")
    return base.make_config(
        "face",
        given,
        model={
            "name": model,
            "width": width,
            "stages": MODELS[model].stages[:1] if smoke else (),
            **base.AFFINITY,
            "embedding_size": 512,
        },
        data={**_source(source, smoke), **size, "flip": True, "augment": dict(base.AUGMENT)},
        loss={"margin": 0.35, "scale": 32.0},
        finetune=dict(base.FINETUNE),
        optimizer={
            "lr_scaling": "sqrt" if scaled else "none",
            "base_batch": base_batch,
            "warmup_epochs": epochs / 4 if scaled else 0.0,
            "learning_rate": FREE["optimizer.learning_rate"],
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "epochs": epochs,
            "milestones": tuple(epoch * (epochs / EPOCHS) for epoch in MILESTONES),
            "factor": 0.1,
        },
        train={"checkpoint_every": 6 if smoke else 100, "eval_every": 2.0, "auto": _auto(given)},
        eval={"protocol": "standard", "channel_order": "rgb", "batch_size": 200, **base.REPORT},
    )


def _auto(given: dict[str, Any]) -> str:
    """Return the keys of ``train.auto``: those of the paper's recipe that no argument sets."""
    if given["data"] == "embedded" or given["smoke"]:
        return ""
    set_by = dict.fromkeys(("data.batch_size", "optimizer.base_batch"), "batch_size")
    set_by |= dict.fromkeys(("optimizer.epochs", "optimizer.milestones"), "epochs") | {"data.image_size": "image_size"}
    return ",".join(key for key in FREE if key not in set_by or given[set_by[key]] is None)


def _source(name: str, smoke: bool) -> dict[str, Any]:
    if name == "embedded":
        return {"source": name, "size": "smoke" if smoke else "full"}
    source = {"source": name, "root": "", "max_corrupt": 0.01, "include_list": ""}
    return source | ({"verify_root": ""} if name == "casia" else {})
