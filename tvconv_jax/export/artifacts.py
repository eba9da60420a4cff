"""Artifacts of a graph: each file is written, run on images and compared; all are kept or none."""

import importlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from tvconv_jax.edge import predict, verify
from tvconv_jax.edge.benchmark import TOLERANCES
from tvconv_jax.export import owned
from tvconv_jax.export.graph import Graph
from tvconv_jax.export.quantize import Precision
from tvconv_jax.utils.cli import check_output_folder
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.extras import require
from tvconv_jax.utils.progress import reporter

PREDICT, VERIFY = "predict.py", "verify.py"  # run a model on a device; the latter finds faces in photographs
# Of all formats.
FILES = ("model.onnx", "model.safetensors", "model.py", "model.pt2", "native.py", "native.cpp", PREDICT, VERIFY)
PACKAGES = {"onnx": ("onnx", "onnxruntime"), "torch": ("torch",), "native": ()}  # modules that each format needs
CHECK = owned.CHECK
AUTO = "auto"  # the lowering that is fastest on this machine
CHECKED = 8  # images in check.npz, for the check on the device


class Artifact(NamedTuple):
    """A file that was written and ran."""

    file: str  # its name
    size: int  # bytes
    difference: float  # largest, from the JAX model
    note: str  # runtime or lowering


def difference(output: str, found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference: of embeddings at unit length, of logits relative to the largest logit."""
    if found.shape != expected.shape or not np.all(np.isfinite(found)):
        return float("inf")
    if output == "embeddings":
        found, expected = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (found, expected))
        return float(np.abs(found - expected).max())
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def check_folder(out: Path) -> None:
    """Raise a ``UserError`` if a folder cannot be written, or holds files in the way that no export wrote."""
    try:
        check_output_folder(out)
    except UserError as error:
        raise UserError(f"--out={error}") from None
    owned.check_owned(out, (*FILES, CHECK))


def check_formats(graph: Graph, formats: Sequence[str]) -> None:
    """Raise a ``UserError`` if the model has modules that a format cannot hold."""
    kinds = {type(node.fields["module"]).__name__: None for node in graph.nodes if node.kind == "module"}
    others = [name for name in formats if name != "onnx"]
    if kinds and others:
        raise UserError(
            f"--formats={','.join(formats)}: {' and '.join(kinds)} cannot be frozen; {' and '.join(others)} artifacts "
            "hold operators that can: depthwise, tvconv, tvconv_linear, tvconv_lowrank, locally_connected; give "
            "--formats=onnx."
        )


def check_packages(formats: Sequence[str]) -> None:
    """Raise a ``UserError`` if a package or a compiler that writes or runs files of these formats is missing."""
    if modules := [module for name in formats for module in PACKAGES[name]]:
        require("export", *modules, purpose=f"--formats={','.join(formats)}")
    if "native" in formats:
        load_format("native").check_compiler()


def check_lowering(graph: Graph, formats: Sequence[str], lowering: str) -> None:
    """Raise a ``UserError`` if a graph has no lowering of that name, or the formats have no ONNX."""
    if "onnx" not in formats:
        raise UserError(f"--lowering={lowering} is for ONNX, this is --formats={','.join(formats)}; leave one out.")
    names = load_format("onnx").lowerings(graph)
    if lowering not in names:
        raise UserError(
            f"--lowering={lowering} is not one of this model's lowerings at this --rank: auto, {', '.join(names)}."
        )


def load_format(name: str) -> ModuleType:
    """Return the module of a format.

    Its ``write_files(folder, graph, metadata, precision, lowering)`` returns for each file that can run: its name, a
    note, and a function of images ``[n, 3, h, w]`` to ``[n, d]``, or ``[n, classes, h, w]``.
    """
    return importlib.import_module(f"tvconv_jax.export.{name}.writer")


@reporter.doing("writing, timing and checking the files")
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
    """Write artifacts and ``check.npz`` into a folder, once all of them agree with the JAX model.

    Beside them is the program that can run them: ``verify.py`` for faces, else ``predict.py``.

    Args:
        out: The folder. Files of ``FILES`` that an earlier export wrote are replaced, or removed if they are not of
            ``formats``; other files of these names are refused.
        graph: The graph.
        metadata: Stored in every artifact.
        formats: ``"onnx"``, ``"torch"``, ``"native"``.
        precision: Of the stored weights.
        images: Normalized images of the run, ``[n, 3, h, w]``.
        expected: The JAX model's outputs, ``[n, d]`` or ``[n, classes, h, w]``.
        lowering: Of :func:`tvconv_jax.export.onnx.writer.lowerings`, for ONNX; ``"auto"``: the fastest here.

    Raises:
        UserError: If an artifact differs, or a file is in the way that no export wrote; nothing is left behind then.
    """
    output, found = metadata["output"]["name"], []
    out.parent.mkdir(parents=True, exist_ok=True)
    # Files are moved within one disk; an existing folder may be on another disk than its parent.
    beside = out if out.exists() else out.parent
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=beside) as part:
        folder = Path(part)
        for name in formats:
            for file, note, run in load_format(name).write_files(folder, graph, metadata, precision, lowering):
                worst = difference(output, *_run(run, images, expected))
                if not worst <= TOLERANCES[output]:
                    raise UserError(
                        f"{file} differs from the JAX model by {worst:.1e}, more than {TOLERANCES[output]:.0e}; "
                        f"nothing was written. This is a bug of the exporter or of the runtime: please report it."
                    )
                found.append(Artifact(file, (folder / file).stat().st_size, worst, note))
        for program in programs(metadata, formats):
            shutil.copyfile(program.__file__, folder / Path(program.__file__).name)
        owned.write_check(folder, {"images": images[:CHECKED], output: expected[:CHECKED]})
        _publish(folder, out)
    return found


def programs(metadata: dict[str, Any], formats: Sequence[str]) -> list[ModuleType]:
    """Return the module whose file runs artifacts of these formats on a device, if there is one."""
    faces = metadata["output"]["name"] == "embeddings" and metadata.get("config", {}).get("task", "face") == "face"
    return [verify if faces else predict] if {"onnx", "native"} & set(formats) else []


def _run(run: Callable, images: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Run one image alone and the others by sixteen, since an artifact takes any batch; repeat fewer than seventeen."""
    repeated = np.arange(max(len(images), 17)) % len(images)
    images = images[repeated]
    found = [run(images[:1]), *(run(images[i : i + 16]) for i in range(1, len(images), 16))]
    return np.concatenate(found), expected[repeated]


def _publish(folder: Path, out: Path) -> None:
    """Move every file, whole or not at all, and ``check.npz`` last; remove an earlier export's other files.

    Files that no export wrote are refused again, since they may have come in the meantime.
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
    (out / owned.JOURNAL).unlink(missing_ok=True)
