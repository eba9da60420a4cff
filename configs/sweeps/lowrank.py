"""Our question: is a low-rank generator better trained at low rank, or trained in full and truncated at export?

    python -m tvconv_jax.experiments.sweep configs/sweeps/lowrank.py --out=runs/lowrank
    python -m tvconv_jax.bench.export_table runs/lowrank/tvconv/seed* --precisions=float32

The first command trains both; the second truncates the full generators, and prints the loss of accuracy.
"""

from tvconv_jax.experiments.sweep import Setting, Sweep

CONFIG = "configs/face_mb01.py"


def get_sweep() -> Sweep:
    return Sweep(
        title="Low rank from the start, MobileNetV2 x0.1",
        settings=[
            Setting("tvconv", CONFIG, "recipe=paper"),
            *(
                Setting(f"rank {rank}", CONFIG, "operator=tvconv_lowrank,recipe=paper", changes={"model.rank": rank})
                for rank in (1, 2, 3)
            ),
            Setting("depthwise", CONFIG, "operator=depthwise,recipe=paper"),
        ],
        note="rank r: the generator yields r gain maps a channel for r depthwise convolutions (tvconv_lowrank)",
    )
