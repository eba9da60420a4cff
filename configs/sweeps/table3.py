"""The paper's Table 3: the initialization of the affinity maps; and, our question, the generator's padding.

    python -m tvconv_jax.experiments.sweep configs/sweeps/table3.py --out=runs/table3

According to the paper, TVConv with constant maps starts as a depthwise convolution. With the reference's zero padding
that holds only at 5 or more pixels from the border, which is nowhere on a 6x6 grid; with edge padding it holds
everywhere. The last column is each model's initial deviation from a depthwise convolution
(:func:`tvconv_jax.tasks.affinity.deviation`). With constant maps at 48x48 it is 60 % with zero padding (27 % in the
first layer, 79 % in the last), and 0 % with edge padding.
"""

from tvconv_jax.experiments.sweep import Setting, Sweep

CONFIG = "configs/face_mb01.py"
INITS = {"ones": "constant", "data": "mean and std of the data", "normal": "noise"}


def get_sweep() -> Sweep:
    return Sweep(
        title="Table 3: initialization of the affinity maps, MobileNetV2 x0.1",
        settings=[
            Setting(
                name,
                CONFIG,
                "recipe=paper",
                changes={"model.affinity_init": init, "model.generator_padding": padding},
                group=padding,
            )
            for padding in ("zeros", "edge")
            for init, name in INITS.items()
        ],
        note="last column: 0 % is a depthwise convolution; mean over layers, defined in tvconv_jax.tasks.affinity",
        columns={"from depthwise at step 0 %": "start.deviation"},
    )
