"""Classification of images that share a layout: parts under a fixed camera, slices, cells, dials, digits.

    python -m tvconv_jax.main --config=configs/classification.py --workdir=DIR

trains on the embedded boards, which this program draws. Your own images, in folders of classes:

    python -m tvconv_jax.main --config=configs/classification.py:data=folder --config.data.root=ROOT --workdir=DIR

``ROOT`` holds ``train/`` and ``test/`` with a folder for each class, or the folders of classes themselves, or it is a
CSV with the columns path, class, split and group. Compare operators with ``:operator=depthwise``.
"""

from ml_collections import ConfigDict

from tvconv_jax.tasks.configs import classification_config


def get_config(arg: str | None = None) -> ConfigDict:
    return classification_config(arg)
