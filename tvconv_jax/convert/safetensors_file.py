"""Safetensors files as state dicts. Source: the format, https://huggingface.co/docs/safetensors."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from tvconv_jax.utils.plain_files import parse_json

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}
DTYPES |= {"BOOL": "?", "BF16": "<u2", "U16": "<u2", "U32": "<u4", "U64": "<u8"}
_MAX_HEADER = 100_000_000  # bytes, the format's own limit


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Read all tensors of a file; bfloat16 comes as float32.

    Args:
        path: The file.

    Raises:
        ValueError: If it is damaged; the message fits behind its name.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, _MAX_HEADER):
            raise ValueError("its header is longer than the file")
        try:
            header = parse_json(file.read(length))
        except ValueError:
            raise ValueError("its header is damaged") from None
    if not isinstance(header, dict):
        raise ValueError("its header is damaged")
    data = np.memmap(path, np.uint8, "r", 8 + length) if size > 8 + length else np.zeros(0, np.uint8)
    return {name: _array(name, entry, data) for name, entry in header.items() if name != "__metadata__"}


def _array(name: str, entry: Any, data: np.ndarray) -> np.ndarray:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if any(type(value) is not int or value < 0 for value in (*shape, begin, end)) or dtype not in DTYPES:
            raise ValueError("of another kind")
        if end > len(data) or end - begin != math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize:
            raise ValueError("of another size")
    except (ValueError, TypeError, KeyError):
        name = "".join(letter for letter in name if letter.isprintable())[:60]
        raise ValueError(f"{name} is damaged, truncated or of a kind that is not read") from None
    array = np.frombuffer(data[begin:end].tobytes(), DTYPES[dtype])
    array = (array.astype("<u4") << 16).view("<f4") if dtype == "BF16" else array
    return array.reshape(shape)
