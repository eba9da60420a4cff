"""A graph as an ONNX file: opset 17, IR 8, any batch, stock operations only."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tvconv_jax.export.graph import Graph, Node
from tvconv_jax.export.onnx import operators, speed
from tvconv_jax.export.onnx.builder import LOW_RANK_LOWERINGS, LOWERINGS, NO_LOWERING, Builder, Shape
from tvconv_jax.export.onnx.channel_blocks import in_blocks
from tvconv_jax.export.quantize import Precision, stored

OPSET, IR_VERSION = 17, 8
BLOCKS = "-blocks"  # suffix of a lowering with padded channels, see :mod:`tvconv_jax.export.onnx.channel_blocks`


def lowerings(graph: Graph) -> tuple[str, ...]:
    """Return the names of the lowerings of a graph."""
    names = _of_kernels(graph)
    return names if in_blocks(graph).shapes == graph.shapes else names + tuple(name + BLOCKS for name in names)


def _of_kernels(graph: Graph) -> tuple[str, ...]:
    for node in graph.nodes:
        if node.kind == "per_pixel" or type(node.fields.get("module")).__name__ in operators.WINDOWS:
            return LOWERINGS
    return LOW_RANK_LOWERINGS if any(node.kind == "low_rank" for node in graph.nodes) else (NO_LOWERING,)


def to_onnx(graph: Graph, metadata: str, *, lowering: str, precision: Precision = "float32", output: str) -> bytes:
    """Return the bytes of an ONNX file.

    Args:
        graph: The graph, as :func:`tvconv_jax.export.quantize.quantize` left it.
        metadata: JSON, stored under the key ``tvconv_jax``.
        lowering: One of :func:`lowerings`.
        precision: Of the stored weights; a runtime converts them to float32 once, when it loads them.
        output: Name of the output.
    """
    if lowering.endswith(BLOCKS):
        graph, lowering = in_blocks(graph), lowering.removesuffix(BLOCKS)
    writer = Writer(lowering, precision)
    names = {0: "images"}
    for number, node in enumerate(graph.nodes, start=1):
        names[number] = writer.node(node, [names[i] for i in node.inputs], [graph.shapes[i] for i in node.inputs])
    writer.op("Identity", [names[len(graph.nodes)]], name=output)
    (height, width, colors), shape = graph.shapes[0], graph.shapes[-1]
    last = ["batch", shape[2]] if graph.nodes[-1].kind == "linear" else ["batch", shape[2], *shape[:2]]
    proto = helper.make_graph(
        writer.nodes,
        "tvconv_jax",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", colors, height, width])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, last)],
        writer.initializers,
    )
    model = helper.make_model(
        proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="tvconv_jax"
    )
    helper.set_model_props(model, {"tvconv_jax": metadata})
    onnx.checker.check_model(model)
    return model.SerializeToString()


def write_files(
    folder: Path, graph: Graph, metadata: dict[str, Any], precision: Precision, lowering: str
) -> list[tuple[str, str, speed.Run]]:
    """Write ``model.onnx``; see :func:`tvconv_jax.export.artifacts.load_format`."""
    models, output = {}, metadata["output"]["name"]
    for name in lowerings(graph) if lowering == "auto" else (lowering,):
        text = json.dumps({**metadata, "lowering": name})
        models[name] = to_onnx(graph, text, lowering=name, precision=precision, output=output)
    fastest, note = speed.fastest(models, metadata["input"]["shape"][1:])
    path = folder / "model.onnx"
    path.write_bytes(models[fastest])
    return [(path.name, note, speed.runner(path))]


def relative_speeds(graphs: Mapping[str, Graph], precision: Precision, lowering: str) -> dict[str, float]:
    """Return onnxruntime's speed of graphs over that of the first one, on this machine.

    Each has the given lowering if it is one of its own, else its fastest one.
    """
    files = {
        (rank, name): to_onnx(graph, "{}", lowering=name, precision=precision, output="output")
        for rank, graph in graphs.items()
        for name in ((lowering,) if lowering in lowerings(graph) else lowerings(graph))
    }
    height, width, colors = next(iter(graphs.values())).shapes[0]
    found = speed.rates(files, (colors, height, width))
    seconds = {rank: min(speed.time_per_image(found[key]) for key in files if key[0] == rank) for rank in graphs}
    first = next(iter(seconds.values()))
    return {rank: first / taken for rank, taken in seconds.items()}


class Writer(Builder):
    """A builder that writes the nodes of a graph."""

    def __init__(self, lowering: str, precision: Precision) -> None:
        """Take the lowering of kernels and the precision of stored weights."""
        super().__init__(lowering)
        self._precision = precision

    def weight(self, node: Node, name: str, layout: Callable[[np.ndarray], np.ndarray]) -> str:
        """Append an array of a node, and its scale, both in a layout; return the float32 value."""
        array = layout(node.arrays[name])
        if self._precision == "float32":
            return self.constant(array)
        scale = layout(node.scales[name]) if name in node.scales else None
        value = self.op("Cast", [self.constant(stored(array, scale, self._precision))], to=TensorProto.FLOAT)
        return value if scale is None else self.op("Mul", [value, self.constant(scale)])

    def node(self, node: Node, inputs: list[str], shapes: list[Shape]) -> str:
        """Append a node of the graph."""
        return getattr(self, f"_{node.kind}")(node, inputs, shapes[0])

    def _activated(self, x: str, activation: str) -> str:
        if activation == "relu6":
            return self.op("Clip", [x, self.constant(np.float32(0)), self.constant(np.float32(6))])
        return self.op("Relu", [x]) if activation == "relu" else x

    def _conv(self, node: Node, inputs: list[str], _: tuple) -> str:
        fields = node.fields
        kernel = self.weight(node, "kernel", lambda a: a.transpose(3, 2, 0, 1))
        per_channel = node.arrays["bias"].ndim == 1
        y = self.op(
            "Conv",
            [*inputs, kernel, *([self.constant(node.arrays["bias"])] if per_channel else [])],
            kernel_shape=[len(node.arrays["kernel"])] * 2,
            strides=[fields["strides"]] * 2,
            pads=[fields["padding"]] * 4,
            dilations=[fields["dilation"]] * 2,
            group=fields["groups"],
        )
        return self._activated(y, fields["activation"]) if per_channel else self._with_bias(y, node)

    def _with_bias(self, x: str, node: Node) -> str:
        bias = node.arrays["bias"]
        bias = bias.reshape(1, 1, -1) if bias.ndim == 1 else bias
        y = self.op("Add", [x, self.constant(bias.transpose(2, 0, 1)[None])])
        return self._activated(y, node.fields["activation"])

    def _low_rank(self, node: Node, inputs: list[str], shape: tuple) -> str:
        (rank, size, _, channels), total = node.arrays["kernels"].shape, ""
        ungained = rank - len(node.arrays["gains"])

        def term(r: int, *bias: str) -> str:
            kernel = self.weight(node, "kernels", lambda a: a[r].transpose(2, 0, 1)[:, None])
            return self.grouped_conv(inputs[0], kernel, size, channels, node.fields["strides"], *bias)

        for r in range(len(node.arrays["gains"])):
            gain = self.weight(node, "gains", lambda a, r=r: a[r].transpose(2, 0, 1)[None])
            gained = self.op("Mul", [term(ungained + r), gain])
            total = self.op("Add", [total, gained]) if total else gained
        if node.arrays["bias"].ndim > 1:
            return self._with_bias(self.op("Add", [term(0), total]) if ungained else total, node)
        return self._summed(node, total, term if ungained else None)

    def _summed(self, node: Node, gained: str, first: Callable[..., str] | None) -> str:
        """Add the first term, if it has no gain, and the bias; activate."""
        convs, activation = self._lowering == "convs", node.fields["activation"]
        if first is None and not convs:
            return self._with_bias(gained, node)
        bias = self.constant(node.arrays["bias"])
        if first is None:
            return self._activated(self._copied(gained, node, bias), activation)
        total = self.op("Add", [first(0, bias), self._copied(gained, node) if convs else gained])
        # A sum is computed within a convolution, and so is a Relu behind it, but no Clip.
        return self._activated(self._copied(total, node) if convs and activation == "relu6" else total, activation)

    def _copied(self, x: str, node: Node, *bias: str) -> str:
        """Append a 1x1 depthwise convolution with kernels of 1."""
        channels = node.arrays["kernels"].shape[3]
        return self.grouped_conv(x, self.constant(np.ones((channels, 1, 1, 1), np.float32)), 1, channels, 1, *bias)

    def _per_pixel(self, node: Node, inputs: list[str], shape: tuple) -> str:
        lower = self._unfolded if self._lowering == "unfold" else self._sliced
        return self._with_bias(lower(node, inputs[0], shape), node)

    def _sliced(self, node: Node, x: str, shape: tuple) -> str:
        size, total = math.isqrt(node.arrays["weights"].shape[2]), ""
        for t, tap in enumerate(self.taps(x, shape, size, node.fields["strides"])):
            # A scale has one tap, shared by all.
            weights = self.weight(node, "weights", lambda a, t=t: a[:, :, t % a.shape[2]].transpose(2, 0, 1)[None])
            term = self.op("Mul", [tap, weights])
            total = self.op("Add", [total, term]) if total else term
        return total

    def _unfolded(self, node: Node, x: str, shape: tuple) -> str:
        height, width, taps, channels = node.arrays["weights"].shape
        patches = self.unfold(x, channels, math.isqrt(taps), node.fields["strides"])
        patches = self.reshape(patches, channels, taps, height * width)
        weights = self.weight(node, "weights", lambda a: a.transpose(3, 2, 0, 1).reshape(1, channels, a.shape[2], -1))
        total = self.op("ReduceSum", [self.op("Mul", [patches, weights]), self.integers(2)], keepdims=0)
        return self.reshape(total, channels, height, width)

    def _affine(self, node: Node, inputs: list[str], _: tuple) -> str:
        factor = node.arrays["factor"]
        scaled = inputs[0] if np.all(factor == 1) else self.op("Mul", [*inputs, self.constant(factor[:, None, None])])
        return self._with_bias(scaled, node)

    def _module(self, node: Node, inputs: list[str], shape: tuple) -> str:
        return operators.write(self, node.fields["module"], node.arrays, inputs[0], shape)

    def _linear(self, node: Node, inputs: list[str], _: tuple) -> str:
        kernel = self.weight(node, "kernel", lambda a: a)
        return self.op("Gemm", [*inputs, kernel, self.constant(node.arrays["bias"])])

    def _add(self, _: Node, inputs: list[str], shape: tuple) -> str:
        return self.op("Add", inputs)

    def _concat(self, _: Node, inputs: list[str], shape: tuple) -> str:
        return self.op("Concat", inputs, axis=1)

    def _channels(self, node: Node, inputs: list[str], _: tuple) -> str:
        bounds = (node.fields["begin"], node.fields["end"], 1)  # along the channels
        return self.op("Slice", [*inputs, *map(self.integers, bounds)])

    def _shuffle(self, _: Node, inputs: list[str], shape: tuple) -> str:
        height, width, channels = shape
        halves = self.reshape(inputs[0], 2, channels // 2, height * width)
        return self.reshape(self.op("Transpose", [halves], perm=[0, 2, 1, 3]), channels, height, width)

    def _max_pool(self, _: Node, inputs: list[str], shape: tuple) -> str:
        return self.op("MaxPool", inputs, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)

    def _mean(self, node: Node, inputs: list[str], _: tuple) -> str:
        y = self.op("GlobalAveragePool", inputs)
        return y if node.fields["keep_grid"] else self.op("Flatten", [y])

    def _global_depthwise(self, node: Node, inputs: list[str], shape: tuple) -> str:
        kernel = self.weight(node, "weights", lambda a: a.transpose(3, 2, 0, 1))
        y = self.op("Conv", [*inputs, kernel], kernel_shape=shape[:2], group=shape[2])
        return self.op("Flatten", [y])

    def _flatten(self, _: Node, inputs: list[str], shape: tuple) -> str:
        return self.op("Flatten", [self.op("Transpose", inputs, perm=[0, 2, 3, 1])])

    def _resize(self, node: Node, inputs: list[str], shape: tuple) -> str:
        scales = [1, 1, *(scale(size, to) for size, to in zip(shape, node.fields["grid"], strict=False))]
        fields = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        return self.op("Resize", [*inputs, "", self.constant(np.array(scales, np.float32))], **fields)


def scale(size: int, to: int) -> np.float32:
    """Return the least float32 that resizes ``size`` pixels to ``to``: a runtime rounds their product down.

    Constant sizes would fix the batch too.
    """
    near = np.float32(to / size)
    return near if float(near) * size >= to else np.nextafter(near, np.float32(np.inf))
