"""Graphs as artifacts of the native engine: ``model.safetensors`` with the engine's code."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tvconv_jax.export.graph import Graph
from tvconv_jax.export.native import native
from tvconv_jax.export.quantize import Precision
from tvconv_jax.export.torch.writer import to_safetensors
from tvconv_jax.utils.errors import UserError


def write_files(
    folder: Path, graph: Graph, metadata: dict[str, Any], precision: Precision, lowering: str
) -> list[tuple[str, str, Callable]]:
    """Write the weights, ``native.py`` and ``native.cpp``; see :func:`tvconv_jax.export.artifacts.load_format`."""
    weights = folder / "model.safetensors"
    weights.write_bytes(to_safetensors(graph, metadata, precision=precision))
    for name in ("native.py", "native.cpp"):
        shutil.copyfile(Path(native.__file__).with_name(name), folder / name)
    return [(weights.name, "for native.py", _explained(lambda: native.load(weights)))]


def check_compiler() -> None:
    """Compile the engine, unless it is cached; raise a ``UserError`` if nothing here can."""
    _explained(native.compiled)


def _explained(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (ValueError, RuntimeError, OSError) as error:  # another kind of model; no compiler
        raise UserError(str(error)) from None
