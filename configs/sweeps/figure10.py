"""The paper's Figure 10: TVConv and the depthwise convolution on training faces with less layout.

    python -m tvconv_jax.experiments.sweep configs/sweeps/figure10.py --out=runs/figure10

The training images are transformed by rotation, shear, scale or translation of growing magnitude; the verification
images are unchanged. The magnitudes are defined in :mod:`tvconv_jax.data.augment`. There are 26 settings: group
``none`` starts the curves of all four transformations, and a label is operator and magnitude, such as ``tvconv 10``.
"""

from tvconv_jax.experiments.sweep import Setting, Sweep

CONFIG = "configs/face_mb01.py"
OPERATORS = ("tvconv", "depthwise")
MAGNITUDES = {
    "rotation": (10.0, 20.0, 40.0),
    "shear": (10.0, 20.0, 40.0),
    "scale": (0.1, 0.2, 0.4),
    "translation": (0.05, 0.1, 0.2),
}


def get_sweep() -> Sweep:
    return Sweep(
        title="Figure 10: training faces with less layout, MobileNetV2 x0.1",
        settings=[
            *(
                Setting(f"{operator} 0", CONFIG, f"operator={operator},recipe=paper", group="none")
                for operator in OPERATORS
            ),
            *(
                Setting(
                    f"{operator} {magnitude:g}",
                    CONFIG,
                    f"operator={operator},recipe=paper",
                    changes={f"data.augment.{name}": magnitude},
                    group=name,
                )
                for name, magnitudes in MAGNITUDES.items()
                for operator in OPERATORS
                for magnitude in magnitudes
            ),
        ],
        note="rotation and shear in degrees, scale and translation in shares; drawn again up to that every epoch",
    )
