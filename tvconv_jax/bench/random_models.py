"""Models with random weights, whose speed is that of trained ones, and the reference's own frozen module."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from tvconv_jax.bench.settings import random_variables
from tvconv_jax.edge import benchmark
from tvconv_jax.export import artifacts
from tvconv_jax.export.fold import fold
from tvconv_jax.export.graph import Graph
from tvconv_jax.export.interpreter import arrays_of, in_full_float32, make_run
from tvconv_jax.export.low_rank import Rank, truncate
from tvconv_jax.models import create_model
from tvconv_jax.utils.sizes import Size, height_width

IMAGES = 64


class Subject(NamedTuple):
    """A model to export: arguments of ``create_model``, rank (``None`` is exact), lowering of its ONNX file."""

    name: str
    width: float
    operator: str
    rank: Rank | None = None
    lowering: str = artifacts.AUTO

    def __str__(self) -> str:
        rank = f", rank {self.rank}" if self.rank else ""
        lowering = f", {self.lowering}" if self.lowering != artifacts.AUTO else ""
        return f"{self.name} x{self.width} {self.operator}{rank}{lowering}"


Outputs = tuple[Graph, np.ndarray, np.ndarray]  # a folded model, images [n, 3, h, w], JAX's outputs for them [n, d]


def folded(subject: Subject, image_size: Size) -> tuple[Any, dict[str, Any], Graph]:
    """Return a model, its random variables, and its graph of the subject's rank."""
    model = create_model(subject.name, width=subject.width, operator=subject.operator)
    variables = random_variables(model, image_size)
    graph = fold(model, variables, image_size)
    return model, variables, truncate(graph, subject.rank)[0] if subject.rank else graph


@in_full_float32
def compute_outputs(subject: Subject, image_size: Size) -> Outputs:
    """Return the outputs of a model with random weights for 64 images of noise."""
    model, variables, graph = folded(subject, image_size)
    shape = (IMAGES, *height_width(image_size), 3)
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    if subject.rank:
        expected = jax.jit(make_run(graph))(arrays_of(graph), images)
    else:
        expected = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
    return graph, np.ascontiguousarray(images.transpose(0, 3, 1, 2)), np.asarray(expected)


def write(subject: Subject, outputs: Outputs, folder: Path, *, formats: Sequence[str]) -> dict[str, float]:
    """Export a model; return by file name the largest difference from the JAX model.

    Raises:
        UserError: If an artifact differs from the JAX model.
    """
    graph, images, expected = outputs
    metadata = {
        **subject._asdict(),
        "rank": str(subject.rank or "exact"),
        "input": {"name": "images", "shape": [None, *images.shape[1:]]},
        "output": {"name": "embeddings", "shape": [None, expected.shape[1]]},
    }
    options = {"formats": formats, "precision": "float32", "lowering": subject.lowering}
    written = artifacts.write(folder, graph, metadata, images=images, expected=expected, **options)
    return {one.file: max(other.difference for other in written if other.file == one.file) for one in written}


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
