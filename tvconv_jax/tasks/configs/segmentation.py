"""Recipe of the segmentation of images with masks of one's own."""

from typing import Any

from ml_collections import ConfigDict

from tvconv_jax.models.registry import list_operators
from tvconv_jax.tasks.configs import base, own
from tvconv_jax.tasks.configs.arguments import Argument, common_arguments, own_arguments, parse_arguments

HD95 = {"hd95": "pooled", "empty": "diagonal"}
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
        **own_arguments(),
        "width": Argument(float, None, "multiplier of the channels"),
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
    size = own.sizes(FREE, given, image_size=(32, 32))
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
            "image_size": size["image_size"],
            "batch_size": size["batch_size"],
            "flip": False,
            "augment": dict(own.AUGMENT),
        },
        loss={"class_weights": "none"},
        optimizer=own.optimizer(size),
        train=own.intervals(size, FREE, given, 200),
        eval={"batch_size": 16, "bootstrap": 1000, "num_images": 8, "visualize": "", **HD95, **base.REPORT},
    )


def _source(name: str, images: int) -> dict[str, Any]:
    if name == "embedded":
        return own.boards(images)
    return {"source": name, "root": "", "group_pattern": "", "test_share": 0.2, "split_seed": 0}
