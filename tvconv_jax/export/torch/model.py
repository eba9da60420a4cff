"""Model exported by tvconv_jax, for PyTorch: one file that imports torch alone.

    from model import load
    model = load("model.safetensors")
    outputs = model(images)             # [n, 3, h, w] float32 RGB, (x / 255 - 0.5) / 0.5

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
    """Module that runs a list of nodes; weights are buffers, named by node and array."""

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


def with_bias(fields, arrays, y):
    bias = arrays["bias"]
    return ACTIVATIONS[fields["activation"]](y + (bias[:, None, None] if bias.ndim == 1 else bias))


def conv(fields, arrays, x):
    bias = arrays["bias"] if arrays["bias"].ndim == 1 else None
    steps = (fields[name] for name in ("strides", "padding", "dilation", "groups"))
    y = F.conv2d(x, arrays["kernel"], bias, *steps)
    return with_bias(fields, arrays, y) if bias is None else ACTIVATIONS[fields["activation"]](y)


def per_pixel(fields, arrays, x):
    """Sum shifted views of the input times their weights ``[k * k, c, ho, wo]``."""
    weights, strides = arrays["weights"], fields["strides"]
    size = round(len(weights) ** 0.5)
    height, width = weights.shape[2:]
    x = F.pad(x, [size // 2] * 4)
    total = 0
    for tap in range(size * size):
        i, j = divmod(tap, size)
        view = x[:, :, i : i + strides * (height - 1) + 1 : strides, j : j + strides * (width - 1) + 1 : strides]
        total = total + view * weights[tap]
    return with_bias(fields, arrays, total)


def low_rank(fields, arrays, x):
    """Sum depthwise convolutions, each times a gain at every pixel; with one gain less the first has none."""
    gains, total = arrays["gains"], 0
    kernels = arrays["kernels"].split(gains.shape[1])
    gains = [1.0] * (len(kernels) - len(gains)) + list(gains)
    for gain, kernel in zip(gains, kernels):  # noqa: B905, Python 3.9 has no strict=
        total = total + gain * F.conv2d(x, kernel, None, fields["strides"], kernel.shape[2] // 2, 1, len(kernel))
    return with_bias(fields, arrays, total)


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
    "global_depthwise": lambda _, arrays, x: (x * arrays["weights"]).sum((2, 3)),
    "flatten": lambda _, arrays, x: x.permute(0, 2, 3, 1).flatten(1),
    "resize": resize,
}

DTYPES = {"F32": torch.float32, "F16": torch.float16, "I8": torch.int8}


def read(path):
    """Return the metadata and the tensors of a safetensors file; nothing in it is executed."""
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


def dequantized(tensors):
    """Return all tensors as float32, times their ``name.scale`` where there is one."""
    whole = {}
    for name, tensor in tensors.items():
        if not name.endswith(".scale"):
            scale = tensors.get(f"{name}.scale")
            whole[name] = tensor.float() if scale is None else tensor.float() * scale.float()
    return whole


def load(path):
    """Return the model of a ``.safetensors`` file that ``python -m tvconv_jax.export`` wrote."""
    metadata, tensors = read(path)
    return Model(metadata["nodes"], dequantized(tensors))
