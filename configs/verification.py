"""Verification of your own identities: do two images show the same iris, animal, part or face?

    python -m tvconv_jax.main --config=configs/verification.py:data=folder --config.data.root=ROOT --workdir=DIR

``ROOT/train`` holds a folder of images for each identity. Every ``ROOT/<set>_pair.txt`` lists pairs of images of other
identities to verify on; ``python -m tvconv_jax.data pairs ROOT --hold-out=0.2`` writes such a list. The images are gray
or in color, of any format that is read and of one size, which is chosen from the data. Without ``data=folder`` it
trains on the embedded drawn faces. Faces aligned to 112x112: ``configs/face_*.py``.
"""

from ml_collections import ConfigDict

from tvconv_jax.tasks.configs import verification_config


def get_config(arg: str | None = None) -> ConfigDict:
    return verification_config(arg)
