"""Model exported by tvconv_jax, on the CPU, with numpy and a C++ compiler.

    from native import load
    model = load("model.safetensors", threads=2)
    outputs = model(images)             # [n, 3, h, w] float32 RGB, (x / 255 - 0.5) / 0.5

``native.cpp`` beside this file is compiled once, for this machine's processor, and kept in ``~/.cache``.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import mmap
import os
import platform
import shutil
import struct
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FLAGS = "-O3 -march=native -std=c++17 -fno-math-errno -fno-trapping-math -ffinite-math-only -fno-signed-zeros".split()
FLAGS += "-shared -fPIC -pthread".split()
BLOCK, MAX_POOL, MOVE, ADD, MEAN, LINEAR, CONV, RESIZE = range(8)
COPY, POINTWISE, STEM = range(3)
SPATIAL = {"conv": 1, "per_pixel": 2, "low_rank": 3}
RANGES = {"identity": (-3e38, 3e38), "relu": (0, 3e38), "relu6": (0, 6)}
DTYPES = {"F32": np.float32, "F16": np.float16, "I8": np.int8}
MAX_SUM = 4096  # most numbers in one sum; as in native.cpp
# Beyond them a file is not one of ours: pixels of a side, floats of a tensor and of the rows that a thread works on.
MAX_SIDE, MAX_FLOATS, MAX_RING = 2**16, 2**30, 2**24
PLAIN = {"producer": COPY, "kernel": 1, "strides": 1, "dilation": 1, "pad": 0}  # a block without operators
LIMITS = {"strides": (1, 63), "padding": (0, 255), "dilation": (1, 255)}
MAX_BYTES = 2**28  # of the tensors of the images that run at once, if these are several
# Errors of the code that reads a damaged file, or one that is not an exported model.
WRONG = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


class Unsupported(ValueError):
    """A model that the engine does not run."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: native does not run this model; take its ONNX or PyTorch artifact.")


def _structure(name: str, **kinds: Any) -> type[ctypes.Structure]:
    fields = [(field, kind) for names, kind in kinds.items() for field in names.split("__")]
    return type(name, (ctypes.Structure,), {"_fields_": fields})


# The structures of native.cpp.
_Tensor = _structure("Tensor", base__channel__stride__height__width__channels=ctypes.c_int64)
_Parts = _structure("Parts", vectors__lanes__parts=ctypes.c_int64)
_Range = _structure("Range", low__high=ctypes.c_float)
_Op = _structure(
    "Op",
    kind__producer__spatial__kernel__strides__stem_kernel__stem_strides__rank__bias_map__step__project=ctypes.c_int64,
    pad__dilation__border__stem_pad=ctypes.c_int64,
    input__other__wide__out=_Tensor,
    middle__last=_Parts,
    produce_weights__produce_bias__weights__gains__bias__project_weights__project_bias=ctypes.c_void_p,
    produce_range__range__project_range=_Range,
)


def parts(vectors: int, limit: int) -> list[tuple[int, int]]:
    """Return begin and end of nearly equal parts of at most ``limit`` vectors; as ``Parts`` of native.cpp."""
    count = -(-vectors // limit)
    return [(vectors * i // count, vectors * (i + 1) // count) for i in range(count)]


def padded(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Pad an axis with zeros at its end."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, size - array.shape[axis])
    return np.pad(array, widths)


class Channels:
    """Channels cut into vectors, and these into parts; ``size`` channels with the padding of the last vector."""

    def __init__(self, channels: int, widths: Sequence[int], limit: int) -> None:
        """Choose the vector width that leaves the fewest channels empty."""
        self.lanes = min(widths, key=lambda width: (-(-channels // width) * width, -width))
        self.vectors = -(-channels // self.lanes)
        self.size, self.parts = self.vectors * self.lanes, parts(self.vectors, limit)

    def cut(self, array: np.ndarray, axis: int) -> Iterator[np.ndarray]:
        """Yield the parts of an array, that axis as two, vector and lane."""
        array = padded(array, axis, self.size)
        for begin, end in self.parts:
            part = array.take(range(begin * self.lanes, end * self.lanes), axis)
            yield part.reshape(*array.shape[:axis], end - begin, self.lanes, *array.shape[axis + 1 :])

    def pack(self, array: np.ndarray, axis: int, order: Sequence[int]) -> np.ndarray:
        """Concatenate the parts, the axes of each in that order."""
        return np.concatenate([part.transpose(order).ravel() for part in self.cut(array, axis)])

    def structure(self) -> _Parts:
        return _Parts(self.vectors, self.lanes, len(self.parts))


class Value:
    """Tensor while it is planned: channels from ``begin`` on, of memory that may be shared."""

    def __init__(self, height: int, width: int, channels: int, stride: int, memory: dict | None = None, begin: int = 0):
        if min(height, width, channels) < 1 or max(height, width) > MAX_SIDE or height * width * stride > MAX_FLOATS:
            raise Unsupported(f"a tensor {height} x {width} x {channels}")
        self.grid, self.channels, self.stride, self.begin = (height, width), channels, stride, begin
        self.memory = {"floats": -(-height * width * stride // 16) * 16, "of": self} if memory is None else memory
        self.planar = False  # whether it is [channels][h][w]

    def structure(self) -> _Tensor:
        return _Tensor(self.memory.get("base", -1), self.begin, self.stride, *self.grid, self.channels)


def role(node: dict, arrays: dict[str, np.ndarray]) -> str:
    """Return the node's kind, ``spatial``, or for convolutions over all channels one of three.

    ``dense`` ones, of the image or pointwise, begin a block, as do ``mapped`` ones with a bias per position; ``full``
    ones have several taps or strides.
    """
    fields, kind = node["fields"], node["kind"]
    if kind == "conv":
        out, inputs, size, width = arrays["kernel"].shape
        if size != width or size % 2 == 0:
            raise Unsupported(f"a kernel {size} x {width}")
        if fields["groups"] == 1:
            if arrays["bias"].ndim > 1 and (fields["padding"], fields["dilation"]) != (size // 2, 1):
                raise Unsupported(f"a bias per position with padding {fields['padding']}")
            begins = node["inputs"] == [0] or (size, fields["strides"]) == (1, 1)
            return "mapped" if arrays["bias"].ndim > 1 else "dense" if begins else "full"
        if inputs != 1 or fields["groups"] != out:
            raise Unsupported(f"a convolution of {fields['groups']} groups for {out} channels")
    return "spatial" if kind in SPATIAL else kind


def check(nodes: Sequence[dict], roles: Sequence[str]) -> None:
    """Refuse nodes with which the engine would read outside of its memory.

    The image is not among the tensors and has another layout, which only the stem's convolution reads.
    """
    for node, name in zip(nodes, roles):  # noqa: B905, Python 3.9 has no strict=
        inputs, fields = node["inputs"], node["fields"]
        if name != "concat" and len(inputs) != (2 if name == "add" else 1):
            raise Unsupported(f"a node {name!r} of {len(inputs)} inputs")
        if 0 in inputs and name not in ("dense", "mapped"):
            raise Unsupported(f"a node {name!r} on the image")
        if name != "linear" and any(i and roles[i - 1] == "flatten" for i in inputs):
            raise Unsupported(f"a node {name!r} on a flattened grid")
        for field, (low, high) in LIMITS.items():
            value = fields.get(field, low)
            if type(value) is not int or not low <= value <= high:
                raise Unsupported(f"{field} {value!r}")
    if not nodes or roles[-1] == "flatten":
        raise Unsupported("a model without a last layer")


def chains(nodes: Sequence[dict], roles: Sequence[str], fuse: bool) -> list[list[int]]:
    """Return the numbers of the nodes that become one operation each, in the order in which they run."""
    readers: dict[int, list[int]] = {}
    for number, node in enumerate(nodes, start=1):
        for i in node["inputs"]:
            readers.setdefault(i, []).append(number)
    found, taken = [], set()
    for number in range(1, len(nodes) + 1):
        if number in taken:
            continue
        chain = [number]
        while fuse and len(readers.get(chain[-1], ())) == 1:
            (after,) = readers[chain[-1]]
            names = [roles[i - 1] for i in (*chain, after)]
            whole = ["dense", "spatial", "dense", "add"]
            fits = any(names == whole[i : i + len(names)] for i in (0, 1)) or names == ["concat", "shuffle"]
            if not fits or after in taken or not _joins(nodes[chain[-1] - 1], nodes[after - 1], names[-2:]):
                break
            chain.append(after)
        taken.update(chain)
        found.append(chain)
    return sorted(found, key=lambda chain: chain[-1])


def _joins(node: dict, after: dict, roles: list[str]) -> bool:
    """Return whether the second of two nodes with these roles reads the first one's rows as they are made.

    A pointwise convolution that pads its input makes the padding of the spatial operator behind it, or a tensor.
    """
    if roles == ["dense", "spatial"]:
        own = node["fields"]["padding"] if node["inputs"] != [0] else 0
        return not own or after["fields"].get("padding", 1) == 0
    return roles[1] != "dense" or after["fields"]["padding"] == 0


class Plan:
    """Operations of native.cpp (``ops``), the floats of one image's tensors, and the last tensor (``value``)."""

    def __init__(self, nodes: Sequence[dict], arrays: dict[str, np.ndarray], size: tuple, lib: Any, fuse: bool) -> None:
        """Plan the nodes of a file, for images of a height and width."""
        self._nodes, self._limit = nodes, lib.vectors_of_panel()
        self._widths = sorted({lib.lanes_of_vector(), min(8, lib.lanes_of_vector())})
        self._arrays = [
            {name: arrays[f"{number}.{name}"] for name in node["arrays"]} for number, node in enumerate(nodes, start=1)
        ]
        self._roles = [role(*pair) for pair in zip(nodes, self._arrays)]  # noqa: B905, Python 3.9 has no strict=
        check(nodes, self._roles)
        self._values = {0: Value(*size, 3, 3, {})}
        self._reads = [i for node in nodes for i in node["inputs"]]
        self._planned: list[tuple[_Op, dict[str, Value], dict[str, np.ndarray]]] = []
        for chain in chains(nodes, self._roles, fuse):
            names = [self._roles[i - 1] for i in chain]
            plan = getattr(self, f"_{'block' if names[0] in ('dense', 'spatial') else names[0]}", None)
            if plan is None:
                raise Unsupported(f"a node {names[0]!r}")
            self._values[chain[-1]] = plan(chain)
        self.value = self._values[len(nodes)]
        self.floats = self._place()
        self.ops = self._finish()

    def _emit(self, kind: int, reads: dict[str, Value], out: Value, weights: dict[str, Any], **fields: Any) -> Value:
        self._planned.append((_Op(kind=kind, **fields), {**reads, "out": out}, weights))
        return out

    def _inputs(self, number: int) -> list[Value]:
        return [self._values[i] for i in self._nodes[number - 1]["inputs"]]

    def _cut(self, channels: int) -> Channels:
        return Channels(channels, self._widths, self._limit)

    def _new(self, grid: Sequence[int], channels: int) -> Value:
        return Value(*grid, channels, self._cut(channels).size)

    def _block(self, chain: list[int]) -> Value:
        """Plan a block: produce, spatial, project, add, each if it is there."""
        roles, inputs = [self._roles[i - 1] for i in chain], self._inputs(chain[0])
        reads, fields, weights = {"input": inputs[0]}, dict(PLAIN), {}
        wide = inputs[0]
        if roles[0] == "dense":
            channels = self._cut(self._arrays[chain[0] - 1]["kernel"].shape[0])
            wide = self._produce(chain[0], channels, wide, fields, weights)
        channels = self._cut(wide.channels)
        reads["wide"] = out = wide
        if roles == ["dense"] and fields["pad"]:
            out = self._new([length + 2 * fields["pad"] for length in wide.grid], wide.channels)
        if "spatial" in roles:
            number = chain[roles.index("spatial")]
            pair = self._nodes[number - 1], self._arrays[number - 1]
            out = self._spatial(*pair, channels, wide, fields, weights)
        if "dense" in roles[1:]:
            out = self._project(chain[roles.index("dense", 1)], channels, out, fields, weights)
        if "add" in roles:
            (other,) = (self._values[i] for i in self._nodes[chain[-1] - 1]["inputs"] if i not in chain)
            self._same(other, out)
            reads["other"] = other
            if other.begin + out.stride > other.stride:  # it is read in whole vectors
                raise Unsupported("an addition of some of the channels of a tensor")
        return self._emit(BLOCK, reads, out, weights, middle=channels.structure(), **fields)

    def _mapped(self, chain: list[int]) -> Value:
        """Plan a convolution over all channels whose bias is that of a depthwise 1x1 convolution behind it."""
        (x,), arrays, fields, weights = self._inputs(chain[0]), self._arrays[chain[0] - 1], dict(PLAIN), {}
        channels, bias = self._cut(len(arrays["kernel"])), arrays["bias"]
        after = {"kind": "conv", "fields": {**self._nodes[chain[0] - 1]["fields"], "strides": 1, "padding": 0}}
        arrays["bias"] = np.zeros(len(bias), np.float32)
        wide = self._produce(chain[0], channels, x, fields, weights)
        fields["produce_range"] = RANGES["identity"]
        arrays = {"kernel": np.ones((len(bias), 1, 1, 1), np.float32), "bias": bias}
        out = self._spatial(after, arrays, channels, wide, fields, weights)
        return self._emit(BLOCK, {"input": x, "wide": wide}, out, weights, middle=channels.structure(), **fields)

    def _produce(self, number: int, channels: Channels, x: Value, fields: dict, weights: dict) -> Value:
        node, kernel = self._nodes[number - 1], self._arrays[number - 1]["kernel"]
        (d, _, size, _), strides, padding = kernel.shape, node["fields"]["strides"], node["fields"]["padding"]
        stem = x.memory == {}
        if (size, strides) != (1, 1) if not stem else node["fields"]["dilation"] != 1 or padding > size:
            raise Unsupported(f"a convolution of {size}x{size} with strides {strides} and padding {padding}")
        fields.update(producer=STEM if stem else POINTWISE, stem_kernel=size, stem_strides=strides)
        fields.update({"stem_pad": padding} if stem else {"pad": padding, "border": padding > 0})
        fields["produce_range"] = RANGES[node["fields"]["activation"]]
        kernel = kernel.reshape(d, x.channels * size * size)
        if kernel.shape[1] > MAX_SUM or size > 63:
            raise Unsupported(f"a sum of {kernel.shape[1]} numbers")
        weights["produce_weights"] = channels.pack(kernel.T, 1, (0, 1, 2))
        weights["produce_bias"] = self._bias(number, channels, d)
        return self._new(_grid(x, size, strides, padding) if stem else x.grid, d)

    def _bias(self, number: int, channels: Channels, d: int) -> np.ndarray:
        bias = self._arrays[number - 1]["bias"]
        if bias.shape != (d,):
            raise Unsupported(f"a bias {list(bias.shape)} of a convolution over all channels")
        return padded(bias, 0, channels.size)

    def _spatial(self, node: dict, arrays: dict, channels: Channels, x: Value, fields: dict, weights: dict) -> Value:
        c, kind, strides, bias = x.channels, node["kind"], node["fields"]["strides"], arrays["bias"]
        names = {"per_pixel": "weights", "low_rank": "kernels", "conv": "kernel"}
        taps = len(arrays["weights"]) if kind == "per_pixel" else arrays[names[kind]].shape[-1] ** 2
        size, dilation = round(taps**0.5), node["fields"].get("dilation", 1)
        if size**2 != taps or size % 2 == 0 or size > 63:
            raise Unsupported(f"a kernel of {taps} taps")
        fields["pad"] += node["fields"].get("padding", size // 2)
        height, width = grid = _grid(x, size, strides, fields["pad"], dilation)
        if ((size - 1) * dilation + 1) * (x.grid[1] + 2 * fields["pad"]) * max(self._widths) * self._limit > MAX_RING:
            raise Unsupported(f"a kernel of {taps} taps with dilation {dilation} on a grid {x.grid}")
        rank = len(arrays["kernels"]) // c if kind == "low_rank" else 1
        if kind == "per_pixel":
            packed = channels.pack(arrays["weights"].reshape(taps, c, height, width), 1, (3, 1, 4, 0, 2))
        else:
            packed = channels.pack(arrays[names[kind]].reshape(rank, c, taps), 1, (1, 0, 3, 2))
        if kind == "low_rank":
            gains = arrays["gains"].reshape(-1, c, height, width)
            if rank - len(gains) not in (0, 1) or rank < 1:
                raise Unsupported(f"{len(gains)} gains of {rank} kernels")
            ones = np.ones((rank - len(gains), *gains.shape[1:]), np.float32)  # the first may have none
            gains = np.concatenate([ones, gains])
            weights["gains"] = channels.pack(gains, 1, (3, 1, 0, 4, 2))
        if bias.ndim == 3:
            weights["bias"] = channels.pack(bias.reshape(c, height, width), 0, (2, 0, 3, 1))
        else:
            weights["bias"] = padded(bias.reshape(c), 0, channels.size)
        weights["weights"] = packed
        fields.update(spatial=SPATIAL[kind], kernel=size, strides=strides, dilation=dilation, rank=rank)
        fields["bias_map"] = bias.ndim == 3
        fields["range"] = RANGES[node["fields"]["activation"]]
        return self._new(grid, c)

    def _project(self, number: int, middle: Channels, x: Value, fields: dict, weights: dict) -> Value:
        kernel = self._arrays[number - 1]["kernel"]
        channels = self._cut(len(kernel))
        kernel = kernel.reshape(len(kernel), x.channels).T
        rows = [part.reshape(-1, len(kernel[0])) for part in middle.cut(kernel, 0)]
        weights["project_weights"] = np.concatenate([channels.pack(part, 1, (0, 1, 2)) for part in rows])
        weights["project_bias"] = self._bias(number, channels, kernel.shape[1])
        fields.update(project=1, last=channels.structure())
        fields["project_range"] = RANGES[self._nodes[number - 1]["fields"]["activation"]]
        return self._new(x.grid, kernel.shape[1])

    def _full(self, chain: list[int]) -> Value:
        """Plan a convolution over all channels with several taps; each is a pointwise one of some of the pixels."""
        (x,), node, kernel = self._inputs(chain[0]), self._nodes[chain[0] - 1], self._arrays[chain[0] - 1]["kernel"]
        (d, inputs, size, _), options = kernel.shape, node["fields"]
        if inputs != x.channels or inputs > MAX_SUM or size > 63:
            raise Unsupported(f"a convolution of {size}x{size} for {inputs} of {x.channels} channels")
        channels = self._cut(d)
        taps = kernel.reshape(d, inputs, size * size).transpose(2, 1, 0)
        packed = np.concatenate([channels.pack(tap, 1, (0, 1, 2)) for tap in taps])
        weights = {"project_weights": packed, "project_bias": self._bias(chain[0], channels, d)}
        fields = {"kernel": size, "strides": options["strides"], "dilation": options["dilation"]}
        fields |= {"pad": options["padding"], "last": channels.structure()}
        fields["project_range"] = RANGES[options["activation"]]
        out = self._new(_grid(x, size, options["strides"], options["padding"], options["dilation"]), d)
        return self._emit(CONV, {"input": x}, out, weights, **fields)

    def _resize(self, chain: list[int]) -> Value:
        """Plan a bilinear resize; the last one writes [channels][h][w], as the output is."""
        (x,), (height, width) = self._inputs(chain[0]), self._nodes[chain[0] - 1]["fields"]["grid"]
        if type(height) is not int or type(width) is not int:
            raise Unsupported(f"a grid {height!r} x {width!r}")
        last = chain[0] == len(self._nodes)
        out = Value(height, width, x.channels, x.channels) if last else self._new((height, width), x.channels)
        out.planar = last
        weights = {"gains": _between(x.grid[0], height), "weights": _between(x.grid[1], width)}
        return self._emit(RESIZE, {"input": x}, out, weights, step=last)

    def _linear(self, chain: list[int]) -> Value:
        """Plan a linear layer of channels, or of a flattened grid: a part of the pixels at a time, then the sum."""
        (x,), arrays = self._inputs(chain[0]), self._arrays[chain[0] - 1]
        pixels, d = x.grid[0] * x.grid[1], len(arrays["kernel"])
        kernel, width = arrays["kernel"].reshape(d, pixels, x.channels), x.channels
        if pixels > 1:  # padding between the pixels is read too
            kernel, width = padded(kernel, 2, x.stride), x.stride
        if width > MAX_SUM or (pixels > 1 and x.begin):
            raise Unsupported(f"a linear layer of {x.channels} channels on a grid {x.grid}")
        step, total, bias = MAX_SUM // width, None, self._bias(chain[0], self._cut(d), d)
        for first in range(0, pixels, step):
            part = kernel[:, first : first + step].reshape(d, -1)
            of_part = Value(1, 1, part.shape[1], pixels * x.stride, x.memory, x.begin + first * x.stride)
            out = self._product(of_part, part, bias if total is None else np.zeros_like(bias))
            reads = {"input": total, "other": out}
            total = out if total is None else self._emit(ADD, reads, self._new((1, 1), d), {})
        return total

    def _product(self, x: Value, kernel: np.ndarray, bias: np.ndarray) -> Value:
        channels = self._cut(len(kernel))
        weights = {"project_weights": channels.pack(kernel.T, 1, (0, 1, 2)), "project_bias": bias}
        fields = {"last": channels.structure(), "project_range": RANGES["identity"]}
        return self._emit(LINEAR, {"input": x}, self._new((1, 1), len(kernel)), weights, **fields)

    def _flatten(self, chain: list[int]) -> Value:
        return self._inputs(chain[0])[0]  # the linear layer reads the grid as it lies

    def _global_depthwise(self, chain: list[int]) -> Value:
        """Plan a sum of weighted pixels as the average of those times as large."""
        (x,), weights = self._inputs(chain[0]), self._arrays[chain[0] - 1]["weights"]
        channels, packed = self._cut(x.channels), {}
        node = {"kind": "per_pixel", "fields": {"strides": 1, "activation": "identity"}}
        arrays = {"weights": weights * (x.grid[0] * x.grid[1]), "bias": np.zeros(x.channels, np.float32)}
        fields = dict(PLAIN)
        out = self._spatial(node, arrays, channels, x, fields, packed)
        reads = {"input": x, "wide": x}
        weighted = self._emit(BLOCK, reads, out, packed, middle=channels.structure(), **fields)
        return self._emit(MEAN, {"input": weighted}, self._new((1, 1), x.channels), {})

    @staticmethod
    def _same(one: Value, other: Value) -> None:
        if (one.grid, one.channels) != (other.grid, other.channels):
            raise ValueError(f"an addition of {one.grid} x {one.channels} and {other.grid} x {other.channels}")

    def _add(self, chain: list[int]) -> Value:
        one, other = self._inputs(chain[0])
        self._same(one, other)
        return self._emit(ADD, {"input": one, "other": other}, self._new(one.grid, one.channels), {})

    def _max_pool(self, chain: list[int]) -> Value:
        (x,) = self._inputs(chain[0])
        return self._emit(MAX_POOL, {"input": x}, self._new([(n - 1) // 2 + 1 for n in x.grid], x.channels), {})

    def _mean(self, chain: list[int]) -> Value:
        (x,) = self._inputs(chain[0])
        return self._emit(MEAN, {"input": x}, self._new((1, 1), x.channels), {})

    def _channels(self, chain: list[int]) -> Value:
        (x,), fields = self._inputs(chain[0]), self._nodes[chain[0] - 1]["fields"]
        begin, end = range(x.channels + 1)[fields["begin"]], range(x.channels + 1)[fields["end"]]
        return Value(*x.grid, end - begin, x.stride, x.memory, x.begin + begin)

    def _concat(self, chain: list[int]) -> Value:
        """Plan a concatenation; followed by a shuffle, each input goes to every second channel."""
        inputs, begin = self._inputs(chain[0]), 0
        out = self._new(inputs[0].grid, sum(x.channels for x in inputs))
        halves = len(chain) == 2 and [x.channels * 2 for x in inputs] == [out.channels] * 2
        if len(chain) == 2 and not halves:
            raise Unsupported("a shuffle of more than two tensors")
        for i, (x, number) in enumerate(zip(inputs, self._nodes[chain[0] - 1]["inputs"])):  # noqa: B905
            whole = x.memory.get("of") is x and x.channels == x.stride and x.grid == out.grid
            if whole and not halves and self._reads.count(number) == 1:  # it is written there at once
                x.memory, x.begin, x.stride, out.memory["of"] = out.memory, begin, out.stride, None
            else:
                self._move(x, out, i if halves else begin, 2 if halves else 1)
            begin += x.channels
        return out

    def _shuffle(self, chain: list[int]) -> Value:
        (x,) = self._inputs(chain[0])
        out, half = self._new(x.grid, x.channels), x.channels // 2
        for i in range(2):
            self._move(Value(*x.grid, half, x.stride, x.memory, x.begin + i * half), out, i, 2)
        return out

    def _move(self, x: Value, out: Value, begin: int, step: int) -> None:
        if x.grid != out.grid:
            raise ValueError(f"a concatenation of grids {x.grid} and {out.grid}")
        into = Value(*out.grid, x.channels, out.stride, out.memory, begin)
        self._emit(MOVE, {"input": x}, into, {}, step=step)

    def _place(self) -> int:
        """Place every tensor where no other is while it is needed; return the floats of all."""
        until: dict[int, int] = {id(self.value.memory): len(self._planned)}
        for i, (_, values, _) in enumerate(self._planned):
            for value in values.values():
                until[id(value.memory)] = max(i, until.get(id(value.memory), 0))
        living: list[tuple[int, int, int]] = []  # begin, end, the last operation that needs it
        total = 0
        for i, (_, values, _) in enumerate(self._planned):
            living = [entry for entry in living if entry[2] >= i]
            memory, base = values["out"].memory, 0
            if "base" in memory:
                continue
            for begin, end, _ in sorted(living):
                if base + memory["floats"] > begin:
                    base = max(base, end)
            memory["base"] = base
            living.append((base, base + memory["floats"], until[id(memory)]))
            total = max(total, base + memory["floats"])
        return total

    def _finish(self) -> Any:
        """Return the operations with the addresses of their weights, which lie in the order of the operations."""
        sizes = [-(-array.size // 16) * 16 for _, _, weights in self._planned for array in weights.values()]
        self._memory, at = memory(sum(sizes)), 0
        for op, values, weights in self._planned:
            op.other.base = -1
            for name, value in values.items():
                setattr(op, name, value.structure())
            while weights:  # none is kept twice
                name, array = weights.popitem()
                self._memory[at : at + array.size] = array.ravel()
                setattr(op, name, self._memory[at:].ctypes.data)
                at += -(-array.size // 16) * 16
        ops = (_Op * len(self._planned))(*(op for op, _, _ in self._planned))
        del self._arrays, self._planned
        return ops


def _grid(x: Value, size: int, strides: int, padding: int, dilation: int = 1) -> list[int]:
    return [(length + 2 * padding - (size - 1) * dilation - 1) // strides + 1 for length in x.grid]


def _between(length: int, to: int) -> np.ndarray:
    """Return the two of ``length`` pixels that each of ``to`` pixels lies between, and the share of the second one."""
    at = np.clip((np.arange(to) + 0.5) * (length / to) - 0.5, 0, length - 1)
    low = np.floor(at)
    return np.stack([low, np.minimum(low + 1, length - 1), at - low], axis=1).astype(np.float32)


def memory(floats: int) -> np.ndarray:
    """Return aligned memory, in huge pages where the system has them."""
    pages = mmap.mmap(-1, max(4 * floats, 1))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.float32, floats)


class Model:
    """Model with its threads and its memory; call it with images. ``metadata`` is the exporter's."""

    def __init__(self, metadata: dict[str, Any], plan: Plan, lib: Any, size: tuple, threads: int) -> None:
        """Take a plan for images of a height and width."""
        self.metadata, self.plan, self._lib, self._size = metadata, plan, lib, size
        self._lock, self._pools, self._arena, self._holds = threading.Lock(), {}, None, 0
        self._process = os.getpid()
        weakref.finalize(self, _free, lib, self._pools, self._process)
        self.use(threads)

    def use(self, threads: int) -> None:
        """Use that many threads from now on."""
        if threads < 1:
            raise ValueError(f"threads={threads} must be at least 1.")
        self._threads = threads

    def _pool(self) -> int:
        if self._process != os.getpid():  # forked: no thread but the caller's is left
            self._pools, self._process = {}, os.getpid()
        if self._threads not in self._pools:
            self._pools[self._threads] = self._lib.make_pool(self._threads)
        return self._pools[self._threads]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return outputs ``float32 [n, d]``, or ``[n, classes, h, w]``, of images ``float32 [n, 3, h, w]``."""
        images = np.ascontiguousarray(images, np.float32)
        if images.shape[1:] != (3, *self._size):
            expected = "[n, 3, {}, {}]".format(*self._size)
            raise ValueError(f"images {list(images.shape)} must be {expected}; resize them, channels first.")
        step = max(1, MAX_BYTES // (4 * self.plan.floats))
        with self._lock:
            found = [self._run(images[i : i + step]) for i in range(0, max(len(images), 1), step)]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _run(self, images: np.ndarray) -> np.ndarray:
        plan, value, n = self.plan, self.plan.value, len(images)
        if n > self._holds or self._arena is None:
            self._arena, self._holds = memory(n * plan.floats), n
        if n:
            self._lib.run(self._pool(), plan.ops, len(plan.ops), n, images.ctypes.data, self._arena.ctypes.data)
        begin, (height, width) = n * value.memory["base"], value.grid
        out = self._arena[begin : begin + n * height * width * value.stride]
        if value.planar:
            return out.reshape(n, value.channels, height, width).copy()
        out = out.reshape(n, height, width, value.stride)[..., value.begin : value.begin + value.channels].copy()
        return out[:, 0, 0] if value.grid == (1, 1) else out.transpose(0, 3, 1, 2)


def _free(lib: Any, pools: dict[int, int], process: int) -> None:
    """End a model's threads; in a forked process there are none."""
    if process == os.getpid():
        for pool in pools.values():
            lib.free_pool(pool)


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the metadata and the arrays, in float32, of a safetensors file; nothing in it is executed."""
    data, arrays = memoryview(Path(path).read_bytes()), {}
    try:
        (size,) = struct.unpack("<Q", data[:8])
        header = json.loads(bytes(data[8 : 8 + size]))
        metadata = json.loads(header.pop("__metadata__")["tvconv_jax"])
        for name, entry in header.items():
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            array = np.frombuffer(data[begin:end], DTYPES[entry["dtype"]])
            arrays[name] = array.reshape(entry["shape"]).astype(np.float32, copy=False)
        for name in [name for name in arrays if name.endswith(".scale")]:
            arrays[name[: -len(".scale")]] *= arrays.pop(name)  # of int8, so a copy that may be written
    except (struct.error, *WRONG) as error:
        raise ValueError(f"{path} is not a model exported by tvconv_jax, or is cut off ({error}).") from None
    return metadata, arrays


def _processor() -> str:
    """Describe the processor, on which -march=native depends."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = [platform.processor()]
    keys = ("model name", "flags", "Features", "CPU part", "CPU implementer")
    return platform.machine() + "\n".join(sorted({line for line in lines if line.startswith(keys)}))


def _output_of(command: Sequence[str]) -> str:
    """Return the output of a command; raise its first line with an error, if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["?"]
        raise RuntimeError(f"{command[0]} cannot compile native.cpp: {lines[0]}; set CXX to another C++17 compiler.")
    return done.stdout


def compiled() -> Path:
    """Return the engine's library for this machine, compiled if it is not cached."""
    source = Path(__file__).with_name("native.cpp")
    if not source.is_file():
        raise FileNotFoundError(f"{source} is not there; copy native.cpp beside native.py.")
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "c++", "clang++"]
    compiler = next(filter(None, map(shutil.which, names)), None)
    if compiler is None:
        raise RuntimeError(f"there is no C++ compiler ({', '.join(names)}): sudo apt-get install g++, or set CXX.")
    about = [source.read_text(), *FLAGS, _output_of([compiler, "--version"]), _processor()]
    key = hashlib.sha256("\0".join(about).encode()).hexdigest()[:32]
    try:
        folder = Path(os.environ.get("TVCONV_JAX_CACHE") or "~/.cache/tvconv_jax/native").expanduser()
    except RuntimeError:
        raise RuntimeError("there is no home directory for the engine: set TVCONV_JAX_CACHE to a folder.") from None
    library = folder / f"{key}.so"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise PermissionError("it belongs to another user, who could put other code there")
        if library.exists():
            return library
        handle, name = tempfile.mkstemp(suffix=".so", dir=folder)
        os.close(handle)
    except OSError as error:
        raise RuntimeError(f"{folder} cannot hold the engine ({error}): set TVCONV_JAX_CACHE to a folder.") from None
    try:
        _output_of([compiler, *FLAGS, "-o", name, str(source)])
        os.replace(name, library)  # whole, or not there
    finally:
        Path(name).unlink(missing_ok=True)
    return library


def engine() -> Any:
    """Load the compiled functions."""
    library = compiled()
    try:
        lib = ctypes.CDLL(str(library))
    except OSError as error:
        hint = "delete that file, or set TVCONV_JAX_CACHE to a folder that may hold programs."
        raise RuntimeError(f"{error}: {hint}") from None
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    lib.size_of_op.restype, lib.make_pool.restype = integer, pointer
    lib.free_pool.argtypes, lib.free_pool.restype = [pointer], None
    lib.run.argtypes, lib.run.restype = [pointer, pointer, integer, integer, pointer, pointer], None
    if lib.size_of_op() != ctypes.sizeof(_Op):
        raise RuntimeError("native.py and native.cpp are of different versions; copy both from one export.")
    return lib


def load(path: str | Path, threads: int = 1, *, fuse: bool = True) -> Model:
    """Load a ``.safetensors`` file that ``python -m tvconv_jax.export`` wrote.

    Args:
        path: The file.
        threads: Threads of a run.
        fuse: Whether expansion, spatial operator, projection and addition become one operation.

    Returns:
        A function of images ``float32 [n, 3, h, w]`` that returns ``float32 [n, d]``, or of masks
        ``[n, classes, h, w]``.

    Raises:
        ValueError: If the file is not such a model, or of a kind that the engine does not run.
        RuntimeError: If there is no C++ compiler, or no folder for the compiled engine.
    """
    metadata, arrays = read(path)
    lib = engine()
    try:
        _, channels, *size = metadata["input"]["shape"]
        if channels != 3 or len(size) != 2 or not all(type(length) is int for length in size):
            raise Unsupported("an image " + " x ".join(map(str, (channels, *size))))
        size = tuple(size)
        plan = Plan(metadata["nodes"], arrays, size, lib, fuse)
    except ValueError as error:
        raise ValueError(f"{path} is not loaded: {' '.join(str(error).split())}") from None
    except WRONG as error:
        raise ValueError(f"{path} is not a model exported by tvconv_jax ({type(error).__name__}: {error}).") from None
    return Model(metadata, plan, lib, size, threads)
