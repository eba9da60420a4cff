"""Which layers and models the PyTorch reference has, with which options."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import flax.linen as nn

from tvconv_jax.models.deeplabv3plus import DeepLabV3Plus
from tvconv_jax.models.mobilenetv2 import MobileNetV2
from tvconv_jax.models.shufflenetv2 import ShuffleNetV2
from tvconv_jax.nn.layers import DepthwiseConv, TVConv

# What may be set of a layer or model that has a counterpart; every other field must be as it is by default, where the
# reference has nothing else. An initializer or remat changes no weight, and both implementations are equal.
COUNTERPARTS: dict[type[nn.Module], tuple[str, ...]] = {
    TVConv: (
        *("kernel_size", "strides", "affinity_channels", "hidden_channels", "hidden_layers", "use_bias"),
        *("implementation", "kernel_init"),
    ),
    DepthwiseConv: ("kernel_size", "strides", "use_bias", "dilation", "padding", "kernel_init"),
    MobileNetV2: ("width", "depth", "conv", "stages", "embedding_size", "remat"),
    ShuffleNetV2: ("width", "depth", "conv", "stages", "embedding_size", "remat"),
    DeepLabV3Plus: ("conv", "depth", "num_classes", "output_stride", "remat"),
}


def check_counterpart(module: nn.Module, *, fixed: Iterable[str] = ()) -> None:
    """Raises a ``ValueError`` unless the reference has such a layer or model.

    Args:
        module: The layer or model.
        fixed: Fields that the place of a layer leaves no choice for.
    """
    name = type(module).__name__
    if type(module) not in COUNTERPARTS:
        known = ", ".join(kind.__name__ for kind in COUNTERPARTS)
        raise ValueError(f"{name} has no counterpart in the reference; these have: {known}.")
    free = {"parent", "name", *COUNTERPARTS[type(module)]} - set(fixed)
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        if field.name not in free and value != field.default:
            raise ValueError(
                f"{name} with {field.name}={_shown(value)} has no counterpart in the reference; "
                f"{_shown(field.default)} has."
            )


def _shown(value: Any) -> str:
    return getattr(value, "__name__", None) or repr(value)
