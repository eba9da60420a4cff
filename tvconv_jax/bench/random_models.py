"""Models with random weights and their outputs in JAX; speed does not depend on the weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from tvconv_jax.bench.settings import random_variables
from tvconv_jax.export import artifacts
from tvconv_jax.export.fold import fold
from tvconv_jax.export.graph import Graph
from tvconv_jax.export.interpreter import arrays_of, in_full_float32, make_run
from tvconv_jax.export.low_rank import Rank, truncate
from tvconv_jax.models import create_model

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


Outputs = tuple[Graph, np.ndarray, np.ndarray]  # a folded model, images [n, 3, s, s], JAX's outputs for them [n, d]


def folded(subject: Subject, image_size: int) -> tuple[Any, dict[str, Any], Graph]:
    """Return a model, its random variables, and its graph of the subject's rank."""
    model = create_model(subject.name, width=subject.width, operator=subject.operator)
    variables = random_variables(model, image_size)
    graph = fold(model, variables, image_size)
    return model, variables, truncate(graph, subject.rank)[0] if subject.rank else graph


@in_full_float32
def compute_outputs(subject: Subject, image_size: int) -> Outputs:
    """Return the outputs of a model with random weights for 64 images of noise."""
    model, variables, graph = folded(subject, image_size)
    shape = (IMAGES, image_size, image_size, 3)
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
