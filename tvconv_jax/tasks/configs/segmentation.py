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
    return own.make_config(
        "segmentation",
        given,
        FREE,
        images=600,
        smoke_size=32,
        checkpoint_every=200,
        folder={"group_pattern": "", "test_share": 0.2, "split_seed": 0},
        model={"name": "deeplabv3plus", "num_classes": 0, "pretrained": ""},
        loss={"class_weights": "none"},
        eval={"batch_size": 16, "bootstrap": 1000, "num_images": 8, "visualize": "", **HD95, **base.REPORT},
    )
