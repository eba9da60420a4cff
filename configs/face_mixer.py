"""MLP-Mixer x0.1 on faces, the model without convolutions that Figure 6 of Chen et al. 2022 sets beside MobileNetV2's.

    python -m tvconv_jax.main --config=configs/face_mixer.py --workdir=DIR

trains on the embedded synthetic faces at 48x48; arguments as in ``face_mb01.py``, but for the operator: it has none.
"""

from ml_collections import ConfigDict

from tvconv_jax.tasks.configs import face_config


def get_config(arg: str | None = None) -> ConfigDict:
    return face_config(arg, model="mlp_mixer", width=0.1)
