"""Segmentation of images that share a layout: DeepLabV3+ with TVConv in its head, on images with masks of your own.

    python -m tvconv_jax.main --config=configs/segmentation.py                                  # embedded boards
    python -m tvconv_jax.main --config=configs/segmentation.py:data=folder --config.data.root=DIR

``DIR`` is laid out as ``{train,test}/{image,mask}``, or ``image`` and ``mask``, which are split by
``--config.data.test_share`` and ``--config.data.group_pattern``. A mask has the name and the size of its image, and is
saved without loss, as PNG. ``classes.json`` in ``DIR`` names its values, ``{"background": 0, "bolt": 128}``, or colors,
``{"road": "#ff0000"}``; ``"ignore"`` names pixels that do not count. Without that file, values are counted.
"""

from ml_collections import ConfigDict

from tvconv_jax.tasks.configs import segmentation_config


def get_config(arg: str | None = None) -> ConfigDict:
    return segmentation_config(arg)
