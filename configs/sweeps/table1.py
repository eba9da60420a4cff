"""The paper's Table 1: eight models, TVConv beside the depthwise convolution.

    python -m tvconv_jax.experiments.sweep configs/sweeps/table1.py --out=runs/table1

There are 16 settings; ``:data=casia`` trains on faces of your own, as the paper does. The paper's figures are of
https://arxiv.org/abs/2203.10489, Table 1: 329,000 images at 96x96, 38 epochs, five runs.
"""

from tvconv_jax.experiments.paper import ACCURACIES
from tvconv_jax.experiments.sweep import Setting, Sweep
from tvconv_jax.metrics.complexity import PAPER_MMACS
from tvconv_jax.report.sweep import MEAN

NAMES = {"mobilenetv2": ("MobileNetV2", "mb"), "shufflenetv2": ("ShuffleNetV2", "sf")}


def get_sweep() -> Sweep:
    settings = []
    for (model, width), mmacs in PAPER_MMACS.items():
        name, short = NAMES[model]
        config = f"configs/face_{short}{round(10 * width):02d}.py"
        for operator, accuracy in zip(("depthwise", "tvconv"), ACCURACIES[model, width], strict=True):
            paper = {"MACs M": mmacs, MEAN: accuracy}
            settings.append(
                Setting(operator, config, f"operator={operator},recipe=paper", group=f"{name} x{width}", paper=paper)
            )
    return Sweep(
        title="Table 1: accuracy and cost of eight models",
        settings=settings,
        note="MACs at the size of the data; the paper's are at 96x96; its accuracies are of other sets",
    )
