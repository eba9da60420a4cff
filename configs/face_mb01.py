"""MobileNetV2 x0.1 with TVConv on faces: 22.47 M multiply-accumulates at 96x96 (Chen et al. 2022, Table 1).

    python -m tvconv_jax.main --config=configs/face_mb01.py --workdir=DIR

trains on the embedded synthetic faces at 48x48. The paper's recipe, on faces of your own at 96x96:

    python -m tvconv_jax.main --config=configs/face_mb01.py:data=folder --config.data.root=ROOT --workdir=DIR

Compare operators with ``:operator=depthwise``. Results: docs/appendix/faces.md.
"""

from ml_collections import ConfigDict

from tvconv_jax.tasks.configs import face_config


def get_config(arg: str | None = None) -> ConfigDict:
    return face_config(arg, model="mobilenetv2", width=0.1)
