"""Graphs as PyTorch artifacts: ``model.safetensors``, the module ``model.py``, a ``torch.export`` program."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tvconv_jax.export.graph import Graph, Node
from tvconv_jax.export.quantize import Precision, stored

# PyTorch's layouts of a node's arrays, for images [n, c, h, w].
LAYOUTS = {
    "kernel": lambda a: a.transpose(3, 2, 0, 1) if a.ndim == 4 else a.T,
    "weights": lambda a: a.transpose(2, 3, 0, 1),  # [k * k, c, ho, wo]
    "kernels": lambda a: a.transpose(0, 3, 1, 2).reshape(-1, 1, *a.shape[1:3]),  # four axes can be channels last
    "gains": lambda a: a.transpose(0, 3, 1, 2),
    "bias": lambda a: a if a.ndim == 1 else a.transpose(2, 0, 1),
}


def to_safetensors(graph: Graph, metadata: dict[str, Any], *, precision: Precision = "float32") -> bytes:
    """Return the bytes of a safetensors file: the weights, and the nodes in its metadata.

    Args:
        graph: The graph, as :func:`tvconv_jax.export.quantize.quantize` left it.
        metadata: Stored as JSON under the key ``tvconv_jax``; ``nodes`` is added.
        precision: Of the stored weights.

    Source: the format, https://huggingface.co/docs/safetensors.
    """
    arrays: dict[str, np.ndarray] = {}
    for number, node in enumerate(graph.nodes, start=1):
        for name in node.arrays:
            arrays |= {f"{number}.{part}": a for part, a in _stored(node, name, precision).items()}
    nodes = [
        {"kind": node.kind, "inputs": node.inputs, "fields": node.fields, "arrays": list(node.arrays)}
        for node in graph.nodes
    ]
    header: dict[str, Any] = {"__metadata__": {"tvconv_jax": json.dumps({**metadata, "nodes": nodes})}}
    offset = 0
    for name, array in arrays.items():
        kind = {"float32": "F32", "float16": "F16", "int8": "I8"}[array.dtype.name]
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in arrays.values())


def _stored(node: Node, name: str, precision: Precision) -> dict[str, np.ndarray]:
    array = np.ascontiguousarray(LAYOUTS[name](node.arrays[name]))
    if name == "bias" or precision == "float32":
        return {name: array}
    if name not in node.scales:
        return {name: stored(array, None, precision)}
    scale = np.ascontiguousarray(LAYOUTS[name](node.scales[name]))
    return {name: stored(array, scale, precision), f"{name}.scale": scale}


def write_files(
    folder: Path, graph: Graph, metadata: dict[str, Any], precision: Precision, lowering: str
) -> list[tuple[str, str, Callable]]:
    """Write the weights, ``model.py`` and ``model.pt2``; see :func:`tvconv_jax.export.artifacts.load_format`."""
    import torch

    from tvconv_jax.export.torch import model as torch_model

    weights, program = folder / "model.safetensors", folder / "model.pt2"
    weights.write_bytes(to_safetensors(graph, metadata, precision=precision))
    shutil.copyfile(torch_model.__file__, folder / "model.py")
    model, images = torch_model.load(weights), torch.zeros(2, 3, *graph.shapes[0][:2])
    exported = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    torch.export.save(exported, program, extra_files={"tvconv_jax.json": json.dumps(metadata)})

    def runner(module: torch.nn.Module) -> Callable[[np.ndarray], np.ndarray]:
        return torch.inference_mode()(lambda images: module(torch.from_numpy(images)).numpy())

    return [
        (weights.name, "for model.py", runner(model)),
        (program.name, "torch.export", runner(torch.export.load(program).module())),
    ]
