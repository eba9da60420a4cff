"""Every operator exports: frozen where it can be, else as a module whose ONNX outputs equal the JAX model's."""

import jax
import numpy as np
import pytest
from test_operators import CASES, all_shapes, make, randomized

from tvconv_jax import DepthwiseConv, create_model
from tvconv_jax.export import artifacts, fold
from tvconv_jax.export.graph import Graph
from tvconv_jax.export.interpreter import arrays_of, make_run
from tvconv_jax.export.onnx import operators
from tvconv_jax.export.onnx import writer as onnx_writer
from tvconv_jax.export.onnx.speed import runner
from tvconv_jax.models import mobilenetv2
from tvconv_jax.models.registry import OPERATORS
from tvconv_jax.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("barely_optimized")

TOLERANCE = 1e-4  # of normalized embeddings: what an artifact is refused for
SMALL = {"affinity_channels": 2, "hidden_channels": 4, "hidden_layers": 0, "use_bias": True}
# Stage 1 has no expansion; the second block of stage 2 has a shortcut.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2))
DYNAMIC = [name for name, (module, _) in CASES.items() if module.__name__ in operators.MODULES]
STATIC = {"locally_connected": "per_pixel", "tvconv_linear": "per_pixel", "tvconv_lowrank": "low_rank"}


def drawn(shape, scale=1.0):
    return scale * np.random.RandomState(sum(shape)).standard_normal(shape).astype(np.float32)


def variables_of(model, images):
    """As training might leave them: no norm is the identity, no affinity map is constant."""

    def value(path, leaf):
        name = path[-1].key
        if name in ("scale", "var"):
            return 1 + 0.2 * np.square(drawn(leaf.shape))
        spread = {"bias": 0.1, "mean": 0.1, "affinity": 0.3}.get(name, np.sqrt(2 / np.prod(leaf.shape[:-1])))
        return drawn(leaf.shape, spread) + (name == "affinity")

    return jax.tree_util.tree_map_with_path(value, jax.eval_shape(model.init, jax.random.key(0), images))


def by_onnx(graph, lowering):
    """``images [n, h, w, c] -> y`` as an ONNX file answers."""
    run = runner(onnx_writer.to_onnx(graph, "{}", lowering=lowering, output="y"))
    return lambda images: run(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def test_all_operators_are_here():
    assert {*DYNAMIC, *STATIC, "tvconv", "depthwise"} == set(OPERATORS)


LAYERS = [(name, strides) for name in DYNAMIC for strides in (1, 2) if (name, strides) != ("dyconv_pw", 2)]


@pytest.mark.parametrize(("name", "strides"), LAYERS)
def test_one_layer_in_every_lowering(name, strides):
    """On an odd grid, with everything that an operator can have."""
    module, x = make(name, strides), drawn((3, 5, 4, 8))
    variables = randomized(all_shapes(module, x))
    expected = np.asarray(jax.jit(module.apply)(variables, x))
    folding = fold.Folding(module, {collection: {"layer": tree} for collection, tree in variables.items()}, 0)
    folding.graph.shapes[0] = x.shape[1:]
    folding.module(0, module, "layer")
    assert folding.graph.shapes[1] == expected.shape[1:]
    for lowering in onnx_writer.lowerings(folding.graph):
        run = by_onnx(folding.graph, lowering)
        for batch in (1, 3):
            found = run(x[:batch]).transpose(0, 2, 3, 1)
            # Float32 sums of a few dozen terms, in another order.
            np.testing.assert_allclose(found, expected[:batch], rtol=1e-4, atol=1e-5)


@pytest.fixture
def short(monkeypatch):
    """MobileNetV2 of three blocks, which compiles in a second."""
    monkeypatch.setattr(mobilenetv2, "STAGES", STAGES)


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_model_with_every_operator(operator, short):
    model, images = (
        create_model("mobilenetv2", width=0.1, operator=operator, stages=(1, 2), **SMALL),
        drawn((3, 24, 20, 3)),
    )
    variables = variables_of(model, images)
    graph = fold.fold(model, variables, (24, 20))
    of_three = 2 * 3 - 1 if operator == "dyconv_pw" else 3  # 1x1 convolutions: the first block has no expansion
    kind = STATIC.get(operator, "module" if operator in DYNAMIC else None)
    assert kind is None or sum(node.kind == kind for node in graph.nodes) == of_three
    expected = np.asarray(jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images))
    run = by_onnx(graph, onnx_writer.lowerings(graph)[-1])
    assert artifacts.difference("embeddings", run(images), expected) < TOLERANCE
    assert artifacts.difference("embeddings", run(images[:1]), expected[:1]) < TOLERANCE


def test_mlp_mixer():
    model, images = create_model("mlp_mixer", width=0.1, layers=2, patch_size=4), drawn((3, 16, 16, 3))
    variables = variables_of(model, images)
    graph = fold.fold(model, variables, 16)
    expected = np.asarray(jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images))
    assert (
        artifacts.difference("embeddings", np.asarray(jax.jit(make_run(graph))(arrays_of(graph), images)), expected)
        < 1e-5
    )
    run = by_onnx(graph, onnx_writer.NO_LOWERING)
    assert artifacts.difference("embeddings", run(images), expected) < TOLERANCE
    assert artifacts.difference("embeddings", run(images[:1]), expected[:1]) < TOLERANCE


def test_other_formats_say_what_they_hold():
    graph, module = Graph(8), make("involution")
    variables = randomized(all_shapes(module, drawn((1, 8, 8, 3))))
    folding = fold.Folding(None, {collection: {"layer": tree} for collection, tree in variables.items()}, 8)
    folding.module(0, module, "layer")
    artifacts.check_formats(folding.graph, ["onnx"])
    artifacts.check_formats(graph, ["onnx", "torch", "native"])
    with pytest.raises(
        UserError,
        match="Involution cannot be frozen; torch and native artifacts hold operators that can: depth.*",
    ):
        artifacts.check_formats(folding.graph, ["onnx", "torch", "native"])


def test_a_module_without_an_onnx_form_is_named():
    with pytest.raises(
        UserError, match="DepthwiseConv has no ONNX form; what has: CondConv, .*; add a row to MODULES."
    ):
        operators.write(None, DepthwiseConv(), {}, "images", (8, 8, 3))
