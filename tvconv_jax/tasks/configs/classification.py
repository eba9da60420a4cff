"""Recipe of the classification task."""

from typing import Any

from ml_collections import ConfigDict

from tvconv_jax.models.registry import MODELS, list_operators
from tvconv_jax.tasks.configs import base
from tvconv_jax.tasks.configs.arguments import Argument, common_arguments, parse_arguments
from tvconv_jax.utils.sizes import height_width, parse_size

MODEL_NAMES = ("mobilenetv2", "shufflenetv2", "mlp_mixer")
AUGMENT = {"rotation": 5.0, "shear": 0.0, "scale": 0.05, "translation": 0.05, "brightness": 0.1, "contrast": 0.1}
SMOKE = {"image_size": (24, 24), "batch_size": 8, "epochs": 2.0, "warmup_epochs": 1.0, "images": 40}
# Values that a run may replace, see :mod:`tvconv_jax.tasks.class_defaults`.
FREE: dict[str, Any] = {
    "data.image_size": (64, 64),
    "data.batch_size": 64,
    "data.validation_share": 0.0,
    "optimizer.base_batch": 64,
    "optimizer.learning_rate": 2e-3,
    "optimizer.epochs": 30.0,
    "optimizer.warmup_epochs": 1.5,
    "train.eval_every": 7.5,
}


def classification_arguments(model: str = MODEL_NAMES[0]) -> dict[str, Argument]:
    """Return the ``:`` arguments of this config."""
    operators = tuple(dict.fromkeys(name for model in MODEL_NAMES for name in list_operators(model)))
    common = common_arguments(operators, list_operators(model)[0])
    return {
        "data": Argument(str, "embedded", "origin of the images", ("embedded", "folder")),
        **common,
        "image_size": Argument(parse_size, None, "height and width of the images, in pixels, as 64 or 48x96"),
        "epochs": Argument(float, None, "epochs; the warm-up keeps its proportion"),
        "model": Argument(str, model, "model", MODEL_NAMES),
        "width": Argument(float, None, "multiplier of the channels; the smallest of the model is the default"),
        "batch_size": Argument(int, None, "images in a batch, of all devices together"),
    }


def classification_config(arg: str | None) -> ConfigDict:
    """Return the config of the classification of images that share a layout.

    ``data=folder`` reads class folders or a CSV. Settings that no argument sets follow from the data, see
    ``train.auto``.

    Args:
        arg: ``:`` arguments: ``data=embedded|folder``, ``operator=`` one of ``list_operators(model)``, ``model``,
            ``width``, ``image_size`` (``64`` or ``48x96``), ``epochs``, ``batch_size``, ``seed``, ``smoke`` (a test of
            seconds).

    Raises:
        UserError: If an argument does not fit.
    """
    given = parse_arguments(arg, classification_arguments())
    model, smoke = given["model"], given["smoke"]
    if "operator=" not in (arg or ""):
        given["operator"] = list_operators(model)[0]
    size = {key.rpartition(".")[2]: value for key, value in FREE.items()} | (SMOKE if smoke else {})
    size |= {name: value for name in size if (value := given.get(name)) is not None}
    size["image_size"] = height_width(size["image_size"])
    epochs, batch_size = size["epochs"], size["batch_size"]
    return base.make_config(
        "classification",
        given,
        model={
            "name": model,
            "width": given["width"] or MODELS[model].widths[0],
            "stages": MODELS[model].stages[:1] if smoke else (),
            **({} if smoke else _small(model)),
        },
        data={
            **_source(given["data"], size.get("images", 1000)),
            "split_seed": 0,
            "validation_share": size["validation_share"],
            "image_size": size["image_size"],
            "batch_size": batch_size,
            "flip": False,
            "augment": dict(AUGMENT),
        },
        loss={"label_smoothing": 0.1, "class_weights": "none"},
        optimizer={
            "name": "adamw",
            "base_batch": batch_size,
            "learning_rate": size["learning_rate"],
            "weight_decay": 0.05,
            "epochs": epochs,
            "warmup_epochs": size["warmup_epochs"] if given["epochs"] is None else epochs / 20,
        },
        train={"checkpoint_every": 6 if smoke else 500, "eval_every": epochs / 4, "auto": _auto(given)},
        eval={"checkpoint": "last", "batch_size": 200, "bootstrap": 1000, **base.REPORT},
    )


def _auto(given: dict[str, Any]) -> str:
    """Return the keys of ``train.auto``: those that no argument sets."""
    if given["smoke"]:
        return ""
    set_by = {"data.image_size": "image_size"}
    set_by |= dict.fromkeys(("data.batch_size", "optimizer.base_batch"), "batch_size")
    set_by |= dict.fromkeys(("optimizer.epochs", "optimizer.warmup_epochs", "train.eval_every"), "epochs")
    return ",".join(key for key in FREE if key not in set_by or given[set_by[key]] is None)


def _small(model: str) -> dict[str, Any]:
    """Return the fields of a model and a generator that train in minutes on two cores."""
    return {"hidden_channels": 8, **({"depth": 0.5} if "depth" in MODELS[model].fields else {})}


def _source(name: str, images: int) -> dict[str, Any]:
    if name == "embedded":
        return {"source": name, "images": images, "shift": 0.01, "rotation": 1.0}
    folder = {"root": "", "group_pattern": "", "test_share": 0.2, "max_corrupt": 0.01}
    return {"source": name, **folder}
