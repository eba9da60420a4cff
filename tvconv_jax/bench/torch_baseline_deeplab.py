"""DeepLabV3+ with atrous convolutions in plain PyTorch: the twin of the segmentation job's training step.

Names are those of the reference's state dict, so :func:`tvconv_jax.convert.from_torch` takes a twin's weights.
Imports torch: install the ``torch`` extra. Only :mod:`tvconv_jax.bench` and tests import this module.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tvconv_jax.bench.torch_baseline import loss_function, norm_relu
from tvconv_jax.models.blocks import repeats
from tvconv_jax.models.deeplabv3plus import LOW_STAGE, RATES
from tvconv_jax.models.mobilenetv2 import STAGES


class PaddedResidual(nn.Module):
    """An inverted residual block that puts zeros round its input before it expands it."""

    def __init__(self, inputs: int, features: int, expansion: int, strides: int, dilation: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.dilation, self.residual = dilation, strides == 1 and inputs == features
        spatial = nn.Conv2d(hidden, hidden, 3, strides, dilation=dilation, groups=hidden, bias=False)
        expand = [norm_relu(nn.Conv2d(inputs, hidden, 1, bias=False), hidden)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            norm_relu(spatial, hidden),
            nn.Conv2d(hidden, features, 1, bias=False),
            nn.BatchNorm2d(features),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(F.pad(x, [self.dilation] * 4))
        return x + y if self.residual else y


class Backbone(nn.Module):
    """MobileNetV2 at output stride 16; gives the low-level features and the last."""

    def __init__(self, depth: float) -> None:
        super().__init__()
        layers = {"0": norm_relu(nn.Conv2d(3, 32, 3, 2, bias=False), 32)}
        channels, reached, dilation = 32, 2, 1
        for stage, (expansion, features, blocks, strides) in enumerate(STAGES, start=1):
            before = dilation
            if reached == 16:
                strides, dilation = 1, dilation * strides
            reached *= strides
            for i in range(repeats(blocks, depth)):
                first = i == 0
                block = PaddedResidual(
                    channels, features, expansion, strides if first else 1, before if first else dilation
                )
                layers[str(len(layers))], channels = block, features
            if stage == LOW_STAGE:
                low = len(layers)
        names = list(layers)
        self.low_level_features = nn.ModuleDict({name: layers[name] for name in names[:low]})
        self.high_level_features = nn.ModuleDict({name: layers[name] for name in names[low:]})

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for layer in self.low_level_features.values():
            x = layer(x)
        low = x
        for layer in self.high_level_features.values():
            x = layer(x)
        return low, x


def _conv_norm(inputs: int, features: int, kernel_size: int = 1, dilation: int = 1) -> list[nn.Module]:
    padding = dilation * (kernel_size // 2)
    conv = nn.Conv2d(inputs, features, kernel_size, padding=padding, dilation=dilation, bias=False)
    return [conv, nn.BatchNorm2d(features), nn.ReLU()]


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling."""

    def __init__(self) -> None:
        super().__init__()
        atrous = [nn.Sequential(*_conv_norm(320, 256, 3, rate)) for rate in RATES[16]]
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), *_conv_norm(320, 256))
        self.convs = nn.ModuleList([nn.Sequential(*_conv_norm(320, 256)), *atrous, pool])
        self.project = nn.Sequential(*_conv_norm(5 * 256, 256), nn.Dropout(0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branches = [conv(x) for conv in self.convs]
        branches[-1] = branches[-1].expand_as(branches[0])
        return self.project(torch.cat(branches, 1))


class Head(nn.Module):
    """Pyramid and low-level features to logits at a quarter of the grid."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.project = nn.Sequential(*_conv_norm(24, 48))
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


class Trainer:
    """The model and Adam; ``step`` trains on its batch and returns the loss.

    Args:
        images: uint8 ``[n, side, side, 3]``.
        maps: Boolean ``[n, side, side, 2]``. Both are laid out once, before any clock runs.
        learning_rate: Adam's.
        depth: Multiplies the blocks of every stage of the backbone, rounded up.
        precision: See :func:`tvconv_jax.bench.torch_baseline.loss_function`.
    """

    def __init__(
        self, images: np.ndarray, maps: np.ndarray, learning_rate: float, *, depth: float, precision: str = "float32"
    ) -> None:
        torch.manual_seed(0)
        self.images, self.maps = (torch.tensor(a).permute(0, 3, 1, 2).float().contiguous() for a in (images, maps))
        self.images = (self.images / 255 - 0.5) / 0.5
        self.model = DeepLabV3Plus(depth)
        self.optimizer = torch.optim.Adam(self.model.parameters(), learning_rate, betas=(0.9, 0.99))
        self.loss = loss_function(self._loss, precision)

    def _loss(self) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(self.model(self.images), self.maps)

    def state(self) -> dict[str, np.ndarray]:
        """The network's state dict as numpy copies."""
        return {name: value.cpu().numpy().copy() for name, value in self.model.state_dict().items()}

    def step(self) -> torch.Tensor:
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        return loss.detach()
