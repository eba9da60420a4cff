"""Frontal or profile: the classifier by which training faces are purified.

    python -m tvconv_jax.main --config=configs/frontal.py --config.data.root=CFP --workdir=runs/frontal
    python -m tvconv_jax.data purify train.rec --classifier=runs/frontal --out=runs/purify

``CFP`` is any folder with images in folders ``frontal`` and ``profile``; a fifth of the identities is kept for testing.
The operator is the depthwise convolution: crops of such sets vary, and with them the layout. Results stand in
docs/appendix/faces.md.
"""

from ml_collections import ConfigDict

from tvconv_jax.tasks.configs import frontal_config


def get_config(arg: str | None = None) -> ConfigDict:
    return frontal_config(arg)
