"""The paper's Table 4: the size of TVConv's weight-generating block, one dimension at a time.

    python -m tvconv_jax.experiments.sweep configs/sweeps/table4.py --out=runs/table4

The default is trained once and belongs to all three dimensions.
"""

from tvconv_jax.experiments.sweep import Setting, Sweep

CONFIG = "configs/face_mb01.py"
DIMENSIONS = {"hidden_channels": (8, 32, 128), "hidden_layers": (1, 2, 4), "affinity_channels": (1, 2, 8)}


def get_sweep() -> Sweep:
    return Sweep(
        title="Table 4: the weight-generating block, MobileNetV2 x0.1",
        settings=[
            Setting("default", CONFIG, "recipe=paper"),
            *(
                Setting(
                    str(value), CONFIG, "recipe=paper", changes={f"model.{name}": value}, group=name.replace("_", " ")
                )
                for name, values in DIMENSIONS.items()
                for value in values
            ),
        ],
        note="the default is 64 hidden channels, 3 hidden layers, 4 affinity channels; a row changes one of them",
    )
