"""The paper's Table 5: the stages of MobileNetV2 with TVConv; the others keep the depthwise convolution.

    python -m tvconv_jax.experiments.sweep configs/sweeps/table5.py --out=runs/table5

Stages are those of ``create_model``, 1 to 7, from the largest grid to the smallest.
"""

from tvconv_jax.experiments.sweep import Setting, Sweep

CONFIG = "configs/face_mb01.py"
STAGES = {"1": (1,), "1-2": (1, 2), "1-3": (1, 2, 3), "1-5": (1, 2, 3, 4, 5), "3-7": (3, 4, 5, 6, 7), "6-7": (6, 7)}


def get_sweep() -> Sweep:
    return Sweep(
        title="Table 5: stages with TVConv, MobileNetV2 x0.1",
        settings=[
            Setting("none", CONFIG, "operator=depthwise,recipe=paper"),
            *(
                Setting(name, CONFIG, "recipe=paper", changes={"model.stages": stages})
                for name, stages in STAGES.items()
            ),
            Setting("1-7", CONFIG, "recipe=paper"),
        ],
    )
