"""A model exported by tvconv_jax, for PyTorch: one file that imports torch alone.

    from model import load
    model = load("model.safetensors")
    embeddings = model(images)          # [n, 3, s, s] float32 RGB, (x / 255 - 0.5) / 0.5

Under ``torch.compile`` with ``torch._inductor.config.freezing = True``, channels last, every per-pixel convolution
becomes one loop over memory.
"""

import json
import struct

import torch
from torch import nn
from torch.nn import functional as F

ACTIVATIONS = {"identity": lambda x: x, "relu": F.relu, "relu6": F.relu6}


class Model(nn.Module):
    """Runs a list of nodes; weights are buffers, named by node and array."""

    def __init__(self, nodes, arrays):
        super().__init__()
        self.nodes = nodes
        for name, array in arrays.items():
            self.register_buffer("node" + name.replace(".", "_"), array)
        self.eval()

    def forward(self, images):
        values = [images]
        for number, node in enumerate(self.nodes, start=1):
            arrays = {name: getattr(self, f"node{number}_{name}") for name in node["arrays"]}
            values.append(OPERATIONS[node["kind"]](node["fields"], arrays, *(values[i] for i in node["inputs"])))
        return values[-1]


def conv(fields, arrays, x):
    bias = arrays["bias"]
    y = F.conv2d(
        x,
        arrays["kernel"],
        bias if bias.ndim == 1 else None,
        fields["strides"],
        fields["padding"],
        fields["dilation"],
        fields["groups"],
    )
    return ACTIVATIONS[fields["activation"]](y if bias.ndim == 1 else y + bias)


def per_pixel(fields, arrays, x):
    """Weights ``[k * k, c, ho, wo]``: one shifted view of the input each, times its weights, summed."""
    weights, bias, strides = arrays["weights"], arrays["bias"], fields["strides"]
    side = round(len(weights) ** 0.5)
    height, width = weights.shape[2:]
    x = F.pad(x, [side // 2] * 4)
    total = 0
    for tap in range(side * side):
        i, j = divmod(tap, side)
        seen = x[:, :, i : i + strides * (height - 1) + 1 : strides, j : j + strides * (width - 1) + 1 : strides]
        total = total + seen * weights[tap]
    return ACTIVATIONS[fields["activation"]](total + (bias[:, None, None] if bias.ndim == 1 else bias))


def low_rank(fields, arrays, x):
    """A few depthwise convolutions, each times a gain at every pixel; with one gain less the first has none."""
    gains, bias = arrays["gains"], arrays["bias"]
    total, kernels = 0, arrays["kernels"].split(gains.shape[1])
    gains = [1.0] * (len(kernels) - len(gains)) + list(gains)
    for gain, kernel in zip(gains, kernels):  # noqa: B905, Python 3.9 has no strict=
        total = total + gain * F.conv2d(x, kernel, None, fields["strides"], kernel.shape[2] // 2, 1, len(kernel))
    return ACTIVATIONS[fields["activation"]](total + (bias[:, None, None] if bias.ndim == 1 else bias))


def shuffle(_, arrays, x):
    n, channels, height, width = x.shape
    return x.view(n, 2, channels // 2, height, width).transpose(1, 2).reshape(n, channels, height, width)


def resize(fields, arrays, x):
    return F.interpolate(x, fields["grid"], mode="bilinear", align_corners=False)


OPERATIONS = {
    "conv": conv,
    "per_pixel": per_pixel,
    "low_rank": low_rank,
    "linear": lambda _, arrays, x: F.linear(x, arrays["kernel"], arrays["bias"]),
    "add": lambda _, arrays, x, y: x + y,
    "concat": lambda _, arrays, *xs: torch.cat(xs, 1),
    "channels": lambda fields, arrays, x: x[:, fields["begin"] : fields["end"]],
    "shuffle": shuffle,
    "max_pool": lambda _, arrays, x: F.max_pool2d(x, 3, 2, 1),
    "mean": lambda fields, arrays, x: x.mean((2, 3), keepdim=fields["keep_grid"]),
    "resize": resize,
}

DTYPES = {"F32": torch.float32, "F16": torch.float16, "I8": torch.int8}


def read(path):
    """The metadata and the tensors of a safetensors file, without executing anything in it."""
    with open(path, "rb") as file:
        data = file.read()
    try:
        (size,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + size])
        metadata = json.loads(header.pop("__metadata__")["tvconv_jax"])
        tensors = {}
        for name, entry in header.items():
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            if end > len(data):
                raise ValueError(f"{name} ends beyond the file")
            raw = torch.frombuffer(bytearray(data[begin:end]), dtype=DTYPES[entry["dtype"]])
            tensors[name] = raw.reshape(entry["shape"])
    except (struct.error, ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a model exported by tvconv_jax, or is cut off ({error}).") from None
    return metadata, tensors


def dequantised(tensors):
    """Everything as float32; ``name.scale`` holds what a stored array is to be multiplied by."""
    scales = {name: tensor for name, tensor in tensors.items() if name.endswith(".scale")}
    whole = {}
    for name, tensor in tensors.items():
        if name not in scales:
            scale = scales.get(f"{name}.scale")
            whole[name] = tensor.float() if scale is None else tensor.float() * scale.float()
    return whole


def load(path):
    """The model of a ``.safetensors`` file that ``python -m tvconv_jax.export`` wrote."""
    metadata, tensors = read(path)
    return Model(metadata["nodes"], dequantised(tensors))
