"""The paper's Table 1: eight models, TVConv beside the depthwise convolution.

    python -m tvconv_jax.analysis.sweep configs/sweeps/table1.py --out=runs/table1

Sixteen settings; with ``:data=casia`` on faces of your own it is the paper's.
"""

from tvconv_jax.analysis.sweep import Setting, Sweep

WIDTHS = {"mb01": "0.1", "mb02": "0.2", "mb03": "0.3", "mb05": "0.5", "mb10": "1.0"}
WIDTHS |= {"sf05": "0.5", "sf10": "1.0", "sf15": "1.5"}


def get_sweep() -> Sweep:
    names = {"mb": "MobileNetV2", "sf": "ShuffleNetV2"}
    return Sweep(
        title="Table 1: accuracy and cost of eight models",
        settings=[
            Setting(operator, f"configs/face_{name}.py", f"operator={operator}", group=f"{names[name[:2]]} x{width}")
            for name, width in WIDTHS.items()
            for operator in ("depthwise", "tvconv")
        ],
        note="MACs at the size of the data; the paper's are at 96x96: python -m tvconv_jax.metrics.complexity",
    )
