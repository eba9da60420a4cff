"""Builder of an ONNX graph: its operations, its constants, and layers in stock operations."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tvconv_jax.ops.tv_conv import output_grid

# Lowerings of kernels that differ by pixel or by image:
#   slices  pad; k*k times slice, multiply, add
#   unfold  one grouped convolution that copies the k*k neighbors into channels; multiply; sum over groups of channels
LOWERINGS = ("slices", "unfold")
# Lowerings of low-rank kernels:
#   sums    depthwise convolutions; multiply; add
#   convs   the same, but 1x1 depthwise convolutions with kernels of 1 do the sum, the bias and the clipping behind the
#           products: onnxruntime on x86 computes convolutions in blocks of channels, and any other operation costs a
#           copy out of the blocks and one back
LOW_RANK_LOWERINGS = ("sums", "convs")
NO_LOWERING = "plain"  # of graphs without such kernels

Params = Mapping[str, Any]
Shape = tuple[int, int, int]  # (h, w, c)


class Builder:
    """Builder of an ONNX graph on images ``[n, c, h, w]``.

    A value is the name of the operation's output.

    Attributes:
        nodes: Operations in the order in which they run.
        initializers: Constants.
    """

    def __init__(self, lowering: str) -> None:
        """Take one of ``LOWERINGS`` or ``LOW_RANK_LOWERINGS``, or ``NO_LOWERING``."""
        self._lowering = lowering
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def op(self, kind: str, inputs: Sequence[str], name: str | None = None, **attributes: Any) -> str:
        """Append an operation."""
        name = name or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, array: np.ndarray) -> str:
        """Append a constant."""
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def integers(self, *values: int) -> str:
        """Append a constant list of integers."""
        return self.constant(np.array(values, np.int64))

    def reshape(self, x: str, *shape: int) -> str:
        """Reshape all axes but the batch."""
        return self.op("Reshape", [x, self.integers(0, *shape)])

    def dense(self, x: str, params: Params) -> str:
        """Append a linear layer, ``[n, c]`` -> ``[n, d]``."""
        return self.op("Gemm", [x, self.constant(params["kernel"]), self.constant(params["bias"])])

    def pointwise(self, x: str, params: Params, *, strides: int = 1) -> str:
        """Append a 1x1 convolution, ``[n, c, h, w]`` -> ``[n, d, ho, wo]``."""
        weights = [self.constant(params["kernel"].T[:, :, None, None])]
        weights += [self.constant(params["bias"])] if "bias" in params else []
        return self.op("Conv", [x, *weights], kernel_shape=[1, 1], strides=[strides] * 2)

    def grouped_conv(self, x: str, kernel: str, size: int, groups: int, strides: int, *bias: str) -> str:
        """Append a grouped convolution with "same" padding."""
        fields = {"kernel_shape": [size] * 2, "strides": [strides] * 2, "pads": [size // 2] * 4, "group": groups}
        return self.op("Conv", [x, kernel, *bias], **fields)

    def global_pool(self, x: str) -> str:
        """Average over the grid, ``[n, c]``."""
        return self.op("Flatten", [self.op("GlobalAveragePool", [x])])

    def average_pool(self, x: str, shape: Shape, strides: int) -> str:
        """Average ``strides x strides`` pixels, fewer at the end of an odd grid."""
        if strides == 1:
            return x
        ends = [-length % strides for length in shape[:2]]
        return self.op("AveragePool", [x], kernel_shape=[strides] * 2, strides=[strides] * 2, pads=[0, 0, *ends])

    def unfold(self, x: str, channels: int, size: int, strides: int = 1) -> str:
        """Copy the patches into channels, ``[n, c * k * k, ho, wo]``, by one grouped convolution; zeros outside."""
        taps = size**2
        copies = np.tile(np.eye(taps, dtype=np.float32).reshape(taps, 1, size, size), (channels, 1, 1, 1))
        return self.grouped_conv(x, self.constant(copies), size, channels, strides)

    def taps(self, x: str, shape: Shape, size: int, strides: int) -> Iterator[str]:
        """Yield the patches tap by tap, each ``[n, c, ho, wo]``, by one padding and a slice each."""
        pads = self.integers(*[0, 0, size // 2, size // 2] * 2)
        padded, grid = self.op("Pad", [x, pads]), np.array(output_grid(*shape[:2], strides))
        for t in range(size**2):
            begin = np.array(divmod(t, size))
            bounds = (begin, begin + strides * (grid - 1) + 1, (2, 3), (strides, strides))
            yield self.op("Slice", [padded, *(self.integers(*values) for values in bounds)])

    def window_sum(
        self, x: str, shape: Shape, *factors: str, size: int, strides: int, groups: int | None = None
    ) -> str:
        """Append a depthwise convolution with computed kernels: taps times factors, summed.

        Args:
            x: ``[n, c, h, w]``.
            shape: ``(h, w, c)``.
            *factors: ``[n, g, 1, k * k, ho * wo]`` whose product is the kernels; axes they do not depend on are 1.
            size: ``k``.
            strides: Step between output positions.
            groups: ``g``, groups of channels that share a kernel; ``None``: every channel has its own.

        Returns:
            ``[n, c, ho, wo]``.
        """
        channels, taps, grid = shape[2], size**2, output_grid(*shape[:2], strides)
        split = (groups or channels, channels // (groups or channels))
        pixels = grid[0] * grid[1]
        if self._lowering == "unfold":
            terms = self.reshape(self.unfold(x, channels, size, strides), *split, taps, pixels)
            for factor in factors:
                terms = self.op("Mul", [terms, factor])
            total = self.op("ReduceSum", [terms, self.integers(3)], keepdims=0)
            return self.reshape(total, channels, *grid)
        total = ""
        for t, tap in enumerate(self.taps(x, shape, size, strides)):
            term = self.reshape(tap, *split, pixels)
            for factor in factors:
                term = self.op("Mul", [term, self.op("Gather", [factor, self.constant(np.int64(t))], axis=3)])
            total = self.op("Add", [total, term]) if total else term
        return self.reshape(total, channels, *grid)
