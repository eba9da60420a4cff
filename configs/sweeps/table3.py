"""The paper's Table 3: what the affinity maps start from; and, our question, what the generator sees beyond the border.

    python -m tvconv_jax.experiments.sweep configs/sweeps/table3.py --out=runs/table3

With constant maps, says the paper, TVConv starts as a depthwise convolution. With the reference's zeros beyond the
border that holds only away from it, 5 pixels deep, which is nowhere on a 6x6 grid; with edge values it holds
everywhere. The last column says how far from one each model starts (:func:`tvconv_jax.tasks.affinity.deviation`): with
constant maps at 48x48 60 % with zeros (27 % in the first layer, 79 % in the last), 0 % with edge values.
"""

from tvconv_jax.experiments.sweep import Setting, Sweep

CONFIG = "configs/face_mb01.py"
INITS = {"ones": "constant", "data": "mean and std of the data", "normal": "noise"}


def get_sweep() -> Sweep:
    return Sweep(
        title="Table 3: what affinity maps start from, MobileNetV2 x0.1",
        settings=[
            Setting(
                name, CONFIG, changes={"model.affinity_init": init, "model.generator_padding": padding}, group=padding
            )
            for padding in ("zeros", "edge")
            for init, name in INITS.items()
        ],
        note="last column: 0 % is a depthwise convolution; mean over layers, defined in tvconv_jax.tasks.affinity",
        columns={"from depthwise at step 0 %": "start.deviation"},
    )
