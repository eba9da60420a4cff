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
    model = given["model"]
    if "operator=" not in (arg or ""):
        given["operator"] = list_operators(model)[0]
    return own.make_config(
        "classification",
        given,
        FREE,
        images=3000,
        smoke_size=24,
        checkpoint_every=500,
        folder={"group_pattern": "", "test_share": 0.2, "max_corrupt": 0.01},
        model={
            "name": model,
            "width": given["width"] or MODELS[model].widths[0],
            "stages": MODELS[model].stages[:1] if given["smoke"] else (),
        },
        data={"split_seed": 0},
        loss={"label_smoothing": 0.1, "class_weights": "none"},
        eval={"checkpoint": "last", "batch_size": 200, "bootstrap": 1000, **base.REPORT},
    )
