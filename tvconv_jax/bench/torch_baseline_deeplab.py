"""DeepLabV3+ with atrous convolutions in plain PyTorch: the baseline of the segmentation job's training step.

Names are those of the reference's state dict, so :func:`tvconv_jax.convert.from_torch` takes the weights.
Imports torch: install the ``torch`` extra. Only :mod:`tvconv_jax.bench` and tests import this module.
"""

import functools
from collections import OrderedDict

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tvconv_jax.bench.torch_baseline import InvertedResidual, Trainer, norm_relu, to_input
from tvconv_jax.models import deeplabv3plus


def _depthwise(channels: int, strides: int, dilation: int) -> nn.Module:
    return nn.Conv2d(channels, channels, 3, strides, dilation=dilation, groups=channels, bias=False)


class Backbone(nn.Module):
    """MobileNetV2 at output stride 16; returns the low-level features and the last."""

    def __init__(self, depth: float) -> None:
        super().__init__()
        layers, channels = {"0": norm_relu(nn.Conv2d(3, 32, 3, 2, bias=False))}, 32
        low, high = deeplabv3plus.DeepLabV3Plus(depth=depth).backbone()
        for i, row in enumerate(low + high, start=1):
            operator = functools.partial(_depthwise, strides=row.strides, dilation=row.dilation)
            layers[str(i)] = InvertedResidual(channels, row, operator, padding=row.dilation)
            channels = row.features
        named = list(layers.items())
        self.low_level_features = nn.Sequential(OrderedDict(named[: len(low) + 1]))
        self.high_level_features = nn.Sequential(OrderedDict(named[len(low) + 1 :]))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        low = self.low_level_features(x)
        return low, self.high_level_features(low)


def _conv_norm(inputs: int, features: int, kernel_size: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel_size // 2)
    conv = nn.Conv2d(inputs, features, kernel_size, padding=padding, dilation=dilation, bias=False)
    return norm_relu(conv, nn.ReLU)


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling."""

    def __init__(self) -> None:
        super().__init__()
        rows = deeplabv3plus.DeepLabV3Plus().pyramid()
        atrous = [_conv_norm(320, row.features, 3, row.dilation) for row in rows]
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), *_conv_norm(320, 256))
        self.convs = nn.ModuleList([_conv_norm(320, 256), *atrous, pool])
        self.project = nn.Sequential(*_conv_norm(5 * 256, 256), nn.Dropout(0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branches = [conv(x) for conv in self.convs]
        branches[-1] = branches[-1].expand_as(branches[0])
        return self.project(torch.cat(branches, 1))


class Head(nn.Module):
    """Pyramid and low-level features to logits at a quarter of the grid."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.project = _conv_norm(24, 48)
        self.aspp = Pyramid()
        self.classifier = nn.Sequential(*_conv_norm(304, 256, 3), nn.Conv2d(256, num_classes, 1))

    def forward(self, low: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        low = self.project(low)
        x = F.interpolate(self.aspp(x), low.shape[2:], mode="bilinear")
        return self.classifier(torch.cat([low, x], 1))


class DeepLabV3Plus(nn.Module):
    """Images ``[n, 3, h, w]`` -> logits ``[n, num_classes, h, w]``."""

    def __init__(self, depth: float, num_classes: int = 2) -> None:
        super().__init__()
        self.backbone, self.classifier = Backbone(depth), Head(num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(self.classifier(*self.backbone(x)), x.shape[2:], mode="bilinear")


def segmentation_trainer(
    images: np.ndarray, maps: np.ndarray, learning_rate: float, *, depth: float, precision: str = "float32"
) -> Trainer:
    """Return a trainer of DeepLabV3+ with Adam.

    Args:
        images: uint8 ``[n, size, size, 3]``.
        maps: Boolean ``[n, size, size, 2]``. Both are laid out once, before any clock runs.
        learning_rate: Adam's.
        depth: Multiplies the blocks of every stage of the backbone, rounded up.
        precision: See :class:`tvconv_jax.bench.torch_baseline.Trainer`.
    """
    torch.manual_seed(0)
    inputs, targets = to_input(images), torch.tensor(maps).permute(0, 3, 1, 2).float().contiguous()
    model = DeepLabV3Plus(depth)
    optimizer = torch.optim.Adam(model.parameters(), learning_rate, betas=(0.9, 0.99))
    return Trainer(model, lambda: F.binary_cross_entropy_with_logits(model(inputs), targets), optimizer, precision)
