"""Writes a graph in every format wanted, runs each file on pictures, and keeps all of them or none."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tvconv_jax.edge.benchmark import TOLERANCES
from tvconv_jax.export import owned
from tvconv_jax.export.graph import Graph
from tvconv_jax.export.precision import Precision
from tvconv_jax.utils.errors import UserError

FORMATS = ("onnx", "torch", "native")
FILES = ("model.onnx", "model.safetensors", "model.py", "model.pt2", "native.py", "native.cpp")  # of all formats
CHECK = owned.CHECK
AUTO = "auto"  # the lowering that is fastest on this machine
CHECKED = 8  # pictures kept in check.npz, for the check on the device

# images [n, 3, s, s] -> [n, d], or [n, classes, h, w]
Run = Callable[[np.ndarray], np.ndarray]


class Artifact(NamedTuple):
    """A file that was written and ran.

    Attributes:
        file: Its name.
        size: Bytes.
        difference: Largest, from the JAX model.
        note: How it was written.
    """

    file: str
    size: int
    difference: float
    note: str


def difference(output: str, found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference: of embeddings brought to unit length, of logits relative to the largest logit."""
    if found.shape != expected.shape or not np.all(np.isfinite(found)):
        return float("inf")
    if output == "embeddings":
        found, expected = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (found, expected))
        return float(np.abs(found - expected).max())
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def check_folder(out: Path) -> None:
    """Refuse a folder that cannot be written, or that holds files in the way which no export wrote.

    Raises:
        UserError: If it is so; says which file or folder it is.
    """
    for path in (out, out.parent):
        nearest = next(parent for parent in (path, *path.parents) if os.path.lexists(parent))
        if not nearest.is_dir():
            raise UserError(f"--out={out} is no folder: {nearest} is something else; choose another --out.")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise UserError(f"--out={out} cannot be written: {nearest} allows no new files; choose another --out.")
    owned.check_owned(out, (*FILES, CHECK))


def check_formats(graph: Graph, formats: Sequence[str]) -> None:
    """Raises a ``UserError`` if the model has modules that a format cannot hold."""
    kinds = {type(node.fields["module"]).__name__: None for node in graph.nodes if node.kind == "module"}
    others = [name for name in formats if name != "onnx"]
    if kinds and others:
        raise UserError(
            f"--formats={','.join(formats)}: {' and '.join(kinds)} cannot be frozen; {' and '.join(others)} artifacts "
            "hold what can: depthwise, tvconv, tvconv_linear, tvconv_lowrank, locally_connected; give --formats=onnx."
        )


def check_lowering(graph: Graph, formats: Sequence[str], lowering: str) -> None:
    """Raises a ``UserError`` if a graph has no lowering of that name, or no ONNX file is asked for."""
    if "onnx" not in formats:
        raise UserError(f"--lowering={lowering} is of ONNX, this is --formats={','.join(formats)}; leave one out.")
    onnx_writer, _ = _onnx()
    if lowering not in (names := onnx_writer.lowerings(graph)):
        raise UserError(f"--lowering={lowering} is none that this model has at this --rank: auto, {', '.join(names)}.")


def write(
    out: Path,
    graph: Graph,
    metadata: dict[str, Any],
    *,
    formats: Sequence[str],
    precision: Precision,
    images: np.ndarray,
    expected: np.ndarray,
    lowering: str = AUTO,
) -> list[Artifact]:
    """Writes artifacts and ``check.npz`` into a folder, once all of them answer as they should.

    Args:
        out: The folder. Files of ``FILES`` that an earlier export wrote are replaced, or removed where ``formats`` has
            none such; other files of these names are refused.
        graph: What to write.
        metadata: Kept in every artifact.
        formats: Of ``FORMATS``.
        precision: In which weights are stored.
        images: Normalized pictures of the run, ``[n, 3, s, s]``.
        expected: What the JAX model answers, ``[n, d]`` or ``[n, classes, h, w]``.
        lowering: Of :func:`tvconv_jax.export.onnx.writer.lowerings`, for ONNX; ``"auto"``: the fastest here.

    Returns:
        What was written.

    Raises:
        UserError: If an artifact answers otherwise, or a file is in the way that no export wrote; nothing is left
            behind then.
    """
    output = metadata["output"]["name"]
    out.parent.mkdir(parents=True, exist_ok=True)
    # Files move within a disk alone, and a folder that is there may be on another one than what it lies in.
    beside = out if out.exists() else out.parent
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=beside) as part:
        folder, found = Path(part), []
        for name in formats:
            options = {"lowering": lowering} if name == "onnx" else {}
            for file, note, run in WRITERS[name](folder, graph, metadata, precision, **options):
                worst = difference(output, *_answers(run, images, expected))
                if not worst <= TOLERANCES[output]:
                    raise UserError(
                        f"{file} differs from the JAX model by {worst:.1e}, more than {TOLERANCES[output]:.0e}; "
                        f"nothing was written. This is a bug of the exporter or of the runtime: please report it."
                    )
                found.append(Artifact(file, (folder / file).stat().st_size, worst, note))
        owned.write_check(folder, {"images": images[:CHECKED], output: expected[:CHECKED]})
        _publish(folder, out)
    return found


def _answers(run: Run, images: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One picture alone, the others sixteen at a time, for an artifact takes any batch; and what they should be.

    Where there are fewer than seventeen, they come again.
    """
    again = np.arange(max(len(images), 17)) % len(images)
    images = images[again]
    found = [run(images[:1]), *(run(images[i : i + 16]) for i in range(1, len(images), 16))]
    return np.concatenate(found), expected[again]


def _publish(folder: Path, out: Path) -> None:
    """Moves every file, each whole or not at all, the one that all are checked with last.

    What an earlier export left and this one did not write is removed: it may be of another model. What no export wrote
    is refused; it may have come while this one computed.
    """
    out.mkdir(exist_ok=True)
    owned.check_owned(out, (*FILES, CHECK))
    written = {path.name for path in folder.iterdir()}
    for name in sorted(written):
        if (out / name).is_dir():
            raise UserError(f"--out={out} holds a folder {name}, where a file goes; choose another --out.")
    owned.begin(folder, out)
    for name in sorted(written - {CHECK}):
        os.replace(folder / name, out / name)
    for name in set(FILES) - written:
        if (out / name).is_file():
            (out / name).unlink()
    os.replace(folder / CHECK, out / CHECK)
    owned.end(out)


def _onnx() -> tuple[Any, Any]:
    """The modules that write ONNX and that run it."""
    try:
        from tvconv_jax.export.onnx import speed as onnx_speed
        from tvconv_jax.export.onnx import writer as onnx_writer
    except ModuleNotFoundError as error:
        raise missing(error) from None
    return onnx_writer, onnx_speed


def _write_onnx(
    folder: Path, graph: Graph, metadata: dict, precision: Precision, *, lowering: str
) -> list[tuple[str, str, Run]]:
    onnx_writer, onnx_speed = _onnx()
    written = {}
    for name in onnx_writer.lowerings(graph) if lowering == AUTO else (lowering,):
        text = json.dumps({**metadata, "lowering": name})
        written[name] = onnx_writer.to_onnx(
            graph, text, lowering=name, precision=precision, output=metadata["output"]["name"]
        )
    fastest, rates = onnx_speed.fastest(written, metadata["input"]["shape"][1:])
    (folder / "model.onnx").write_bytes(written[fastest])
    return [("model.onnx", rates, onnx_speed.runner(folder / "model.onnx"))]


def _write_torch(folder: Path, graph: Graph, metadata: dict, precision: Precision) -> list[tuple[str, str, Run]]:
    try:
        import torch

        from tvconv_jax.export.torch import model as torch_model
        from tvconv_jax.export.torch import writer as torch_writer
    except ModuleNotFoundError as error:
        raise missing(error) from None

    def runner(module: torch.nn.Module) -> Run:
        def run(images: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return module(torch.from_numpy(images)).numpy()

        return run

    weights, program = folder / "model.safetensors", folder / "model.pt2"
    weights.write_bytes(torch_writer.to_safetensors(graph, metadata, precision=precision))
    torch_writer.write_module(folder)
    torch_writer.write_program(weights, program, graph.shapes[0][0], metadata)
    return [
        (weights.name, "for model.py", runner(torch_model.load(weights))),
        (program.name, "torch.export", runner(torch.export.load(program).module())),
    ]


def _write_native(folder: Path, graph: Graph, metadata: dict, precision: Precision) -> list[tuple[str, str, Run]]:
    from tvconv_jax.export.native import native
    from tvconv_jax.export.torch import writer as torch_writer

    weights = folder / "model.safetensors"
    weights.write_bytes(torch_writer.to_safetensors(graph, metadata, precision=precision))
    for name in ("native.py", "native.cpp"):
        shutil.copyfile(Path(native.__file__).with_name(name), folder / name)
    try:
        return [(weights.name, "for native.py", native.load(weights))]
    except (ValueError, RuntimeError, OSError) as error:  # another kind of model; no compiler
        raise UserError(str(error)) from None


def missing(error: ModuleNotFoundError) -> UserError:
    """What to install."""
    return UserError(f"{error.name} is not installed; exporting needs it: pip install 'tvconv_jax[export]'.")


WRITERS = {"onnx": _write_onnx, "torch": _write_torch, "native": _write_native}
