"""The reference's answers in ``tests/golden``, and the seeded weights that they belong to."""

import json
import pathlib
import zlib
from typing import Any

import numpy as np

FOLDER = pathlib.Path(__file__).parent / "golden"


def load(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads ``golden/<name>.npz``.

    Args:
        name: The file's name without its ending.

    Returns:
        ``(arrays, meta)``: arrays by name, with JSON strings (norms by weight name) parsed; ``meta["config"]``,
        and ``meta["state"]``, the reference's state dict as ``[name, shape, kind]`` in order.
    """
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = {key: _parsed(file[key]) for key in file.files}
    return arrays, arrays.pop("meta")


def normal(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 numbers that belong to ``key``."""
    random = np.random.RandomState(zlib.crc32(key.encode()))
    return random.standard_normal(shape).astype(np.float32)


def seeded(name: str, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """One weight of the reference, PyTorch layout, float32.

    Args:
        name: Its name in the state dict, which seeds it.
        shape: Its shape.
        kind: ``"kernel"``, ``"taps"`` (the generator's last convolution), ``"scale"``, ``"bias"``,
            ``"mean"``, ``"var"`` or ``"affinity"``.
    """
    n = normal(name, tuple(shape))
    if kind in ("kernel", "taps"):
        n = n * np.sqrt(2 / np.prod(shape[1:]))
        return (n / 3 if kind == "taps" else n).astype(np.float32)
    values = {
        "scale": 1 + 0.1 * n,
        "bias": 0.1 * n,
        "mean": 0.1 * n,
        "var": np.exp(0.2 * n),
        "affinity": 1 + 0.3 * n,
    }
    return values[kind].astype(np.float32)


def state_dict(meta: dict[str, Any]) -> dict[str, np.ndarray]:
    """The whole seeded state dict of a golden, in the reference's order and layouts."""
    return {name: seeded(name, shape, kind) for name, shape, kind in meta["state"]}


def _parsed(array: np.ndarray) -> Any:
    return json.loads(array.item()) if array.dtype.kind == "U" else array
