"""Recipe of the segmentation of images with masks of one's own."""

from typing import Any

from ml_collections import ConfigDict

from tvconv_jax.models.registry import list_operators
from tvconv_jax.tasks.configs import base
from tvconv_jax.tasks.configs.arguments import Argument, common_arguments, parse_arguments
from tvconv_jax.utils.sizes import height_width, parse_size

AUGMENT = {"rotation": 5.0, "shear": 0.0, "scale": 0.05, "translation": 0.05, "brightness": 0.1, "contrast": 0.1}
SMOKE = {"image_size": (32, 32), "batch_size": 8, "epochs": 2.0, "warmup_epochs": 1.0, "images": 40}
# Values that a run may replace, see :mod:`tvconv_jax.tasks.mask_defaults`.
FREE: dict[str, Any] = {
    "data.image_size": (128, 128),
    "data.batch_size": 16,
    "model.width": 0.25,
    "model.output_stride": 16,
    "optimizer.base_batch": 16,
    "optimizer.learning_rate": 2e-3,
    "optimizer.epochs": 30.0,
    "optimizer.warmup_epochs": 1.5,
    "train.eval_every": 7.5,
}


def segmentation_arguments() -> dict[str, Argument]:
    """Return the ``:`` arguments of this config."""
    return {
        "data": Argument(str, "embedded", "origin of the images", ("embedded", "folder")),
        **common_arguments(list_operators("deeplabv3plus"), "tvconv"),
        "image_size": Argument(parse_size, None, "height and width of the images, in pixels, as 64 or 48x96"),
        "epochs": Argument(float, None, "epochs; the warm-up keeps its proportion"),
        "width": Argument(float, None, "multiplier of the channels"),
        "batch_size": Argument(int, None, "images in a batch, of all devices together"),
    }


def segmentation_config(arg: str | None) -> ConfigDict:
    """Return the config of the segmentation of images that share a layout, into any classes.

    ``data=folder`` reads images and masks of one's own. Settings that no argument sets follow from the data, see
    ``train.auto``.

    Args:
        arg: ``:`` arguments: ``data=embedded|folder``, ``operator=`` one of ``list_operators("deeplabv3plus")``,
            ``width``, ``image_size`` (``64`` or ``48x96``), ``epochs``, ``batch_size``, ``seed``, ``smoke`` (a test of
            seconds).

    Raises:
        UserError: If an argument does not fit.
    """
    given = parse_arguments(arg, segmentation_arguments())
    smoke = given["smoke"]
    size = {key.rpartition(".")[2]: value for key, value in FREE.items()} | (SMOKE if smoke else {})
    size |= {name: value for name in size if (value := given.get(name)) is not None}
    epochs = size["epochs"]
    return base.make_config(
        "segmentation",
        given,
        model={
            "name": "deeplabv3plus",
            "width": size["width"],
            "num_classes": 0,
            "output_stride": size["output_stride"],
            "pretrained": "",
            **({} if smoke else {"hidden_channels": 8, "depth": 0.5}),
        },
        data={
            **_source(given["data"], size.get("images", 600)),
            "image_size": height_width(size["image_size"]),
            "batch_size": size["batch_size"],
            "flip": False,
            "augment": dict(AUGMENT),
        },
        loss={"class_weights": "none"},
        optimizer={
            "name": "adamw",
            "base_batch": size["batch_size"],
            "learning_rate": size["learning_rate"],
            "weight_decay": 0.05,
            "epochs": epochs,
            "warmup_epochs": size["warmup_epochs"] if given["epochs"] is None else epochs / 20,
        },
        train={"checkpoint_every": 6 if smoke else 200, "eval_every": epochs / 4, "auto": _auto(given)},
        eval={
            "batch_size": 16,
            "hd95": "pooled",
            "empty": "diagonal",
            "bootstrap": 1000,
            "num_images": 8,
            "visualize": "",
            **base.REPORT,
        },
    )


def _auto(given: dict[str, Any]) -> str:
    """Return the keys of ``train.auto``: those that no argument sets."""
    if given["smoke"]:
        return ""
    set_by = {"data.image_size": "image_size", "model.width": "width"}
    set_by |= dict.fromkeys(("data.batch_size", "optimizer.base_batch"), "batch_size")
    set_by |= dict.fromkeys(("optimizer.epochs", "optimizer.warmup_epochs", "train.eval_every"), "epochs")
    return ",".join(key for key in FREE if key not in set_by or given[set_by[key]] is None)


def _source(name: str, images: int) -> dict[str, Any]:
    if name == "embedded":
        return {"source": name, "images": images, "shift": 0.01, "rotation": 1.0}
    return {"source": name, "root": "", "group_pattern": "", "test_share": 0.2, "split_seed": 0}
