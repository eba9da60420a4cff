"""The reference's own frozen module in eager PyTorch, for the tables that compare with it."""

import math
import sys
from typing import Any

from tvconv_jax.edge import benchmark


class Reference(benchmark.Torch):
    """Eager PyTorch with per-pixel kernels as the reference freezes them: pad, as_strided, multiply, sum.

    Batch norms are folded as in ours, which the reference does not do; that makes it a little faster here.
    Source: github.com/JierunChen/TVConv (609d4bf), face_recognition/model/atoms/TVConv.py.
    """

    name = "reference"

    def read(self, threads: int) -> str | None:
        text = super().read(threads)
        sys.modules[type(self.model).__module__].OPERATIONS["per_pixel"] = strided
        for number, node in enumerate(self.model.nodes, start=1):
            if node["kind"] == "per_pixel":  # [k * k, c, h, w] -> [c, k * k, h, w]
                name = f"node{number}_weights"
                setattr(self.model, name, getattr(self.model, name).transpose(0, 1).contiguous())
        return text


def strided(fields: dict, arrays: dict[str, Any], x: Any) -> Any:
    """Compute ``per_pixel`` of an exported ``model.py``: weights ``[c, k * k, ho, wo]``, images ``[n, c, h, w]``."""
    from torch.nn import functional as F

    weights, bias, strides = arrays["weights"], arrays["bias"], fields["strides"]
    channels, taps, height, width = weights.shape
    kernel_size = math.isqrt(taps)
    x = F.pad(x, [kernel_size // 2] * 4)
    row = x.shape[3]
    steps = (x.stride(0), x.stride(1), row, 1, strides * row, strides)
    patches = x.as_strided((len(x), channels, kernel_size, kernel_size, height, width), steps)
    y = (weights.view(1, channels, kernel_size, kernel_size, height, width) * patches).sum((2, 3))
    y = y + (bias[:, None, None] if bias.ndim == 1 else bias)
    return {"relu": F.relu, "relu6": F.relu6}.get(fields["activation"], lambda y: y)(y)
