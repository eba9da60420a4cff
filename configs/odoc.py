"""Optic disc and cup: DeepLabV3+ with TVConv in its head, trained on three clinics, tested on the fourth.

    python -m tvconv_jax.main --config=configs/odoc.py                                 # embedded, synthetic images
    python -m tvconv_jax.main --config=configs/odoc.py:test_domain=1,operator=baseline
    python -m tvconv_jax.main --config=configs/odoc.py:data=folder --config.data.root=fundus

``fundus`` is a folder in the DoFE layout, ``Domain{1..4}/{train,test}/ROIs/{image,mask}``; the recipe is then the
paper's (256x256, 16 images of each of three domains a batch, 40 epochs), but for the ImageNet weights of its
backbone, which ``--config.model.pretrained=FILE.pth`` gives. All four folds at once:
``python -m tvconv_jax.experiments.table2 --config=configs/odoc.py``. Results: docs/appendix/fundus.md.
"""

from ml_collections import ConfigDict

from tvconv_jax.tasks.configs import odoc_config


def get_config(arg: str | None = None) -> ConfigDict:
    return odoc_config(arg)
