"""ShuffleNetV2 x1.5 with TVConv on faces: 222.99 M multiply-accumulates at 96x96 (Chen et al. 2022, Table 1).

    python -m tvconv_jax.main --config=configs/face_sf15.py --workdir=DIR

trains on the embedded synthetic faces at 48x48. The paper's recipe, on faces of your own at 96x96:

    python -m tvconv_jax.main --config=configs/face_sf15.py:data=folder --config.data.root=ROOT --workdir=DIR

Compare operators with ``:operator=depthwise``. Results: docs/appendix/faces.md.
"""

from ml_collections import ConfigDict

from tvconv_jax.tasks.configs import face_config


def get_config(arg: str | None = None) -> ConfigDict:
    return face_config(arg, model="shufflenetv2", width=1.5)
