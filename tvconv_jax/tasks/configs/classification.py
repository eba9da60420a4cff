"""Recipe of the classification task."""

from typing import Any

from ml_collections import ConfigDict

from tvconv_jax.models.registry import MODELS, list_operators
from tvconv_jax.tasks.configs import base, own
from tvconv_jax.tasks.configs.arguments import Argument, common_arguments, own_arguments, parse_arguments

MODEL_NAMES = ("mobilenetv2", "shufflenetv2", "mlp_mixer")
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
        **(common | own_arguments()),
        "model": Argument(str, model, "model", MODEL_NAMES),
        "width": Argument(float, None, "multiplier of the channels; the smallest of the model is the default"),
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
    size = own.sizes(FREE, given, image_size=(24, 24))
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
            "batch_size": size["batch_size"],
            "flip": False,
            "augment": dict(own.AUGMENT),
        },
        loss={"label_smoothing": 0.1, "class_weights": "none"},
        optimizer=own.optimizer(size),
        train=own.intervals(size, FREE, given, 500),
        eval={"checkpoint": "last", "batch_size": 200, "bootstrap": 1000, **base.REPORT},
    )


def _small(model: str) -> dict[str, Any]:
    """Return the fields of a model and a generator that train in minutes on two cores."""
    return {"hidden_channels": 8, **({"depth": 0.5} if "depth" in MODELS[model].fields else {})}


def _source(name: str, images: int) -> dict[str, Any]:
    if name == "embedded":
        return own.boards(images)
    folder = {"root": "", "group_pattern": "", "test_share": 0.2, "max_corrupt": 0.01}
    return {"source": name, **folder}
