"""Models with random weights, for speed does not depend on them, and what JAX answers with them: what tables export."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tvconv_jax import create_model
from tvconv_jax.export import artifacts
from tvconv_jax.export.fold import fold
from tvconv_jax.export.graph import Graph
from tvconv_jax.export.interpreter import arrays_of, in_full_float32, make_run
from tvconv_jax.export.low_rank import Rank, truncate

PICTURES = 64


class Subject(NamedTuple):
    """A model to export.

    Attributes:
        name: Of ``create_model``.
        width: Of the model.
        operator: ``"tvconv"`` or ``"depthwise"``.
        rank: Of per-pixel kernels; ``None`` is exact.
        lowering: Of its ONNX file.
    """

    name: str
    width: float
    operator: str
    rank: Rank | None = None
    lowering: str = artifacts.AUTO

    def __str__(self) -> str:
        rank = f", rank {self.rank}" if self.rank else ""
        lowering = f", {self.lowering}" if self.lowering != artifacts.AUTO else ""
        return f"{self.name} x{self.width} {self.operator}{rank}{lowering}"


class Answered(NamedTuple):
    """A model, pictures, and its answers.

    Attributes:
        graph: The model, folded.
        images: ``[n, 3, s, s]``.
        expected: What JAX answers, ``[n, d]``.
    """

    graph: Graph
    images: np.ndarray
    expected: np.ndarray


def random_variables(model: Any, image_size: int, seed: int = 0) -> dict[str, Any]:
    """Variables as a trained model might have them: no norm is the identity, no affinity map is constant."""
    random = np.random.default_rng(seed)

    def value(path: tuple, leaf: Any) -> np.ndarray:
        name, noise = path[-1].key, random.standard_normal(leaf.shape).astype(np.float32)
        if name in ("scale", "var"):
            return 1 + 0.2 * np.square(noise)
        if name == "affinity":
            return 1 + 0.3 * noise
        return noise * {"bias": 0.1, "mean": 0.1}.get(name, math.sqrt(2 / math.prod(leaf.shape[:-1])))

    images = jnp.zeros((1, image_size, image_size, 3))
    shapes = jax.eval_shape(lambda key: model.init(key, images, train=False), jax.random.key(0))
    return jax.tree_util.tree_map_with_path(value, shapes)


@in_full_float32
def answered(subject: Subject, image_size: int) -> Answered:
    """A model with random weights and what JAX answers to 64 pictures with it."""
    model, variables, graph = folded(subject, image_size)
    shape = (PICTURES, image_size, image_size, 3)
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    if subject.rank:
        expected = jax.jit(make_run(graph))(arrays_of(graph), images)
    else:
        expected = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
    return Answered(graph, np.ascontiguousarray(images.transpose(0, 3, 1, 2)), np.asarray(expected))


def write(subject: Subject, model: Answered, folder: Path, *, formats: Sequence[str]) -> dict[str, float]:
    """Exports a model and checks it.

    Returns:
        Largest difference from the JAX model by file name, over the formats that share a file.

    Raises:
        UserError: If an artifact answers otherwise than the JAX model.
    """
    written = artifacts.write(
        folder,
        model.graph,
        _metadata(subject, model.graph),
        formats=formats,
        precision="float32",
        images=model.images,
        expected=model.expected,
        lowering=subject.lowering,
    )
    return {one.file: max(o.difference for o in written if o.file == one.file) for one in written}


def folded(subject: Subject, image_size: int) -> tuple[Any, dict[str, Any], Graph]:
    """A model with random weights, its variables, and its graph of the subject's rank."""
    model = create_model(subject.name, width=subject.width, operator=subject.operator)
    variables = random_variables(model, image_size)
    graph = fold(model, variables, image_size)
    return model, variables, truncate(graph, subject.rank)[0] if subject.rank else graph


def _metadata(subject: Subject, graph: Graph) -> dict[str, Any]:
    side = graph.shapes[0][0]
    return {
        **subject._asdict(),
        "rank": str(subject.rank or "exact"),
        "input": {"name": "images", "shape": [None, 3, side, side]},
        "output": {"name": "embeddings", "shape": [None, graph.shapes[-1][2]]},
    }
