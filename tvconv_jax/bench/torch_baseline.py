"""The plain PyTorch baseline of the benchmark: nothing fused by hand, eager or by ``torch.compile``.

TVConv is written as its paper describes it (unfold, multiply, sum), the depthwise convolution is ``nn.Conv2d``
with groups. Layouts are PyTorch's, NCHW. Names are those of the reference's state dict, so
:func:`tvconv_jax.convert.from_torch` takes the weights.

Imports torch: install the ``torch`` extra. Only :mod:`tvconv_jax.bench` and tests import this module.
"""

import ctypes
import functools
import importlib
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tvconv_jax.models.mobilenetv2 import Block, blocks, scaled

# A block's spatial operator: called as spatial(channels, strides, output size).
Spatial = Callable[[int, int, int], nn.Module]

# "compiled" passes functions through torch.compile, "traced" through it without a compiler; prepare() sets it.
MODE = "eager"


def prepare(backend: str, threads: int, mode: str = "eager") -> str:
    """Choose the device of ``jax.default_backend()``, CPU threads and the mode; return them with PyTorch's version.

    Raises:
        RuntimeError: If PyTorch has no such device here.
    """
    torch.set_num_threads(threads)
    if backend != "cpu" and not (backend == "gpu" and torch.cuda.is_available()):
        raise RuntimeError(f"PyTorch {torch.__version__} has no {backend} here")
    torch.set_default_device("cpu" if backend == "cpu" else "cuda")
    global MODE
    MODE = mode
    return f"PyTorch {torch.__version__} ({mode}, {torch.get_default_device().type}, {threads} threads)"


def maybe_compiled(function: Callable) -> Callable:
    """Return the function in the mode that :func:`prepare` set."""
    if MODE == "traced":
        return torch.compile(function, backend="eager")
    return torch.compile(function) if MODE == "compiled" else function


def wait(result: Any = None) -> Any:
    """Wait for all kernels that were launched."""
    if torch.get_default_device().type != "cpu":
        torch.cuda.synchronize()
    return result


def tv_conv(x: torch.Tensor, weights: torch.Tensor, *, strides: int = 1) -> torch.Tensor:
    """Convolve ``x [n, c, h, w]``, ``weights [c, k*k, ho, wo]`` -> ``[n, c, ho, wo]``."""
    channels, taps, height, width = weights.shape
    kernel_size = math.isqrt(taps)
    patches = F.unfold(x, kernel_size, padding=kernel_size // 2, stride=strides)
    return (weights * patches.view(-1, channels, taps, height, width)).sum(2)


def depthwise_conv(x: torch.Tensor, kernel: torch.Tensor, *, strides: int = 1) -> torch.Tensor:
    """Convolve ``x [n, c, h, w]``, ``kernel [c, 1, k, k]`` -> ``[n, c, ho, wo]``."""
    return F.conv2d(x, kernel, stride=strides, padding=kernel.shape[-1] // 2, groups=x.shape[1])


class TVConv(nn.Module):
    """Translation-variant convolution with its weight-generating block."""

    def __init__(
        self, channels: int, strides: int, size: int, *, maps: int = 4, hidden: int = 64, layers: int = 3
    ) -> None:
        super().__init__()
        self.channels = self.out_channels = channels
        self.strides = strides
        self.posi_map = nn.Parameter(torch.ones(1, maps, size, size))
        blocks = [
            nn.Sequential(
                nn.Conv2d(maps if i == 0 else hidden, hidden, 3, padding=1, bias=False),
                nn.LayerNorm([hidden, size, size]),
                nn.ReLU(),
            )
            for i in range(layers + 1)
        ]
        self.weight_layers = nn.Sequential(*blocks, nn.Conv2d(hidden, 9 * channels, 3, padding=1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.weight_layers(self.posi_map)[0].unflatten(0, (self.channels, 9))
        return tv_conv(x, weights, strides=self.strides)


def depthwise(channels: int, strides: int, size: int) -> nn.Module:
    """Return the depthwise convolution of a block; ``size`` follows from the input."""
    return nn.Conv2d(channels, channels, 3, strides, 1, groups=channels, bias=False)


def norm_relu(conv: nn.Module, activation: type[nn.Module] = nn.ReLU6) -> nn.Sequential:
    """Return a convolution, its norm and the activation."""
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), activation())


class InvertedResidual(nn.Module):
    """Expand, spatial operator, project; added to its input if shapes agree.

    ``spatial`` makes the operator from its channels; the input is padded with zeros before it is expanded.
    """

    def __init__(self, inputs: int, row: Block, spatial: Callable[[int], nn.Module], *, padding: int = 0) -> None:
        super().__init__()
        hidden = inputs * row.expansion
        self.padding, self.residual = padding, row.strides == 1 and inputs == row.features
        expand = [norm_relu(nn.Conv2d(inputs, hidden, 1, bias=False))] if row.expansion != 1 else []
        project = [nn.Conv2d(hidden, row.features, 1, bias=False), nn.BatchNorm2d(row.features)]
        self.conv = nn.Sequential(*expand, norm_relu(spatial(hidden)), *project)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(F.pad(x, [self.padding] * 4) if self.padding else x)
        return x + y if self.residual else y


class EmbeddingHead(nn.Module):
    """Batch norm, average over the grid, linear layer, batch norm."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.layer1 = nn.BatchNorm2d(channels)
        self.layer2 = nn.Sequential(nn.Linear(channels, features), nn.BatchNorm1d(features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer2(self.layer1(x).mean((2, 3)))


class MobileNetV2(nn.Module):
    """Images ``[n, 3, size, size]`` -> embeddings ``[n, embedding_size]``, the paper's MobileNetV2 for faces."""

    def __init__(self, width: float, depth: float, spatial: Spatial, size: int, *, embedding_size: int) -> None:
        super().__init__()
        channels, last = scaled(32, width), scaled(512, max(1.0, width))
        features = [norm_relu(nn.Conv2d(3, channels, 3, padding=1, bias=False))]
        for row in blocks(width, depth):
            size = (size - 1) // row.strides + 1
            operator = functools.partial(spatial, strides=row.strides, size=size)
            features, channels = [*features, InvertedResidual(channels, row, operator)], row.features
        features.append(norm_relu(nn.Conv2d(channels, last, 1, bias=False)))
        self.features = nn.Sequential(*features)
        self.output_layer = EmbeddingHead(last, embedding_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output_layer(self.features(x))


def am_softmax(embeddings: torch.Tensor, class_weights: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean additive margin softmax loss, margin 0.35, scale 32; ``[n, d]``, ``[d, classes]``, ``[n]``."""
    cosines = (F.normalize(embeddings) @ F.normalize(class_weights, dim=0)).clamp(-1, 1)
    return F.cross_entropy(32 * (cosines - 0.35 * F.one_hot(labels, class_weights.shape[1])), labels)


class Trainer:
    """A model, the loss of its batch and its optimizer; ``step`` trains on the batch and returns the loss.

    ``precision`` is ``"float32"``, or ``"bfloat16"`` by automatic mixed precision.
    """

    def __init__(
        self, model: nn.Module, loss: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer, precision: str
    ) -> None:
        self.model, self.optimizer = model, optimizer

        def in_precision() -> torch.Tensor:
            with torch.autocast(torch.get_default_device().type, torch.bfloat16, enabled=precision == "bfloat16"):
                return loss()

        self.loss = maybe_compiled(in_precision)

    def state(self) -> dict[str, np.ndarray]:
        """Return the network's state dict as numpy copies."""
        return {name: value.cpu().numpy().copy() for name, value in self.model.state_dict().items()}

    def step(self) -> torch.Tensor:
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def to_input(images: np.ndarray) -> torch.Tensor:
    """Normalize uint8 images ``[n, size, size, 3]`` and lay them out as ``[n, 3, size, size]``."""
    return (torch.tensor(images).permute(0, 3, 1, 2).float().contiguous() / 255 - 0.5) / 0.5


def face_trainer(
    operator: str,
    class_weights: np.ndarray,
    batch: dict[str, np.ndarray],
    sgd: dict[str, float],
    *,
    width: float,
    depth: float,
    name: str = "mobilenetv2",
    precision: str = "float32",
    channels_last: bool = False,
) -> Trainer:
    """Return a trainer of a model with class weights.

    Args:
        operator: ``"tvconv"`` or ``"depthwise"``.
        class_weights: ``[embedding_size, classes]``.
        batch: ``image`` uint8 ``[n, size, size, 3]`` and ``label`` ``[n]``, laid out once, before any clock runs.
        sgd: ``lr``, ``momentum`` and ``weight_decay``.
        width, depth: The model's.
        name: ``"mobilenetv2"`` or ``"shufflenetv2"``.
        precision: See :class:`Trainer`.
        channels_last: Whether PyTorch keeps images and kernels with the channels last, as we do.
    """
    torch.manual_seed(0)
    images, labels = to_input(batch["image"]), torch.tensor(batch["label"], dtype=torch.int64)
    spatial = {"tvconv": TVConv, "depthwise": depthwise}[operator]
    module = importlib.import_module(f"{__name__}_shufflenet") if name == "shufflenetv2" else None
    build = module.ShuffleNetV2 if module else MobileNetV2
    model = build(width, depth, spatial, images.shape[2], embedding_size=len(class_weights))
    if channels_last:
        model, images = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    weights = nn.Parameter(torch.tensor(class_weights))
    optimizer = torch.optim.SGD([*model.parameters(), weights], **sgd)
    return Trainer(model, lambda: am_softmax(model(images), weights, labels), optimizer, precision)


def peak_memory(call: Callable[[], torch.Tensor]) -> tuple[float, int | None]:
    """Return the result of ``call`` as a number, and its peak memory in bytes beyond that in use before.

    On a CPU that is resident memory, which only Linux with glibc reports (elsewhere ``None``).
    """
    if torch.get_default_device().type != "cpu":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return float(call()), torch.cuda.max_memory_allocated() - before
    try:
        # Free memory goes back to the system, and writing 5 resets the peak, see proc(5).
        ctypes.CDLL(None).malloc_trim(0)
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
    except (OSError, AttributeError):
        return float(call()), None
    return float(call()), _resident("VmHWM") - before


def _resident(field: str) -> int:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def operator_calls(
    operator: str, arrays: Sequence[np.ndarray], strides: int, *, precision: str = "float32"
) -> dict[str, Callable[[], Any]]:
    """Return the same calls as :func:`tvconv_jax.bench.ours.operator_calls`; results are in PyTorch's layouts."""
    x, weights, cotangent = (torch.tensor(a, dtype=getattr(torch, precision)) for a in arrays)
    x, cotangent = (a.permute(0, 3, 1, 2).contiguous().requires_grad_() for a in (x, cotangent))
    if operator == "tvconv":
        function, weights = tv_conv, weights.permute(3, 2, 0, 1).contiguous()
    else:
        function, weights = depthwise_conv, weights.T.reshape(-1, 1, 3, 3).contiguous()
    weights.requires_grad_()
    if MODE == "compiled":
        torch.compiler.reset()  # by default a function compiles for at most eight shapes
    function = maybe_compiled(function)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return function(x, weights, strides=strides)

    def both() -> tuple[torch.Tensor, ...]:
        y = function(x, weights, strides=strides)
        return y.detach(), *torch.autograd.grad(y, (x, weights), cotangent)

    return {"forward": forward, "forward+backward": both}
