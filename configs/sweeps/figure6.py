"""The paper's Figure 6: all operators in MobileNetV2 x0.1, and MLP-Mixer.

    python -m tvconv_jax.experiments.sweep configs/sweeps/figure6.py --out=runs/figure6

The operators are described in :mod:`tvconv_jax.nn.operators`.
"""

from tvconv_jax.experiments.sweep import Setting, Sweep
from tvconv_jax.models.registry import list_operators

# Its generator runs for every image: with the default's 64 channels a step takes ten seconds on two cores.
CHANGES = {"tvconv_dynamic": {"model.hidden_channels": 16}}


def get_sweep() -> Sweep:
    operators = list_operators("mobilenetv2")
    return Sweep(
        title="Figure 6: operators in MobileNetV2 x0.1",
        settings=[
            *(
                Setting(name, "configs/face_mb01.py", f"operator={name},recipe=paper", changes=CHANGES.get(name, {}))
                for name in operators
            ),
            Setting("mlp_mixer", "configs/face_mixer.py", "recipe=paper"),
        ],
        note="all with the same schedule, without tuning; attention (sasa, axial) in the last three stages; "
        "tvconv_dynamic's generator has 16 hidden channels, tvconv's 64",
    )
