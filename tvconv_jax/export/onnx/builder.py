"""Collects the operations and constants of an ONNX graph; what all that is written there needs."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tvconv_jax.ops.tv_conv import output_grid

# How a kernel of its own at every pixel or for every image is written in stock operations:
#   slices  pad; k*k times slice, multiply, add
#   unfold  one grouped convolution that copies the k*k neighbors into channels; multiply; sum over groups of channels
LOWERINGS = ("slices", "unfold")
# How kernels of low rank are written:
#   sums    depthwise convolutions; multiply; add
#   convs   the same, but what comes behind the products is done by 1x1 depthwise convolutions with kernels of 1: the
#           sum, the bias and the clipping. onnxruntime on x86 computes convolutions in blocks of channels; what is not
#           one costs a copy out of the blocks and one back
LOW_RANK_LOWERINGS = ("sums", "convs")
# Where there are neither.
NO_LOWERING = "plain"


class Builder:
    """Appends operations; images are ``[n, c, h, w]``.

    Attributes:
        nodes: Operations in the order in which they run.
        initializers: Constants.
    """

    def __init__(self, lowering: str) -> None:
        """With one of ``LOWERINGS`` or ``LOW_RANK_LOWERINGS``, or with ``NO_LOWERING``."""
        self._lowering = lowering
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def op(self, kind: str, inputs: Sequence[str], name: str | None = None, **attributes: Any) -> str:
        """Appends an operation and returns the name of its output."""
        name = name or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, array: np.ndarray) -> str:
        """Keeps an array and returns its name."""
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def integers(self, *values: int) -> str:
        """Keeps a list of integers and returns its name."""
        return self.constant(np.array(values, np.int64))

    def reshaped(self, x: str, *shape: int) -> str:
        """With another shape behind the batch axis."""
        return self.op("Reshape", [x, self.integers(0, *shape)])

    def grouped(self, x: str, kernel: str, side: int, groups: int, strides: int, *bias: str) -> str:
        """A grouped convolution that keeps the grid, but for its strides; with a bias or without."""
        fields = {"kernel_shape": [side] * 2, "strides": [strides] * 2, "pads": [side // 2] * 4, "group": groups}
        return self.op("Conv", [x, kernel, *bias], **fields)

    def unfold(self, x: str, channels: int, side: int, strides: int = 1) -> str:
        """What every tap of a window sees, ``[n, c * k * k, ho, wo]``, zeros outside; one grouped convolution."""
        taps = side**2
        copies = np.tile(np.eye(taps, dtype=np.float32).reshape(taps, 1, side, side), (channels, 1, 1, 1))
        return self.grouped(x, self.constant(copies), side, channels, strides)

    def seen(self, x: str, shape: tuple[int, int, int], side: int, strides: int) -> Iterator[str]:
        """The same one tap after the other, each ``[n, c, ho, wo]``; one padding and a slice each."""
        margin = self.integers(*[0, 0, side // 2, side // 2] * 2)
        padded, grid = self.op("Pad", [x, margin]), np.array(output_grid(*shape[:2], strides))
        for t in range(side**2):
            begin = np.array(divmod(t, side))
            bounds = (begin, begin + strides * (grid - 1) + 1, (2, 3), (strides, strides))
            yield self.op("Slice", [padded, *(self.integers(*values) for values in bounds)])

    def window_sum(
        self, x: str, shape: tuple[int, int, int], *factors: str, side: int, strides: int, groups: int | None = None
    ) -> str:
        """Depthwise convolution with kernels that are computed: taps times factors, summed.

        Args:
            x: ``[n, c, h, w]``.
            shape: ``(h, w, c)``.
            *factors: ``[n, g, 1, k * k, ho * wo]`` whose product is the kernels; axes they do not depend on are 1.
            side: ``k``.
            strides: Step between output positions.
            groups: ``g``, groups of channels that share a kernel; ``None``: every channel has its own.

        Returns:
            ``[n, c, ho, wo]``.
        """
        channels, taps, grid = shape[2], side**2, output_grid(*shape[:2], strides)
        split = (groups or channels, channels // (groups or channels))
        pixels = grid[0] * grid[1]
        if self._lowering == "unfold":
            terms = self.reshaped(self.unfold(x, channels, side, strides), *split, taps, pixels)
            for factor in factors:
                terms = self.op("Mul", [terms, factor])
            total = self.op("ReduceSum", [terms, self.integers(3)], keepdims=0)
            return self.reshaped(total, channels, *grid)
        total = ""
        for t, seen in enumerate(self.seen(x, shape, side, strides)):
            term = self.reshaped(seen, *split, pixels)
            for factor in factors:
                term = self.op("Mul", [term, self.op("Gather", [factor, self.constant(np.int64(t))], axis=3)])
            total = self.op("Add", [total, term]) if total else term
        return self.reshaped(total, channels, *grid)
