"""ShuffleNetV2 of the PyTorch baseline; see :mod:`tvconv_jax.bench.torch_baseline`."""

import functools
from collections.abc import Callable

import torch
from torch import nn

from tvconv_jax.bench.torch_baseline import EmbeddingHead, Spatial, norm_relu
from tvconv_jax.models.shufflenetv2 import CHANNELS, units

relu = functools.partial(norm_relu, activation=nn.ReLU)


def pointwise(inputs: int, outputs: int) -> nn.Sequential:
    """Return a 1x1 convolution, its norm and ReLU."""
    return relu(nn.Conv2d(inputs, outputs, 1, bias=False))


def spatial_norm(conv: nn.Module, channels: int) -> list[nn.Module]:
    """Return a spatial operator and its norm."""
    return [conv, nn.BatchNorm2d(channels)]


class Unit(nn.Module):
    """Half of the channels pass by (strides 1) or through a branch of their own (strides 2), then all shuffle."""

    def __init__(self, inputs: int, features: int, spatial: Callable[..., nn.Module], strides: int, size: int) -> None:
        super().__init__()
        half, out_size = features // 2, (size - 1) // strides + 1
        kept = half if strides == 1 else inputs
        operator = functools.partial(spatial, strides=strides, size=out_size)
        if strides == 2:
            self.branch1 = nn.Sequential(*spatial_norm(operator(kept), kept), *pointwise(kept, half))
        self.branch2 = nn.Sequential(
            *pointwise(kept, half), *spatial_norm(operator(half), half), *pointwise(half, half)
        )
        self.strides = strides

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, 1) if self.strides == 1 else (self.branch1(x), x)
        y = torch.cat([left, self.branch2(right)], 1)
        n, channels, height, width = y.shape
        return y.reshape(n, 2, channels // 2, height, width).transpose(1, 2).reshape(n, channels, height, width)


class ShuffleNetV2(nn.Module):
    """Images ``[n, 3, size, size]`` -> embeddings ``[n, embedding_size]``, the paper's ShuffleNetV2 for faces."""

    def __init__(self, width: float, depth: float, spatial: Spatial, size: int, *, embedding_size: int) -> None:
        super().__init__()
        channels, *_, last = CHANNELS[width]
        self.conv1 = relu(nn.Conv2d(3, channels, 3, padding=1, bias=False))
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        size = (size - 1) // 2 + 1
        stages: dict[int, list[nn.Module]] = {}
        for row in units(width, depth):
            stages.setdefault(row.stage, []).append(Unit(channels, row.features, spatial, row.strides, size))
            size, channels = (size - 1) // row.strides + 1, row.features
        self.stage2, self.stage3, self.stage4 = (nn.Sequential(*stages[stage]) for stage in (2, 3, 4))
        self.conv5 = pointwise(channels, last)
        self.output_layer = EmbeddingHead(last, embedding_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.conv1(x))
        return self.output_layer(self.conv5(self.stage4(self.stage3(self.stage2(x)))))
