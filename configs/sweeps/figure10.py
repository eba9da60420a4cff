"""The paper's Figure 10: how TVConv and the depthwise convolution take training faces with less layout.

    python -m tvconv_jax.experiments.sweep configs/sweeps/figure10.py --out=runs/figure10

Training pictures are turned, sheared, scaled or moved, farther from row to row; those that are verified stay as they
are. What the strengths mean stands in :mod:`tvconv_jax.data.augment`. Twenty-six settings: group ``none`` is where
the curves of all four transformations begin, and a label is the operator and the strength, as in ``tvconv 10``.
"""

from tvconv_jax.experiments.sweep import Setting, Sweep

CONFIG = "configs/face_mb01.py"
OPERATORS = ("tvconv", "depthwise")
STRENGTHS = {
    "rotation": (10.0, 20.0, 40.0),
    "shear": (10.0, 20.0, 40.0),
    "scale": (0.1, 0.2, 0.4),
    "translation": (0.05, 0.1, 0.2),
}


def get_sweep() -> Sweep:
    return Sweep(
        title="Figure 10: training faces with less layout, MobileNetV2 x0.1",
        settings=[
            *(Setting(f"{operator} 0", CONFIG, f"operator={operator}", group="none") for operator in OPERATORS),
            *(
                Setting(
                    f"{operator} {strength:g}",
                    CONFIG,
                    f"operator={operator}",
                    changes={f"data.augment.{name}": strength},
                    group=name,
                )
                for name, strengths in STRENGTHS.items()
                for operator in OPERATORS
                for strength in strengths
            ),
        ],
        note="rotation and shear in degrees, scale and translation in shares; drawn up to that, anew every epoch",
    )
