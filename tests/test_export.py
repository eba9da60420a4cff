"""Export: the folded graph and every artifact answer as the JAX model does; what does not fit leaves nothing behind."""

import ast
import itertools
import json
import os
import sys
from pathlib import Path

import jax
import numpy as np
import onnx
import pytest
import torch
from cached_runs import untrained

from tvconv_jax import create_model
from tvconv_jax.edge import benchmark
from tvconv_jax.export import artifacts, exporting, owned
from tvconv_jax.export.__main__ import main
from tvconv_jax.export.fold import fold
from tvconv_jax.export.graph import Graph
from tvconv_jax.export.interpreter import arrays_of, make_run
from tvconv_jax.export.low_rank import Rank, likely_order, parse_rank, truncate
from tvconv_jax.export.native import native
from tvconv_jax.export.onnx import writer as onnx_writer
from tvconv_jax.export.onnx.channel_blocks import in_blocks
from tvconv_jax.export.onnx.speed import runner
from tvconv_jax.export.quantize import quantize
from tvconv_jax.export.rank_search import find_rank, fine_tune, second_moments, shared_distances
from tvconv_jax.export.torch import model as torch_model
from tvconv_jax.export.torch import writer as torch_writer
from tvconv_jax.metrics.paired import Comparison
from tvconv_jax.tasks import trained
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import is_left_over
from tvconv_jax.utils.sizes import height_width

pytestmark = pytest.mark.usefixtures("barely_optimized")

TOLERANCE = 1e-4  # relative; float32 through 60 layers of random weights, in another order
SMALL = {"depth": 0.5, "hidden_channels": 4, "hidden_layers": 0}  # what is left has every kind of block
# name: (size, fields); every kind of node stands in one of them.
MODELS = {
    "mobilenetv2": ((32, 24), {"width": 0.1, "operator": "tvconv", "stages": (1, 2, 7), "use_bias": True, **SMALL}),
    "shufflenetv2": ((24, 40), {"width": 0.5, "operator": "tvconv_lowrank", "rank": 2, **SMALL}),
    "deeplabv3plus": ((48, 72), {"operator": "tvconv", **SMALL}),
}


def drawn(shape, scale=1.0):
    return scale * np.random.RandomState(sum(shape)).standard_normal(shape).astype(np.float32)


def drawn_variable(name, shape):
    """A variable as training might leave it; nothing is compiled to make it."""
    if name in ("scale", "var"):
        return 1 + 0.2 * np.square(drawn(shape))
    spread = {"bias": 0.1, "mean": 0.1, "affinity": 0.3}.get(name, np.sqrt(2 / np.prod(shape[:-1])))
    return drawn(shape, spread) + (name == "affinity")


def drawn_model(name, size, fields):
    """The graph of a model with statistics and maps as training leaves them, images, and its outputs."""
    model, images = create_model(name, **fields), drawn((3, *height_width(size), 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = jax.tree_util.tree_map_with_path(lambda path, leaf: drawn_variable(path[-1].key, leaf.shape), shapes)
    expected = np.asarray(jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images))
    return fold(model, variables, size), images, expected


@pytest.fixture(scope="module", params=MODELS)
def folded(request):
    return drawn_model(request.param, *MODELS[request.param])


def kernels_of(node):
    """The kernel at every pixel of a node of low rank."""
    kernels, gains = node.arrays["kernels"], node.arrays["gains"]
    gains = np.concatenate([np.ones_like(gains[: len(kernels) - len(gains)]), gains])
    terms = np.einsum("rhwc,rijc->hwijc", gains, kernels)
    return terms.reshape(*terms.shape[:2], -1, terms.shape[4])


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def channels_first(array):
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if array.ndim == 4 else array


def by_jax(graph, images):
    return np.asarray(jax.jit(make_run(graph))(arrays_of(graph), images))


def by_onnx(graph, images, lowering="unfold", **options):
    model = onnx_writer.to_onnx(graph, "{}", output="y", lowering=lowering, **options)
    return runner(model)(channels_first(images))


def by_torch(graph, images, path, **options):
    path.write_bytes(torch_writer.to_safetensors(graph, {}, **options))
    with torch.inference_mode():
        return torch_model.load(path)(torch.from_numpy(channels_first(images))).numpy()


def by_native(graph, images, path):
    about = {"input": {"shape": [None, 3, *graph.shapes[0][:2]]}}
    path.write_bytes(torch_writer.to_safetensors(graph, about))
    return native.load(path, threads=2)(channels_first(images))


def test_folding_changes_nothing_but_rounding(folded):
    graph, images, expected = folded
    assert relative(by_jax(graph, images), expected) < TOLERANCE


def test_onnx_answers_alike_in_any_batch(folded):
    graph, images, expected = folded
    names = onnx_writer.lowerings(graph)
    assert len(names) == 4 and {name for name in names if name.endswith("-blocks")}
    for lowering in names:
        assert relative(by_onnx(graph, images, lowering=lowering), channels_first(expected)) < TOLERANCE, lowering
        assert relative(by_onnx(graph, images[:1], lowering=lowering), channels_first(expected[:1])) < TOLERANCE


@pytest.mark.parametrize(
    "name, fields",
    [
        ("mobilenetv2", {"head_pool": "gdc", "num_classes": 3, "coordinates": True}),
        ("mobilenetv2", {"head_pool": "flatten", "num_classes": 5, "width": 0.2}),
        ("mobilenetv2", {"head_pool": "gdc", "embedding_size": 9}),
        ("shufflenetv2", {"head_pool": "flatten", "embedding_size": 9, "width": 0.5, "coordinates": True}),
        ("mlp_mixer", {"num_classes": 3, "layers": 1, "patch_size": 8}),
    ],
)
def test_heads_and_coordinates_answer_alike_in_every_format(name, fields, tmp_path):
    fields = {"width": 0.1, **({"operator": "depthwise", "depth": 0.1} if name != "mlp_mixer" else {}), **fields}
    graph, images, expected = drawn_model(name, (24, 40), fields)
    assert expected.shape == (3, fields.get("num_classes") or fields["embedding_size"])
    assert relative(by_jax(graph, images), expected) < TOLERANCE
    for lowering in onnx_writer.lowerings(graph):
        assert relative(by_onnx(graph, images, lowering=lowering), expected) < TOLERANCE
    if name != "mlp_mixer":
        assert relative(by_torch(graph, images, tmp_path / "model.safetensors"), expected) < TOLERANCE
        assert relative(by_native(graph, images, tmp_path / "model.safetensors"), expected) < TOLERANCE


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_learned_average_is_stored_in_fewer_bits(precision, tmp_path):
    graph, images = Graph((6, 5)), drawn((2, 6, 5, 3))
    x = graph.add("global_depthwise", 0, arrays={"weights": drawn((6, 5, 1, 3))})
    graph.add("linear", x, arrays={"kernel": drawn((3, 4)), "bias": drawn((4,))})
    graph = quantize(graph, precision)
    expected = by_jax(graph, images)
    assert relative(by_onnx(graph, images, lowering="plain", precision=precision), expected) < TOLERANCE
    assert relative(by_torch(graph, images, tmp_path / "m.safetensors", precision=precision), expected) < TOLERANCE


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_channels_in_blocks_are_the_same_model(folded, precision):
    graph, images, _ = folded
    graph = quantize(graph, precision)
    filled = in_blocks(graph)
    assert relative(by_jax(filled, images), by_jax(graph, images)) < TOLERANCE
    stored = by_onnx(filled, images, precision=precision)
    assert relative(stored, channels_first(by_jax(graph, images))) < TOLERANCE
    assert filled.shapes[0] == graph.shapes[0] and filled.shapes[-1] == graph.shapes[-1]


def test_what_is_summed_is_filled_up_alike_and_what_is_sliced_or_joined_keeps_its_channels():
    graph = Graph(6)

    def point(x, features):
        arrays = {"kernel": drawn((1, 1, graph.shapes[x][2], features)), "bias": drawn((features,))}
        fields = {"strides": 1, "padding": 0, "dilation": 1, "groups": 1, "activation": "relu"}
        return graph.add("conv", x, arrays=arrays, **fields)

    def depthwise(x):
        channels = graph.shapes[x][2]
        fields = {"strides": 1, "padding": 1, "dilation": 1, "groups": channels, "activation": "relu6"}
        return graph.add("conv", x, arrays={"kernel": drawn((3, 3, 1, channels)), "bias": drawn((channels,))}, **fields)

    x = point(0, 6)
    total = graph.add("add", x, point(depthwise(point(x, 9)), 6))
    half = graph.add("channels", point(total, 10), begin=0, end=5)
    joined = graph.add("concat", half, point(depthwise(point(half, 7)), 5))
    graph.add("mean", point(joined, 3), keep_grid=False)
    filled = in_blocks(graph, 4)
    assert [c for _, _, c in graph.shapes] == [3, 6, 9, 9, 6, 6, 10, 5, 7, 7, 5, 10, 3, 3]
    assert [c for _, _, c in filled.shapes] == [3, 8, 12, 12, 8, 8, 10, 5, 8, 8, 5, 10, 3, 3]
    images = drawn((2, 6, 6, 3))
    np.testing.assert_allclose(by_jax(filled, images), by_jax(graph, images), rtol=1e-4)


def test_one_channel_is_filled_up_too_and_a_scale_for_all_stays_one():
    graph, images = Graph(6), drawn((2, 6, 6, 3))
    plain = {"strides": 1, "padding": 0, "dilation": 1, "groups": 1, "activation": "relu"}
    x = graph.add("conv", 0, arrays={"kernel": drawn((1, 1, 3, 1)), "bias": drawn((1,))}, **plain)
    x = graph.add("conv", x, arrays={"kernel": drawn((1, 1, 1, 5)), "bias": drawn((6, 6, 5))}, **plain)
    graph.add("linear", graph.add("mean", x, keep_grid=False), arrays={"kernel": drawn((5, 2)), "bias": drawn((2,))})
    for precision in ("float32", "int8"):
        filled = in_blocks(quantize(graph, precision), 4)
        assert [shape[2] for shape in filled.shapes] == [3, 4, 8, 8, 2]
        np.testing.assert_allclose(by_jax(filled, images), by_jax(quantize(graph, precision), images), rtol=1e-5)


def test_torch_answers_alike_and_the_file_imports_torch_alone(folded, tmp_path):
    graph, images, expected = folded
    assert relative(by_torch(graph, images, tmp_path / "m.safetensors"), channels_first(expected)) < TOLERANCE
    model = torch_model.load(tmp_path / "m.safetensors").to(memory_format=torch.channels_last)
    with torch.inference_mode():
        found = model(torch.from_numpy(channels_first(images)).to(memory_format=torch.channels_last)).numpy()
    assert relative(found, channels_first(expected)) < TOLERANCE
    imports = [line for line in Path(torch_model.__file__).read_text().splitlines() if "import " in line[:20]]
    assert {line.split()[1].split(".")[0] for line in imports if line[0] != " "} == {"json", "struct", "torch"}


def test_the_native_engine_answers_alike(folded, tmp_path):
    graph, images, expected = folded
    found = by_native(graph, images, tmp_path / "m.safetensors")
    assert found.flags.c_contiguous or found.ndim == 2
    assert relative(found, channels_first(expected)) < TOLERANCE


@pytest.mark.parametrize(
    ("operator", "size", "fields"),
    [
        ("baseline", 128, {}),  # on a grid of 8x8 the dilated kernels see more than their middle
        ("depthwise", 128, {}),
        ("depthwise", (37, 58), {"width": 0.25, "output_stride": 8, "num_classes": 5}),
    ],
)
def test_segmentation_models_without_tvconv_answer_alike(operator, size, fields, tmp_path):
    graph, images, expected = drawn_model("deeplabv3plus", size, {"operator": operator, "depth": 0.5, **fields})
    found = by_onnx(graph, images, lowering=onnx_writer.lowerings(graph)[0])
    assert relative(found, channels_first(expected)) < TOLERANCE
    for by in (by_torch, by_native):
        assert relative(by(graph, images, tmp_path / "m.safetensors"), channels_first(expected)) < TOLERANCE


@pytest.mark.parametrize("module", [torch_model, native, benchmark])
def test_what_goes_to_a_device_is_python_3_9(module):
    """Its syntax, and no ``zip(strict=True)``."""
    tree = ast.parse(Path(module.__file__).read_text(), feature_version=(3, 9))
    assert "strict" not in {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}


@pytest.mark.parametrize(("side", "to"), [(26, 106), (7, 50), (1, 3), (11, 4)])
def test_a_grid_is_resized_to_what_it_should(side, to):
    """Of 26 pixels the float32 quotient 106 / 26 makes 105."""
    graph, images = Graph(side), drawn((2, side, side, 3))
    graph.add("resize", 0, grid=(to, to))
    for n in (1, 2):
        found, expected = by_onnx(graph, images[:n]), channels_first(by_jax(graph, images[:n]))
        assert found.shape == expected.shape and relative(found, expected) < TOLERANCE


def test_scales_make_every_grid():
    sides = np.arange(1, 200)
    for to in range(1, 200):
        scales = np.array([onnx_writer.scale(int(side), to) for side in sides])
        assert np.all(np.floor(scales * sides.astype(np.float32)) == to)  # as onnxruntime computes it
        assert np.all(np.abs(scales * sides / to - 1) < 2e-7)


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_stored_weights_are_those_of_the_quantized_graph(folded, precision, tmp_path):
    graph, images, expected = folded
    small = quantize(graph, precision)
    ours = channels_first(by_jax(small, images))
    found = {
        "onnx": by_onnx(small, images, precision=precision),
        "slices": by_onnx(small, images, precision=precision, lowering="slices"),
        "torch": by_torch(small, images, tmp_path / "m.safetensors", precision=precision),
    }
    for runtime, answers in found.items():
        assert relative(answers, ours) < TOLERANCE, runtime
    assert relative(ours, channels_first(expected)) > TOLERANCE  # it is not the exact model any more
    sizes = [len(torch_writer.to_safetensors(quantize(graph, p), {}, precision=p)) for p in ("float32", precision)]
    assert sizes[0] / sizes[1] > {"float16": 1.8, "int8": 2.9}[precision]


def test_float16_holds_kernels_beyond_its_largest_number(tmp_path):
    """A channel that is nearly dead has a tiny variance, and so kernels of any size once its norm is folded."""
    graph, weights, x = Graph(6), drawn((6, 6, 9, 3)), drawn((2, 6, 6, 3))
    weights[..., 1] *= 1e6
    y = graph.add("per_pixel", 0, arrays={"weights": weights, "bias": drawn((3,))}, strides=1, activation="identity")
    graph.add("mean", y, keep_grid=False)
    half = quantize(graph, "float16")
    stored = half.nodes[0].arrays["weights"]
    assert np.all(np.abs(stored - weights) <= 2.0**-11 * np.abs(weights) + 1e-7)
    ours = by_jax(half, x)
    for found in (
        by_onnx(half, x, precision="float16"),
        by_onnx(half, x, precision="float16", lowering="slices"),
        by_torch(half, x, tmp_path / "m.safetensors", precision="float16"),
    ):
        np.testing.assert_allclose(found, ours, rtol=1e-5)


def test_full_rank_is_exact_and_less_is_the_best_approximation():
    weights = drawn((5, 4, 9, 3))
    graph = Graph(5)
    graph.shapes[0] = (5, 4, 3)
    graph.add("per_pixel", 0, arrays={"weights": weights, "bias": drawn((3,))}, strides=1, activation="identity")

    def field(graph):
        (node,) = graph.nodes
        return kernels_of(node).reshape(weights.shape)

    np.testing.assert_allclose(field(truncate(graph, Rank(9))[0]), weights, atol=1e-5)
    for rank in (1, 2, 3):
        lower, (kept,) = truncate(graph, Rank(rank))
        assert [len(lower.nodes[0].arrays[name]) for name in ("kernels", "gains")] == [rank, max(rank - 1, 1)]
        lost = np.square(field(lower) - weights).sum((0, 1, 2)) / np.square(weights).sum((0, 1, 2))
        np.testing.assert_allclose(1 - kept, lost, atol=1e-5)
        matrix = weights[..., 0].reshape(20, 9)
        centered = (
            matrix - matrix.mean(0) if rank > 1 else matrix
        )  # the best flat through points goes through their mean
        values = np.square(np.linalg.svd(centered, compute_uv=False))[rank - (rank > 1) :]
        np.testing.assert_allclose(lost[0], values.sum() / np.square(matrix).sum(), rtol=1e-4)


@pytest.mark.parametrize("rank", [1, 2])
def test_with_moments_the_answers_are_approximated_not_the_kernels(rank):
    """Taps of the first row see nothing at the upper border; channel 1 is dead."""
    weights, seen = drawn((4, 4, 9, 2)), drawn((200, 4, 4, 9, 2))
    seen[:, 0, :, :3], seen[..., 1] = 0, 0
    graph = Graph(4)
    graph.shapes[0] = (4, 4, 2)
    graph.add("per_pixel", 0, arrays={"weights": weights, "bias": drawn((2,))}, strides=1, activation="identity")
    exact, shares = np.einsum("hwtc,nhwtc->nhwc", weights, seen), []
    for moments in (None, [np.einsum("nhwtc,nhwuc->hwtuc", seen, seen) / len(seen)]):
        lower, (kept,) = truncate(graph, Rank(rank), moments)
        found = np.einsum("hwtc,nhwtc->nhwc", kernels_of(lower.nodes[0]), seen)
        shares.append(1 - np.square(found - exact)[..., 0].sum() / np.square(exact)[..., 0].sum())
    assert shares[1] > shares[0] + 0.01 and kept[0] == pytest.approx(shares[1], abs=1e-4)
    assert np.all(np.isfinite(kernels_of(lower.nodes[0])))


@pytest.mark.parametrize("with_moments", [False, True])
def test_a_shared_kernel_is_the_nearest_to_those_of_all_pixels(with_moments):
    weights, seen = drawn((4, 4, 9, 2)), drawn((200, 4, 4, 9, 2))
    seen[:, 0, :, :3] = 0
    graph = Graph(4)
    graph.shapes[0] = (4, 4, 2)
    for _ in range(2):
        arrays = {"weights": weights, "bias": drawn((2,))}
        graph.add("per_pixel", len(graph.nodes), arrays=arrays, strides=1, activation="relu6")
    products = np.einsum("nhwtc,nhwuc->hwtuc", seen, seen) / len(seen)
    lower, kept = truncate(graph, Rank(1, 1), [products] * 2 if with_moments else None, [0])
    first, second = lower.nodes
    assert (first.kind, second.kind) == ("conv", "low_rank") and lower.shapes == graph.shapes
    assert first.fields == {"strides": 1, "padding": 1, "dilation": 1, "groups": 2, "activation": "relu6"}
    np.testing.assert_array_equal(first.arrays["bias"], graph.nodes[0].arrays["bias"])
    if with_moments:
        exact = np.einsum("hwtc,nhwtc->nhwc", weights, seen)
        patches, answers = seen.reshape(-1, 9, 2), exact.reshape(-1, 2)
    else:
        patches, answers = np.tile(np.eye(9)[..., None], (16, 1, 2)), weights.reshape(-1, 2)
    for channel in range(2):
        kernel, lost, *_ = np.linalg.lstsq(patches[..., channel], answers[:, channel], rcond=None)
        np.testing.assert_allclose(first.arrays["kernel"][..., 0, channel].ravel(), kernel, atol=1e-4)
        assert kept[0][channel] == pytest.approx(1 - lost[0] / np.square(answers[:, channel]).sum(), abs=1e-4)


@pytest.mark.parametrize("text", ["1", "12", "2:10"])
def test_ranks_are_read_as_they_are_written(text):
    assert str(parse_rank(text)) == text


@pytest.mark.parametrize("text", ["", "0", "-1", "1:", ":6", "1:-2", "1:2:3", "one", "0:3"])
def test_what_is_no_rank_is_refused(text):
    with pytest.raises(ValueError, match="must be a rank, 1, 2"):
        parse_rank(text)


def test_more_shared_kernels_than_layers_and_a_bias_for_every_pixel_are_refused():
    graph = Graph(4)
    arrays = {"weights": drawn((4, 4, 9, 3)), "bias": drawn((4, 4, 3))}
    graph.add("per_pixel", 0, arrays=arrays, strides=1, activation="relu6")
    with pytest.raises(UserError, match="rank 1:1 has 1 shared-kernel layers; of this model 0 can be"):
        truncate(graph, Rank(1, 1))
    arrays["bias"] = drawn((3,))
    graph.add("per_pixel", 1, arrays=arrays, strides=1, activation="relu6")
    assert [node.kind for node in truncate(graph, Rank(1, 1))[0].nodes] == ["low_rank", "conv"]
    with pytest.raises(UserError, match="rank 1:2 has 2 shared-kernel layers; of this model 1 can be"):
        truncate(graph, Rank(1, 2))


def three_layers():
    """Per-pixel layers on a small grid; a shortcut goes around the second, and a convolution stands behind each."""
    graph, x = Graph(6), 0
    kernel = {"kernel": 0.3 * drawn((1, 1, 3, 3)), "bias": drawn((3,))}
    conv = {"strides": 1, "padding": 0, "dilation": 1, "groups": 1, "activation": "identity"}
    for layer in range(3):
        arrays = {"weights": drawn((6, 6, 9, 3)), "bias": drawn((3,))}
        y = graph.add("per_pixel", x, arrays=arrays, strides=1, activation="relu6")
        y = graph.add("conv", y, arrays=kernel, **conv)
        x = graph.add("add", x, y) if layer == 1 else y
    graph.add("linear", graph.add("mean", x, keep_grid=False), arrays={"kernel": drawn((3, 4)), "bias": drawn((4,))})
    return graph


def test_layers_in_a_shortcut_are_the_first_to_share_their_kernel():
    assert likely_order(three_layers()) == [1, 2, 0]
    lower, _ = truncate(three_layers(), Rank(1, 2))
    spatial = [node.kind for node in lower.nodes if node.kind == "low_rank" or node.fields.get("groups") == 3]
    assert spatial == ["low_rank", "conv", "conv"]


@pytest.mark.parametrize("same", [0, 1, 2])
def test_layers_share_their_kernel_in_the_order_of_their_distances(same):
    """A layer whose kernels are the same at all pixels loses nothing; another that is nearly so little."""
    graph, places = three_layers(), (0, 2, 5)
    for layer, place in enumerate(places):
        weights = graph.nodes[place].arrays["weights"]
        spread = {same: 0, (same + 1) % 3: 1e-2}.get(layer, 1)
        weights[:] = weights[:1, :1] + spread * (weights - weights[:1, :1])
    batch = np.random.RandomState(0).randint(0, 256, (20, 6, 6, 3), np.uint8)
    moments = second_moments(graph, iter([batch]))
    distances = shared_distances(graph, moments, iter([batch]), count=16)
    order = list(distances)
    assert order == [same, (same + 1) % 3, (same + 2) % 3] and distances[same] < 1e-6 < distances[order[1]]
    kinds = [truncate(graph, Rank(1, 1), moments, order)[0].nodes[place].kind for place in places]
    assert kinds == ["conv" if layer == same else "low_rank" for layer in range(3)]


def test_moments_are_means_of_products_of_what_taps_see():
    """By hand: a layer of strides 2 on the image itself."""
    graph = Graph(6)
    weights = drawn((3, 3, 9, 3))
    graph.add("per_pixel", 0, arrays={"weights": weights, "bias": drawn((3,))}, strides=2, activation="identity")
    images = np.random.RandomState(0).randint(0, 256, (5, 6, 6, 3), np.uint8)
    (found,) = second_moments(graph, iter([images[:4], images[1:]]), count=8)
    x = np.pad(np.concatenate([images[:4], images[1:]]) / 127.5 - 1, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for t, u in ((0, 0), (0, 5), (8, 4)):
        one, other = (x[:, i : i + 5 : 2, j : j + 5 : 2] for i, j in (divmod(t, 3), divmod(u, 3)))
        np.testing.assert_allclose(found[:, :, t, u], (one * other).mean(0), atol=1e-5)


@pytest.mark.parametrize("rank", [Rank(1), Rank(2), Rank(2, 1)], ids=str)
def test_a_truncated_model_is_the_jax_model_with_truncated_kernels(folded, rank, tmp_path):
    """The same kernels, once as a sum of gains times depthwise convolutions, once as a kernel a pixel."""
    graph, images, _ = folded
    biases = [node.arrays["bias"].ndim for node in graph.nodes if node.kind == "per_pixel"]
    if rank.shared and (not biases or max(biases) > 1):
        with pytest.raises(UserError, match="rank 2:1"):
            truncate(graph, rank)
        return
    lower, kept = truncate(graph, rank)

    def whole(node):
        if node.kind != "low_rank":
            return node
        arrays = {"weights": kernels_of(node), "bias": node.arrays["bias"]}
        return node._replace(kind="per_pixel", arrays=arrays)

    expected = by_jax(lower.map(whole), images)
    for lowering in onnx_writer.lowerings(lower):
        assert relative(by_onnx(lower, images, lowering=lowering), channels_first(expected)) < TOLERANCE, lowering
    assert relative(by_torch(lower, images, tmp_path / "m.safetensors"), channels_first(expected)) < TOLERANCE
    assert all(np.all((0 < share) & (share <= 1)) for share in kept)


@pytest.mark.parametrize("unit_length", [True, False])
def test_fine_tuning_brings_a_truncated_graph_closer(unit_length):
    graph = Graph(6)
    arrays = {"weights": drawn((6, 6, 9, 3)), "bias": np.zeros(3, np.float32)}
    x = graph.add("per_pixel", 0, arrays=arrays, strides=1, activation="identity")
    graph.add("linear", graph.add("mean", x, keep_grid=False), arrays={"kernel": drawn((3, 4)), "bias": drawn((4,))})
    lower, _ = truncate(graph, Rank(1))
    random = np.random.default_rng(0)
    batches = (random.integers(0, 255, (16, 6, 6, 3), np.uint8) for _ in itertools.count())
    with jax.numpy_dtype_promotion("standard"):  # Adam takes a number to the power of the step
        tuned = fine_tune(lower, graph, lambda: batches, steps=200, learning_rate=1e-2, unit_length=unit_length)
    images = drawn((32, 6, 6, 3))
    before, after = (relative(by_jax(g, images), by_jax(graph, images)) for g in (lower, tuned))
    assert after < 0.7 * before


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("run"))


def test_fine_tuning_is_given_the_training_images_of_old_runs_too(run, tmp_path):
    """A run from before ``data.timeout`` was a key."""
    config = json.loads((run / "config.json").read_text())
    del config["data"]["timeout"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "checkpoints").symlink_to(run / "checkpoints")
    found = trained.load(tmp_path)
    batch = next(found.batches())
    assert batch.shape == (config["data"]["batch_size"], *found.images.shape[1:]) and batch.dtype == np.uint8


def test_the_command_writes_what_it_says_and_its_figures(run, tmp_path, capsys):
    out = tmp_path / "out"
    main([f"--workdir={run}", f"--out={out}", "--rank=1", "--precision=float16", "--formats=onnx,torch,native"])
    printed = capsys.readouterr().out
    names = {"model.onnx", "model.safetensors", "model.py", "model.pt2", "native.py", "native.cpp", "check.npz"}
    assert {path.name for path in out.iterdir()} == names | {"verify.py"}
    assert "Compare two photographs: python -m tvconv_jax.verify" in printed
    assert "note: the run has not ended; this is its model after step 0" in printed
    assert "rank 1; energy of the outputs kept" in printed and "same identity: cosine above" in printed
    model = onnx.load(out / "model.onnx")
    assert (model.ir_version, model.opset_import[0].version) == (8, 17)
    metadata = json.loads(model.metadata_props[0].value)
    same, _ = torch_model.read(out / "model.safetensors")
    program = {"tvconv_jax.json": ""}
    loaded = torch.export.load(out / "model.pt2", extra_files=program)
    assert all(batch.upper > 1 << 40 for batch in loaded.range_constraints.values())  # as many images as one likes
    for one in (metadata, same, json.loads(program["tvconv_jax.json"])):
        assert one["rank"] == "1" and one["input"]["colour"] == "RGB" and one["config"]["task"] == "face"
        assert one["verified"] is True
        assert one["thresholds"]["squared_l2"] == pytest.approx(2 - 2 * one["thresholds"]["cosine"])
        sets = [one["accuracy"][name] for name in ("light", "expression", "pose", "occlusion")]
        assert one["accuracy"]["mean"] == pytest.approx(np.mean(sets))
    with np.load(out / "check.npz") as check:
        answers = runner(out / "model.onnx")(check["images"])
        assert artifacts.difference("embeddings", answers, check["embeddings"]) < 1e-4


@pytest.mark.parametrize(
    ("root", "hint"), [("faces", "data pairs faces) and export again"), ("tfds:lfw", "data.verify_root")]
)
def test_without_pairs_the_report_and_the_metadata_say_that_there_is_no_threshold(root, hint, run, tmp_path):
    """Whoever exports it, or reads the file, is told; nothing is measured, so nothing is invented."""
    found = trained.load(run)
    found.config.data.update({"source": "folder", "root": root})
    found = found._replace(verify=None)
    graph = Graph(6)
    x = graph.add("mean", 0, keep_grid=False)
    graph.add("linear", x, arrays={"kernel": drawn((3, 4)), "bias": drawn((4,))})
    about = exporting._metadata(found, graph, "exact", "float32", None)
    assert about["verified"] is False and about["thresholds"] is None and about["accuracy"] is None
    outputs = np.ones((2, 4))
    (line,) = [line for line in exporting._report(found, [], None, outputs, outputs) if "threshold" in line]
    assert line.startswith("no threshold: the run has no verification pairs") and hint in line
    logits = found._replace(output="logits")
    assert "verified" not in exporting._metadata(logits, graph, "exact", "float32", None)
    assert not any("threshold" in line for line in exporting._report(logits, [], None, outputs, outputs))


def test_a_classifier_of_images_that_are_not_square_is_exported_with_its_classes(run, tmp_path, monkeypatch):
    fields = {"width": 0.1, "depth": 0.1, "hidden_channels": 4, "hidden_layers": 0, "stages": (1, 7)}
    fields |= {"num_classes": 3, "head_pool": "gdc", "coordinates": True}
    model = create_model("mobilenetv2", operator="tvconv", **fields)
    images = np.random.default_rng(0).integers(0, 256, (16, 16, 24, 3), np.uint8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images.astype(np.float32))
    variables = jax.tree_util.tree_map_with_path(lambda path, leaf: drawn_variable(path[-1].key, leaf.shape), shapes)
    about = {"task": "classification", "classes": ["good", "scratch", "hole"], "temperature": 1.5}
    changed = {"model": model, "variables": variables, "images": images, "output": "logits", "metadata": about}
    found = trained.load(run)._replace(verify=None, comparison=None, batches=lambda: (images for _ in range(99)))
    monkeypatch.setattr(trained, "load", lambda workdir, best: found._replace(**changed))
    out = tmp_path / "out"
    written = exporting.export(run, out, formats=("onnx", "torch", "native"), rank="1")
    assert {item.file for item in written.artifacts} == {"model.onnx", "model.safetensors", "model.pt2"}
    metadata = json.loads(onnx.load(out / "model.onnx").metadata_props[0].value)
    assert (metadata["input"]["shape"], metadata["output"]["shape"]) == ([None, 3, 16, 24], [None, 3])
    assert metadata.items() >= about.items() and "verified" not in metadata
    for name in ("model.onnx", "model.safetensors", "model.pt2"):
        benchmark.main([str(out / name), "--batch=1", "--threads=1", "--seconds=0"])  # compares with check.npz
    assert not (out / "verify.py").exists()


@pytest.mark.parametrize("lacking", ["onnx", "onnxruntime", "torch"])
def test_a_missing_package_is_said_before_anything_is_computed(lacking, tmp_path, monkeypatch, refusal):
    monkeypatch.setitem(sys.modules, lacking, None)
    monkeypatch.setattr(trained, "load", None)
    line = f"error: {lacking} is not installed; --formats=onnx,torch needs it: pip install 'tvconv_jax[export]'.\n"
    assert refusal(main, "--workdir=any", f"--out={tmp_path / 'out'}") == line and not (tmp_path / "out").exists()


def test_a_missing_compiler_is_said_before_anything_is_computed(tmp_path, monkeypatch, refusal):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(trained, "load", None)
    assert "there is no C++ compiler (no-such-compiler): sudo apt-get install g++" in refusal(
        main, "--workdir=any", f"--out={tmp_path / 'out'}", "--formats=native"
    )


def search(graph, rank, *, means=None, lines=None):
    """Searches a rank on random images; ``means`` are the accuracies found one after the other, of 1,000 pairs."""
    images = np.random.RandomState(0).randint(0, 256, (16, 6, 6, 3), np.uint8)
    options = {"max_loss": 0.2, "fine_tune_steps": 0, "precision": "float32", "lines": [] if lines is None else lines}
    scores = (np.arange(1000) < round(1000 * mean) for mean in means or ())
    weights = np.full(1000, 1e-3)
    comparison = Comparison(lambda embed: next(scores).astype(float), weights, "pairs", "accuracy", 1e-3)
    return find_rank(graph, rank, lambda: (batch for batch in [images]), comparison if means else None, **options)


def test_more_terms_than_taps_are_as_many_as_there_are():
    graph, arrays = Graph(6), {"weights": drawn((6, 6, 9, 3)), "bias": drawn((3,))}
    graph.add("per_pixel", 0, arrays=arrays, strides=1, activation="identity")
    found, rank, choice = search(graph, "12")
    assert rank == Rank(9) and len(found.nodes[0].arrays["kernels"]) == 9 and choice is None
    with pytest.raises(UserError, match="judges by verification pairs or test images, and this run has none"):
        search(graph, "auto")


@pytest.mark.parametrize(
    ("means", "found", "tried"),
    [
        ([0.9, 0.899], Rank(1, 1), ["1:1"]),
        ([0.9, 0.85, 0.85, 0.85, 0.9], Rank(2), ["1:1", "2:1", "1", "2"]),
        ([0.9, *6 * [0.85]], None, ["1:1", "2:1", "1", "2", "3", "4", "exact"]),
    ],
)
def test_auto_takes_the_first_that_loses_little_and_else_exact_kernels(means, found, tried):
    lines, exact = [], three_layers()
    graph, rank, choice = search(exact, "auto", means=means, lines=lines)
    assert rank == found and [one.name for one in choice.tried] == tried
    assert (graph is exact) == (found is None)
    assert sum(node.fields.get("groups") == 3 for node in graph.nodes) == (found.shared if found else 0)
    assert "one per-pixel layer alone shares its kernel" in lines[0]


def test_auto_shows_its_figures_and_the_files_hold_them(run, tmp_path, capsys):
    """The 80 pairs of this run can tell no loss below 1.25 points, so a larger one is allowed."""
    out = tmp_path / "out"
    options = ["--rank=auto", "--max-loss=60", "--fine-tune=0", "--formats=onnx", "--lowering=sums"]
    main([f"--workdir={run}", f"--out={out}", *options])
    printed = capsys.readouterr().out
    metadata = json.loads(onnx.load(out / "model.onnx").metadata_props[0].value)
    exact, taken = metadata["rank_search"]["tried"]
    assert (metadata["rank"], exact["rank"], taken["rank"]) == ("1", "exact", "1")  # the model has one layer
    assert taken["relative_speed"] > 0 and exact["relative_speed"] == 1 and taken["bytes"] < exact["bytes"]
    assert taken["accuracy"] == pytest.approx(metadata["accuracy"]["mean"])
    (row,) = (line.split() for line in printed.splitlines() if line.endswith("taken"))
    assert row[:4] == ["1", f"{taken['accuracy']:.2%}", f"{taken['points_lost']:.2f}", "±"]
    assert "on 80 pairs, without fine-tuning" in printed and "80 pairs are few" in printed


def linear_model():
    """A graph of one layer, and what :func:`artifacts.write` needs beside it."""
    graph, weights = Graph(6), {"kernel": drawn((3, 4)), "bias": drawn((4,))}
    graph.add("linear", graph.add("mean", 0, keep_grid=False), arrays=weights)
    metadata = {"input": {"shape": [None, 3, 6, 6]}, "output": {"name": "embeddings"}}
    images = drawn((2, 6, 6, 3))
    options = {"images": channels_first(images), "expected": by_jax(graph, images), "precision": "float32"}
    return lambda out, *formats: artifacts.write(out, graph, metadata, formats=formats, **options)


def test_files_of_formats_that_are_not_written_again_go_and_the_check_comes_last(tmp_path, monkeypatch):
    write, moved = linear_model(), []
    write(tmp_path, "onnx", "torch")
    for name in ("notes.txt", "model.onnx.bak"):
        (tmp_path / name).write_text("the user's own")
    (tmp_path / "native.py").mkdir()  # not a file that was exported
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda path, to: (moved.append(path.name), replace(path, to)))
    write(tmp_path, "onnx")
    names = {"model.onnx", "verify.py", "check.npz", "notes.txt", "model.onnx.bak", "native.py"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert [name for name in moved if not is_left_over(name)] == ["model.onnx", "verify.py", "check.npz"]


@pytest.mark.parametrize("name", [*artifacts.FILES, artifacts.CHECK])
@pytest.mark.parametrize("formats", [("onnx",), ("onnx", "torch")])
def test_a_file_that_no_export_wrote_is_neither_replaced_nor_removed(tmp_path, name, formats, monkeypatch):
    (tmp_path / name).write_text("# my code")
    monkeypatch.setattr(trained, "load", None)  # refused before the long work
    with pytest.raises(UserError, match=rf"^--out=.* holds {name}, a file that no export wrote.*, or move it away.$"):
        exporting.export(tmp_path, tmp_path, formats=formats)
    with pytest.raises(UserError, match="no export wrote"):  # and again when files are moved
        artifacts._publish(tmp_path / "part", tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "# my code")]


def test_a_file_that_was_changed_since_its_export_is_left_alone(tmp_path):
    write = linear_model()
    write(tmp_path, "torch")
    with (tmp_path / "model.py").open("a") as file:
        file.write("# a line of my own")
    (tmp_path / "elsewhere").write_bytes((tmp_path / "model.pt2").read_bytes())
    (tmp_path / "model.pt2").unlink()
    (tmp_path / "model.pt2").symlink_to("elsewhere")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match="holds model.pt2, model.py, files that no export wrote"):
        write(tmp_path, "onnx")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    np.savez(tmp_path / "check.npz", **{**np.load(tmp_path / "check.npz"), "embeddings": np.zeros((2, 4))})
    with pytest.raises(UserError, match="check.npz"):
        artifacts.check_folder(tmp_path)


def test_an_export_that_was_killed_while_it_wrote_can_be_repeated(tmp_path, monkeypatch):
    write, replace, moved = linear_model(), os.replace, []
    write(tmp_path, "onnx")

    def killed(path, to):
        if len(moved) == 2:  # what is about to be moved was noted, and one file moved
            raise KeyboardInterrupt
        moved.append(replace(path, to))

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, "torch")
    monkeypatch.setattr(os, "replace", replace)
    write(tmp_path, "torch")
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "model.py", "model.pt2", "check.npz"}


def test_what_one_killed_export_left_another_one_that_is_killed_does_not_forget(tmp_path):
    out, part = tmp_path / "out", tmp_path / "part"
    out.mkdir()
    part.mkdir()
    for text in ("of the first", "of the second"):
        (part / "model.py").write_text(text)
        owned.begin(part, out)
        (out / "model.py").write_text("of the first")  # the second one was killed before it moved its own
    owned.check_owned(out, artifacts.FILES)
    (out / "model.py").write_text("of the user")
    with pytest.raises(UserError, match="holds model.py, a file that no export wrote"):
        owned.check_owned(out, artifacts.FILES)


def test_a_folder_where_a_file_goes_is_refused_and_what_was_there_stays(tmp_path):
    write = linear_model()
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(UserError, match="holds a folder model.onnx, where a file goes; choose another --out."):
        write(tmp_path, "onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx"}


def test_a_wrong_artifact_is_refused_and_what_was_there_stays(run, tmp_path, monkeypatch, refusal):
    out = tmp_path / "out"
    linear_model()(out, "onnx")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr(onnx_writer, "LOWERINGS", ("slices",))
    monkeypatch.setattr(onnx_writer.Writer, "_activated", lambda self, x, activation: x)
    assert "model.onnx differs from the JAX model by" in refusal(
        main, f"--workdir={run}", f"--out={out}", "--formats=onnx"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workdir=nowhere"], "nowhere holds no run (config.json); name a workdir of tvconv_jax.main."),
        (["--workdir={run}", "--formats=tflite"], "'tflite' is unknown; there are: onnx, torch, native"),
        (["--workdir={run}", "--rank=0"], "'0' must be a rank, 1, 2, ..., or with shared-kernel layers 1:10"),
        (["--workdir={run}", "--rank=2:18"], "rank 2:18 has 18 shared-kernel layers; of this model"),
        (["--workdir={run}", "--best"], "holds no best checkpoint"),
        (["--workdir={run}", "--fine-tune=-1", "--rank=1"], "--fine-tune=-1 must be at least 0"),
        (["--workdir={run}", "--rank=auto", "--max-loss=nan"], "'nan' must be 0 or more, and finite"),
        (
            ["--workdir={run}", "--rank=auto"],
            "may lose 1 points, and one of the run's 80 pairs is 1.2 points, too much to judge by; give a rank "
            "yourself, --rank=1 --fine-tune=200, or allow --max-loss=1.3.",
        ),
        (
            ["--workdir={run}", "--rank=1", "--lowering=unfold"],
            "--lowering=unfold is not one of this model's lowerings at this --rank: auto, sums, convs, sums-blocks, ",
        ),
        (
            ["--workdir={run}", "--lowering=sums", "--formats=torch"],
            "--lowering=sums is for ONNX, this is --formats=torch",
        ),
        (["--workdir={run}", "--fine-tune=9"], "--fine-tune=9 is for low-rank kernels, and exact keeps all"),
        (
            ["--workdir={run}", "--max-loss=1", "--rank=2"],
            "--max-loss=1 is what --rank=auto may lose, this is --rank=2",
        ),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(run, tmp_path, arguments, words, refusal):
    assert words in refusal(main, *(argument.format(run=run) for argument in arguments), f"--out={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a file", "a file/below", "closed/new", "closed", "dangling"])
def test_a_folder_that_cannot_be_written_is_one_line_before_anything_is_computed(name, tmp_path, monkeypatch, refusal):
    (tmp_path / "a file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "closed").mkdir()
    access = os.access  # whoever runs tests may write anywhere, if it is root
    monkeypatch.setattr(os, "access", lambda path, mode: path.name != "closed" and access(path, mode))
    monkeypatch.setattr(trained, "load", None)
    error = refusal(main, "--workdir=any", f"--out={tmp_path / name}")
    assert error.startswith(f"error: --out={tmp_path / name} ")


def test_without_a_compiler_the_native_engine_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TVCONV_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    graph, weights = Graph(6), {"kernel": drawn((3, 4)), "bias": drawn((4,))}
    graph.add("linear", graph.add("mean", 0, keep_grid=False), arrays=weights)
    metadata = {"input": {"shape": [None, 3, 6, 6]}, "output": {"name": "embeddings"}}
    options = {"formats": ["native"], "precision": "float32", "expected": np.zeros((1, 4), np.float32)}
    with pytest.raises(UserError, match="there is no C.. compiler .*: sudo apt-get install g.., or set CXX"):
        artifacts.write(tmp_path / "out", graph, metadata, images=drawn((1, 3, 6, 6)), **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("data", [b"", b"junk" * 9, b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{}"])
def test_a_damaged_file_is_one_line(data, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is not a model exported by tvconv_jax, or is cut off"):
        torch_model.load(path)
