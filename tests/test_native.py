"""The native engine: equal to the PyTorch artifact on small graphs of every kind; one line where it cannot run."""

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tvconv_jax.edge import benchmark
from tvconv_jax.export.graph import Graph
from tvconv_jax.export.native import native
from tvconv_jax.export.quantize import quantize
from tvconv_jax.export.torch import model as torch_model
from tvconv_jax.export.torch import writer as torch_writer

TOLERANCE = 1e-5  # relative to the largest number: float32 sums in another order
POINT = {"strides": 1, "padding": 0, "dilation": 1, "groups": 1}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Compiled once, for these tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TVCONV_JAX_CACHE", str(tmp_path_factory.mktemp("native")))
        yield


def drawn(*shape):
    return np.random.RandomState(sum(shape)).standard_normal(shape).astype(np.float32)


def conv(graph, x, channels, *, side=1, strides=1, activation="relu6", padding=None, dilation=1):
    """A convolution over all channels."""
    fan_in = side * side * graph.shapes[x][2]
    arrays = {"kernel": drawn(side, side, graph.shapes[x][2], channels) / np.sqrt(fan_in), "bias": drawn(channels)}
    padding = dilation * (side // 2) if padding is None else padding
    fields = {**POINT, "strides": strides, "padding": padding, "dilation": dilation, "activation": activation}
    return graph.add("conv", x, arrays=arrays, **fields)


def spatial(graph, x, kind, *, side=3, strides=1, bias_map=False, activation="relu6"):
    """A spatial operator of that kind."""
    *grid, c = graph.shapes[x]
    grid = [(length - 1) // strides + 1 for length in grid]
    fields = {"strides": strides, "activation": activation}
    bias = drawn(*grid, c) if bias_map else drawn(c)
    if kind == "per_pixel":
        return graph.add(kind, x, arrays={"weights": drawn(*grid, side * side, c) / side, "bias": bias}, **fields)
    if kind == "low_rank":
        kernels, gains = drawn(2, side, side, c) / side, drawn(1 if bias_map else 2, *grid, c)
        arrays = {"kernels": kernels, "gains": gains, "bias": bias}  # with one gain less the first kernel has none
        return graph.add(kind, x, arrays=arrays, **fields)
    fields |= {"padding": side // 2, "dilation": 1, "groups": c}
    return graph.add("conv", x, arrays={"kernel": drawn(side, side, 1, c) / side, "bias": bias}, **fields)


def residual_blocks(kind, *, size=(13, 11), side=3, bias_map=False, channels=12):
    """Stem, a block without a wide tensor, one of each stride with one; the channels fill no whole vectors."""
    graph = Graph(size)
    x = conv(graph, spatial(graph, conv(graph, 0, 10, side=3), kind), channels, activation="identity")
    for strides in (1, 2):
        y = spatial(graph, conv(graph, x, 76), kind, side=side, strides=strides, bias_map=bias_map)
        y = conv(graph, y, channels, activation="identity")
        x = graph.add("add", x, y) if strides == 1 else y
    x = conv(graph, x, 37, activation="relu")
    x = graph.add("mean", x, keep_grid=False)
    graph.add("linear", x, arrays={"kernel": drawn(37, 21), "bias": drawn(21)})
    return graph


def split_units(kind, *, size=(17, 22)):
    """As ShuffleNet: a pool, a unit of two branches, one that splits its channels; a grid comes out."""
    graph = Graph(size)
    x = graph.add("max_pool", conv(graph, 0, 24, side=3, strides=2, activation="relu"))
    left = conv(graph, spatial(graph, x, kind, strides=2, activation="identity"), 29, activation="relu")
    right = spatial(graph, conv(graph, x, 29, activation="relu"), kind, strides=2, activation="identity")
    x = graph.add("shuffle", graph.add("concat", left, conv(graph, right, 29, activation="relu")))
    left, right = graph.add("channels", x, begin=0, end=29), graph.add("channels", x, begin=29, end=58)
    right = spatial(graph, conv(graph, right, 29, activation="relu"), kind, activation="identity")
    right = conv(graph, right, 29, activation="relu")
    graph.add("shuffle", graph.add("concat", left, right))
    return graph


def single_nodes(kind):
    """Nodes that nothing can be fused with, because two others read each."""
    graph = Graph(6)
    x = conv(graph, 0, 6, side=5)
    y = spatial(graph, x, kind)
    x = graph.add("shuffle", graph.add("add", x, y))
    x = graph.add("concat", x, y, graph.add("add", x, x))
    conv(graph, graph.add("mean", x, keep_grid=True), 5)
    graph.add("mean", len(graph.nodes), keep_grid=False)
    return graph


def pooled_by(kind, *, size=(13, 12), channels=37):
    """Coordinates at the images and at a pointwise convolution, and a head with weights of positions."""
    graph = Graph(size)
    x = conv(graph, spatial(graph, mapped(graph, 0, 10, side=3), "depthwise"), channels)
    x = conv(graph, mapped(graph, x, 20), channels)
    if kind == "flatten":
        x = graph.add(kind, x)
    else:
        x = graph.add(kind, x, arrays={"weights": drawn(*size, 1, channels) / 9})
    graph.add("linear", x, arrays={"kernel": drawn(graph.shapes[x][2], 5) / 64, "bias": drawn(5)})
    return graph


def mapped(graph, x, channels, *, side=1):
    """A convolution over all channels with a bias per position."""
    x = conv(graph, x, channels, side=side)
    graph.nodes[-1].arrays["bias"] = drawn(*graph.shapes[x])
    return x


def dilated(graph, x, *, padding, strides=1, dilation=2, side=3):
    """A depthwise convolution."""
    c = graph.shapes[x][2]
    fields = {"strides": strides, "padding": padding, "dilation": dilation, "groups": c, "activation": "relu6"}
    return graph.add("conv", x, arrays={"kernel": drawn(side, side, 1, c) / side, "bias": drawn(c)}, **fields)


def masks(kind, *, size=(29, 38), channels=16, to=None):
    """As DeepLabV3+: images are padded before they are expanded, kernels dilated; maps are joined and resized."""
    graph = Graph(size)
    x = spatial(graph, conv(graph, 0, 20, side=3, strides=2, padding=0), kind)
    low = x = conv(graph, x, channels, activation="identity")
    for strides, dilation in ((2, 1), (1, 2), (1, 1)):
        y = dilated(graph, conv(graph, x, 70, padding=dilation), padding=0, strides=strides, dilation=dilation)
        y = conv(graph, y, channels, activation="identity")
        x = graph.add("add", x, y) if strides == 1 else y
    branches = [conv(graph, x, channels)]
    branches += [conv(graph, x, channels, side=3, dilation=dilation) for dilation in (2, 9)]  # 9: beyond the grid
    branches.append(conv(graph, spatial(graph, conv(graph, x, 40), kind), channels))
    pooled = conv(graph, graph.add("mean", x, keep_grid=True), channels)
    branches.append(graph.add("resize", pooled, grid=graph.shapes[x][:2]))
    x = graph.add("resize", conv(graph, graph.add("concat", *branches), 24), grid=graph.shapes[low][:2])
    x = conv(graph, graph.add("concat", conv(graph, low, channels), x), 33, side=3)
    graph.add("resize", conv(graph, x, 3, activation="identity"), grid=to or size)
    return graph


def whole_kernels(kind, *, size=(11, 9)):
    """Convolutions over all channels of several taps or strides; padding that another padding follows."""
    graph = Graph(size)
    x = conv(graph, 0, 7, side=5, padding=1)
    x = conv(graph, conv(graph, x, 70, side=3, strides=2, padding=0), 18, side=5, activation="identity")
    x = conv(graph, conv(graph, x, 9, strides=2), 21, padding=2)  # a tensor with its padding
    x = graph.add("resize", spatial(graph, conv(graph, x, 5, padding=1), kind), grid=(4, 13))
    x = conv(graph, dilated(graph, x, padding=3, dilation=3), 19, side=3, dilation=2, strides=2)
    return conv(graph, x, 6, side=3, padding=4, activation="relu") and graph


GRAPHS = {
    f"{make.__name__} {kind}": (make, kind, {})
    for make in (residual_blocks, split_units, single_nodes, masks, whole_kernels)
    for kind in ("depthwise", "per_pixel", "low_rank")
}
GRAPHS |= {
    f"5x5 and a bias map {kind}": (residual_blocks, kind, {"side": 5, "bias_map": True, "size": 12})
    for kind in ("depthwise", "per_pixel", "low_rank")
}
GRAPHS |= {
    "7x7": (residual_blocks, "per_pixel", {"side": 7, "size": 6}),
    "many channels": (residual_blocks, "per_pixel", {"channels": 200, "size": 5}),
    "channels that fill no vectors": (masks, "per_pixel", {"channels": 12, "size": (33, 20)}),
    "masks smaller than the last grid": (masks, "depthwise", {"channels": 24, "to": (3, 5)}),
    "a learned average": (pooled_by, "global_depthwise", {}),
    "flattened, in two sums": (pooled_by, "flatten", {}),
    "flattened, in one sum": (pooled_by, "flatten", {"size": (2, 3)}),
}


def write(folder, graph, precision="float32", **metadata):
    metadata = {"input": {"name": "images", "shape": [None, 3, *graph.shapes[0][:2]]}} | metadata
    path = folder / "model.safetensors"
    path.write_bytes(torch_writer.to_safetensors(graph, metadata, precision=precision))
    return path


def answer(path, images):
    with torch.inference_mode():
        return torch_model.load(path)(torch.from_numpy(images)).numpy()


def assert_close(actual, expected):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("name", GRAPHS)
def test_equals_the_pytorch_artifact(name, tmp_path):
    make, kind, fields = GRAPHS[name]
    graph = make(kind, **fields)
    path, images = write(tmp_path, graph), drawn(16, 3, *graph.shapes[0][:2])
    expected = answer(path, images)
    models = {fuse: native.load(path, fuse=fuse) for fuse in (True, False)}
    for fuse, model in models.items():
        for threads in (1, 2, 5):
            model.use(threads)
            for n in (1, 3, 16):
                assert_close(model(images[:n]), expected[:n])
        assert model(images[:0]).shape == (0, *expected.shape[1:]), fuse


def test_many_images_run_in_groups_that_fit_into_memory(tmp_path, monkeypatch):
    path = write(tmp_path, masks("per_pixel"))
    model, images = native.load(path), drawn(7, 3, 29, 38)
    expected = answer(path, images)
    monkeypatch.setattr(native, "MAX_BYTES", 4 * model.plan.floats * 3)
    assert_close(model(images), expected)
    assert model._holds == 3 and model(images[:0]).shape == (0, 3, 29, 38)
    monkeypatch.setattr(native, "MAX_BYTES", 1)
    assert_close(model(images[:2]), expected[:2])


def test_tensors_are_joined_where_they_are_made(tmp_path):
    def moves(channels):
        path = write(tmp_path, masks("depthwise", channels=channels))
        return sum(op.kind == native.MOVE for op in native.load(path).plan.ops)

    assert moves(16) == 0 and moves(17) == 6  # padding of a vector would lie on the next channels


def test_some_channels_are_added_wherever_they_lie(tmp_path):
    graph = Graph(6)
    x = graph.add("channels", conv(graph, 0, 32, side=3), begin=1, end=9)
    graph.add("add", conv(graph, dilated(graph, conv(graph, 0, 6, side=3), padding=2), 8), x)
    path, images = write(tmp_path, graph), drawn(2, 3, 6, 6)
    assert_close(native.load(path)(images), answer(path, images))


def test_fusing_leaves_one_operation_a_block(tmp_path):
    path = write(tmp_path, residual_blocks("per_pixel"))
    assert len(native.load(path).plan.ops) == 3 + 3  # stem and two blocks; the last convolution, mean, linear
    assert len(native.load(path, fuse=False).plan.ops) == 13


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_reads_fewer_bits(precision, tmp_path):
    graph = quantize(residual_blocks("low_rank"), precision)
    path, images = write(tmp_path, graph, precision), drawn(2, 3, 13, 11)
    assert_close(native.load(path)(images), answer(path, images))


def test_compiles_once(tmp_path):
    library = native.compiled()
    before = library.stat().st_mtime_ns
    assert native.compiled() == library and library.stat().st_mtime_ns == before
    assert [path.name for path in library.parent.iterdir()] == [library.name]  # nothing half made is left


def test_copied_beside_an_artifact_it_needs_numpy_alone(tmp_path):
    graph = residual_blocks("per_pixel")
    about = {"name": "mobilenetv2", "width": 0.5, "operator": "tvconv", "output": {"name": "embeddings"}}
    path, images = write(tmp_path, graph, **about), drawn(4, 3, 13, 11)
    np.savez(tmp_path / "check.npz", images=images, embeddings=answer(path, images))
    for name in ("native.py", "native.cpp"):
        shutil.copy(Path(native.__file__).with_name(name), tmp_path)
    code = (
        "import sys, numpy, native; native.load('model.safetensors', threads=2)\n"
        "names = {name.split('.')[0] for name in sys.modules}\n"
        "assert not names & {'jax', 'tvconv_jax', 'torch', 'onnxruntime', 'scipy'}, names"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    benchmark.main(
        [str(path), "--runtime=native", "--batch=1,3", "--threads=1", "--seconds=0", f"--json={tmp_path}/figures.json"]
    )
    (entry,) = json.loads((tmp_path / "figures.json").read_text())["artifacts"]
    assert entry["runtime"] == "native" and entry["check"]["max_difference"] < 1e-6
    (tmp_path / "native.py").unlink()
    with pytest.raises(SystemExit):
        benchmark.main([str(path), "--runtime=native", "--check-only"])


def test_images_of_another_size(tmp_path):
    model = native.load(write(tmp_path, single_nodes("depthwise")))
    for shape in ((1, 3, 7, 7), (1, 6, 6, 3), (3, 6, 6)):
        with pytest.raises(ValueError, match=r"must be \[n, 3, 6, 6\]"):
            model(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=r"images \[1, 3, 11, 13\] must be \[n, 3, 13, 11\]"):
        native.load(write(tmp_path, residual_blocks("depthwise")))(np.zeros((1, 3, 11, 13), np.float32))
    with pytest.raises(ValueError, match="threads=0 must be at least 1"):
        model.use(0)


def stepping(graph, strides):
    spatial(graph, conv(graph, 0, 4, side=3), "per_pixel")
    graph.nodes[-1].fields["strides"] = strides


def low_rank(graph, *, kernels, gains):
    arrays = {"kernels": drawn(kernels, 3, 3, 4), "gains": drawn(gains, 6, 6, 4), "bias": drawn(4)}
    graph.add("low_rank", conv(graph, 0, 4, side=3), arrays=arrays, strides=1, activation="identity")


def shifted(graph):
    x = graph.add("channels", conv(graph, 0, 4, side=3), begin=1, end=4)
    graph.add("add", conv(graph, spatial(graph, conv(graph, 0, 6, side=3), "depthwise"), 3), x)


def of_some_channels(graph):
    x = conv(graph, conv(graph, 0, 8, side=3), 4, side=3)
    graph.nodes[-1] = graph.nodes[-1]._replace(arrays={"kernel": drawn(3, 3, 5, 4), "bias": drawn(4)})
    return x


def other(graph, x, **fields):
    """The last node with other fields, whatever its shape."""
    graph.nodes[x - 1].fields.update(fields)


def flattened_twice(graph):
    x = graph.add("flatten", graph.add("flatten", conv(graph, 0, 4, side=3)))
    graph.add("linear", x, arrays={"kernel": drawn(144, 5), "bias": drawn(5)})


@pytest.mark.parametrize(
    "add, words",
    [
        (lambda graph: graph.add("resize", 0, grid=(9, 9)), "a node 'resize' on the image"),
        (lambda graph: graph.add("resize", conv(graph, 0, 4, side=3), grid=(2**31, 2**31)), "a tensor 2147483648 x"),
        (lambda graph: graph.add("resize", conv(graph, 0, 4, side=3), grid=(2**15, 2**15)), "a tensor 32768 x 32768"),
        (lambda graph: graph.add("resize", conv(graph, 0, 4, side=3), grid=(-1, 4)), "a tensor -1 x 4"),
        (lambda graph: graph.add("resize", conv(graph, 0, 4, side=3), grid=(4.5, 4)), "a grid 4.5 x 4"),
        (lambda graph: other(graph, conv(graph, conv(graph, 0, 4, side=3), 4, side=3), padding=-1), "padding -1"),
        (lambda graph: other(graph, conv(graph, conv(graph, 0, 4), 4, side=3), padding=2**64), "padding 18446744"),
        (lambda graph: other(graph, conv(graph, conv(graph, 0, 4), 4, side=3), dilation=0), "dilation 0"),
        (lambda graph: other(graph, dilated(graph, conv(graph, 0, 4), padding=2), dilation=9), "a tensor -8 x -8 x 4"),
        (lambda graph: other(graph, conv(graph, conv(graph, 0, 4), 4, side=3), dilation=9), "a tensor -10 x -10 x 4"),
        (lambda graph: dilated(graph, conv(graph, 0, 99), padding=255, dilation=255), "9 taps with dilation 255"),
        (lambda graph: conv(graph, 0, 4, side=3, padding=4), "3x3 with strides 1 and padding 4"),
        (lambda graph: conv(graph, 0, 4, side=3, dilation=2), "3x3 with strides 1 and padding 2"),
        (lambda graph: conv(graph, conv(graph, 0, 4), 4, side=2), "a kernel 2 x 2"),
        (of_some_channels, "3x3 for 5 of 8 channels"),
        (lambda graph: other(graph, mapped(graph, 0, 4, side=3), padding=2), "a bias per position with padding 2"),
        (lambda graph: spatial(graph, 0, "depthwise"), "a node 'spatial' on the image"),
        (lambda graph: graph.add("max_pool", 0), "a node 'max_pool' on the image"),
        (lambda graph: graph.add("channels", 0, begin=1, end=3), "a node 'channels' on the image"),
        (lambda graph: graph.add("add", conv(graph, 0, 3, side=3), 0), "a node 'add' on the image"),
        (lambda graph: graph.add("add", conv(graph, 0, 3, side=3)), "a node 'add' of 1 inputs"),
        (lambda graph: graph.add("channels", conv(graph, 0, 3, side=3), begin=2, end=2), "a tensor 6 x 6 x 0"),
        (lambda graph: conv(graph, 0, 4, side=3, strides=-1), "strides -1"),
        (lambda graph: stepping(graph, 0), "strides 0"),
        (lambda graph: stepping(graph, 1.5), "strides 1.5"),
        (lambda graph: low_rank(graph, kernels=3, gains=1), "1 gains of 3 kernels"),
        (lambda graph: low_rank(graph, kernels=1, gains=2), "2 gains of 1 kernels"),
        (shifted, "an addition of some of the channels"),
        (lambda graph: graph, "a model without a last layer"),
        (lambda graph: graph.add("flatten", conv(graph, 0, 4, side=3)), "a model without a last layer"),
        (flattened_twice, "a node 'flatten' on a flattened grid"),
    ],
)
def test_other_models_are_refused(add, words, tmp_path):
    graph = Graph(6)
    add(graph)
    with pytest.raises(ValueError, match=f"{words}.*native does not run this model; take its ONNX"):
        native.load(write(tmp_path, graph))


def test_files_that_are_wrong(tmp_path):
    path = write(tmp_path, single_nodes("per_pixel"))
    whole = path.read_bytes()
    for data in (whole[:-5], whole[:50], b"", b"PK" + whole):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="is not a model exported by tvconv_jax, or is cut off"):
            native.load(path)
    deep, huge = b"[" * 100_000, whole[8:].replace(b'"shape": [', b'"shape": [' + b"9" * 40 + b", ")
    for data in (deep, huge):
        path.write_bytes(struct.pack("<Q", len(data)) + data)
        with pytest.raises(ValueError, match="is not a model exported by tvconv_jax, or is cut off"):
            native.load(path)
    path.write_bytes(whole.replace(b'"input', b'"inqut', 1))
    with pytest.raises(ValueError) as info:
        native.load(path)
    assert "\n" not in str(info.value)
    with pytest.raises(ValueError, match="is not loaded: "):  # another grid than its weights are for
        native.load(write(tmp_path, single_nodes("per_pixel"), input={"shape": [None, 3, 9, 9]}))


def test_nothing_to_compile_with(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"no C\+\+ compiler .*apt-get install g\+\+"):
        native.compiled()
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\n[ $1 = --version ] || { echo 'x: error: bad'; exit 1; } >&2\n")
    broken.chmod(0o700)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(RuntimeError, match="cannot compile native.cpp: x: error: bad; set CXX"):
        native.compiled()
    (tmp_path / "file").touch()
    monkeypatch.setenv("TVCONV_JAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(RuntimeError, match="set TVCONV_JAX_CACHE to a folder"):
        native.compiled()
