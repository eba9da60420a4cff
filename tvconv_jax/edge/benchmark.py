"""Benchmark of exported models on the device itself: speed, memory and correctness. Copy this one file.

    python benchmark.py model.onnx                            checked, weighed, timed
    python benchmark.py --compare A.onnx B.onnx               interleaved; ratios of B over A
    python -m tvconv_jax.edge.benchmark ARTIFACT ...          the same, where tvconv_jax is installed

It needs Python 3.9, numpy and one runtime. An ARTIFACT was written by ``python -m tvconv_jax.export``: ``.onnx``
(onnxruntime; openvino on request), ``.pt2`` (torch; inductor on request), or ``.safetensors`` with its ``model.py``
beside it (torch), or with ``native.py`` and ``native.cpp`` (native: a C++ compiler instead of a runtime). With both
beside it, torch is taken if it is installed; ``--runtime`` names one runtime, or one for each artifact.

``model.py``, ``native.py`` and ``native.cpp`` are code, and a ``.pt2`` can hold some. They run only if an exporter
wrote them: code byte for byte; programs without pickles, libraries and Python expressions. ``--run-code`` says that you
trust anything else.

A ``check.npz`` beside the artifact holds images and the JAX model's outputs. An artifact with other outputs ends the
run with exit code 1. Times are of one run on images in memory, after warm-up.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 9):  # noqa: UP036, the device's Python is older than the package's
    sys.exit("error: this needs Python 3.9 or later, and is run by " + sys.version.split()[0])

import argparse
import contextlib
import hashlib
import importlib
import importlib.util
import io
import json
import logging
import mmap
import os
import platform
import re
import subprocess
import time
import types
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS, MEMORY_BATCH = 5, 8
REST = 0.02  # seconds before each measurement: another runtime's threads keep spinning for a while after their work
MAX_BYTES = 2**30  # of check.npz
# Largest allowed difference: of embeddings at unit length; of logits, relative to the largest.
TOLERANCES = {"embeddings": 1e-4, "logits": 1e-3}
PI_HINT = "on a Raspberry Pi 4 onnxruntime==1.20.1, because 1.21.0 dies of an illegal instruction there"
# SHA-256 of the code that exporters wrote beside artifacts, newest first; this file alone knows them.
KNOWN_CODE = {
    "model.py": (
        "93e84aa6c0c49a5cd9ed4d23932a66ba19b1fff67d1472bd939038d8e2f86442",
        "a3096760a5f4200068470f6a45d5b91cc30c185aa52ef2f1448c11fa5aa963ef",
        "858f0b31016b21d4f05fd0b512326896a0ecfaa5d3c889267896fe53543e9c3f",
        "b8cb6e8090d30091ef85bab4a189dcf1d2a07a9ec89051430d21276a7893c3f9",
        "41315d7e840f9fcf6b6e3d127d9c30c19f287f319f85c8a95e9e30a2164e3f0f",
        "3f55a40479719e5494523870d21e71e20bb0d964dc2cf345a742804d8acc7fe8",
        "e610c933494345b1bc39a8cc688e22ce3fe493b7c0d5c0340da3f12cb1a7121e",
    ),
    "native.py": (
        "bc1d3705e3aba5cc104695f0a5df054ca5a3b71ea63a926542f27effd49f539b",
        "6706bccad2deea6167174a0de75bb8fc10f0b191a7960cc4866681ad8a1fdbfe",
        "3054c27ad75d3bba87c6aba5c655ceee3d9befb052a44bbe00d26e4cba70dd72",
        "2978d782f2596655600de2dacdc3cf5c1800c2073be81fa34d7781df349188b2",
        "8634433d92d278323da269cfbdacb71087380918cb187456ff4a49f36b7d18bb",
        "b5b4ce59742d3462a5354d76d43cfa7111e332efe859a55555e560bd4816962a",
        "bee6dfd55fbd80abbc5f41f4715bfd0e21004318e906d847f24f965305b70a0f",
    ),
    "native.cpp": (
        "0ac4d3b47e57c700879e463f0bb26168bdecd27b74d52073850b6d91c61033bc",
        "cc5cec6794363196eaa9e21144ee39fa7fdabd151164e5ab9ad553eabdb469d6",
        "f8d9d9d008d9fb37c03cd303c88b9fbf8c29e26d593377bb2252401f93fd5eff",
    ),
}
# Paths of these files in a checkout, below export/.
PACKAGED = {"model.py": "torch/model.py", "native.py": "native/native.py", "native.cpp": "native/native.cpp"}
ARM_CORES = {"0xd03": "Cortex-A53", "0xd08": "Cortex-A72", "0xd0b": "Cortex-A76"}


class Mistake(Exception):
    """One line for the user, and the exit code: 2, or 1 for an artifact with wrong outputs."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(" ".join(message.split()))
        self.code = code


class OnnxRuntime:
    """A model in onnxruntime, with a session for each number of threads; other runtimes have the same methods."""

    name, package, suffixes = "onnxruntime", "onnxruntime", (".onnx",)
    code: tuple[str, ...] = ()  # files that a .safetensors needs beside it
    on_request = False  # whether --runtime must name it

    def __init__(self, path: Path, threads: int, *, run_code: bool = False) -> None:
        self.path, self.run_code, self.sessions = path, run_code, {}
        self.module = importlib.import_module(self.package)
        text = self.read(threads)
        try:
            self.metadata = json.loads(text or "")
            self.batch, *self.shape = self.metadata["input"]["shape"]  # a batch of None is any
            self.output = self.metadata["output"]["name"]
            self.task = self.metadata.get("task")  # None of artifacts before there were several
            about = f" for {self.task}, " if self.task else ", "
            self.title = "{name} x{width} {operator}".format(**self.metadata) + about + self.name
            self.allowed = TOLERANCES[self.output]
        except (ValueError, TypeError, KeyError):
            raise Mistake(f"{path} holds no metadata of tvconv_jax; python -m tvconv_jax.export writes it.") from None
        if self.metadata.get("rank", "exact") != "exact":
            self.title += f", rank {self.metadata['rank']}"

    def read(self, threads: int) -> str | None:
        """Read the file and return the exporter's metadata in it."""
        check_onnx(self.path)
        return self._session(threads).get_modelmeta().custom_metadata_map.get("tvconv_jax")

    def call(self, images: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
        """Return a function that runs the model on images, ``float32 [n, 3, h, w]``."""
        session = self._session(threads)
        feed = {session.get_inputs()[0].name: images}
        return lambda: session.run(None, feed)[0]

    def use(self, threads: int) -> None:
        """Prepare for runs with that many threads."""

    def _session(self, threads: int) -> Any:
        if threads not in self.sessions:
            options = self.module.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
            providers = ["CPUExecutionProvider"]
            self.sessions[threads] = self.module.InferenceSession(str(self.path), options, providers=providers)
        return self.sessions[threads]


class OpenVino(OnnxRuntime):
    """OpenVINO, compiled for every batch and number of threads, in float32: its default may be 16 bits."""

    name, on_request = "openvino", True
    package = name

    def read(self, threads: int) -> str | None:
        check_onnx(self.path)
        self.core = self.module.Core()
        model = self.core.read_model(str(self.path))
        place = ["framework", "tvconv_jax"]
        return model.get_rt_info(place).astype(str) if model.has_rt_info(place) else None

    def call(self, images: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
        model = self.core.read_model(str(self.path))
        model.reshape(list(images.shape))
        options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        request = self.core.compile_model(model, "CPU", options).create_infer_request()
        return lambda: request.infer([images], share_inputs=True)[0]


class Torch(OnnxRuntime):
    """Eager PyTorch."""

    name, package, suffixes, code = "torch", "torch", (".safetensors", ".pt2"), ("model.py",)

    def read(self, threads: int) -> str | None:
        self.use(threads)
        if self.path.suffix == ".pt2":
            file = str(self.path) if self.run_code else harmless_program(self.path)
            logging.getLogger("torch.export").setLevel(logging.CRITICAL)  # errors become one line here
            about = {"tvconv_jax.json": ""}
            self.model = importlib.import_module("torch.export").load(file, extra_files=about).module()
            return about["tvconv_jax.json"]
        text = _safetensors_metadata(self.path)
        self.model = _beside(self.path, "model.py", self.run_code).load(str(self.path))
        return text

    def call(self, images: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
        model, tensor = self.model, self.tensor(images)
        return self.module.inference_mode()(lambda: model(tensor).numpy())

    def tensor(self, images: np.ndarray) -> Any:
        """Return the images as the model takes them."""
        return self.module.from_numpy(images)

    def use(self, threads: int) -> None:
        self.module.set_num_threads(threads)


class Inductor(Torch):
    """TorchInductor, compiled for every batch and number of threads, weights frozen, channels last."""

    name, on_request = "inductor", True

    def read(self, threads: int) -> str | None:
        text = super().read(threads)
        importlib.import_module("torch._inductor.config").freezing = True
        dynamo = importlib.import_module("torch._dynamo.config")
        dynamo.cache_size_limit = dynamo.accumulated_cache_size_limit = 1000  # programs
        self.model = self.module.compile(self.model.to(memory_format=self.module.channels_last), dynamic=False)
        return text

    def tensor(self, images: np.ndarray) -> Any:
        return super().tensor(images).to(memory_format=self.module.channels_last)


class Native(OnnxRuntime):
    """The exporter's own engine, compiled on the first load and cached."""

    name, package, suffixes, code = "native", "numpy", (".safetensors",), ("native.py", "native.cpp")

    def read(self, threads: int) -> str | None:
        text = _safetensors_metadata(self.path)
        _code(self.path.with_name("native.cpp"), self.run_code)
        self.model = _beside(self.path, "native.py", self.run_code).load(self.path, threads)
        return text

    def call(self, images: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
        return lambda: self.model(images)

    def use(self, threads: int) -> None:
        self.model.use(threads)


RUNTIMES = {kind.name: kind for kind in (OnnxRuntime, OpenVino, Torch, Inductor, Native)}
SUFFIXES = {suffix for kind in RUNTIMES.values() for suffix in kind.suffixes}


def _beside(path: Path, name: str, run_code: bool) -> Any:
    """Execute the module of that name beside an artifact: the very bytes that were checked, no ``__pycache__``."""
    file = path.with_name(name)
    source = _code(file, run_code)
    module = types.ModuleType(f"tvconv_jax_artifact_{len(sys.modules)}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module
    exec(compile(source, str(file), "exec"), module.__dict__)
    return module


def _code(file: Path, run_code: bool) -> bytes:
    """Return the bytes of a file of code, if an exporter wrote them or the user trusts them."""
    if not file.is_file():
        raise Mistake(f"{file} is not there; copy it from the folder that python -m tvconv_jax.export wrote.")
    source = file.read_bytes()
    if run_code or hashlib.sha256(source.replace(b"\r\n", b"\n")).hexdigest() in KNOWN_CODE[file.name]:
        return source
    packaged = Path(__file__).parents[1] / "export" / PACKAGED[file.name]
    if packaged.is_file() and packaged.read_bytes() == source:
        return source
    raise Mistake(
        f"{file} is code that python -m tvconv_jax.export did not write, so it is not run; export again, or read it "
        f"and add --run-code if you trust it."
    )


# Files of a torch.export program, below its folder. Samples are pickled, and left out.
_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|\.format_version|\.storage_alignment|"
    r"extra/tvconv_jax\.json|models/model\.json|data/sample_inputs/model\.pt|data/weights/weight_\d+|"
    r"data/constants/tensor_\d+|data/(weights/model_weights|constants/model_constants)_config\.json"
)
_SAMPLES, _PROGRAM = "data/sample_inputs/model.pt", "models/model.json"
# PyTorch looks up targets by name, evaluates expr_str and guards_code as Python, and generates code from all names.
_TARGET = re.compile(
    r"torch\.ops\.aten\.(?!from_file\b)[a-z_]\w*\.\w+|_operator\.(?:add|sub|mul|floordiv|mod|getitem|[lg][te]|eq|ne)",
    re.A,
)
_SYMBOLIC = re.compile(
    r"(?:Symbol|Integer|Add|Mul|Max|Min|FloorDiv|Mod|positive|nonnegative|integer|True|False|[su]\d{1,9}|\d{1,18})\b|"
    r"\*(?!\*)|[(),=+<>/' -]",
    re.A,
)
_PLAIN = re.compile(r"[\w.+]{0,200}", re.A)
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict")


def harmless_program(path: Path) -> io.BytesIO:
    """Return a ``.pt2`` for ``torch.export.load``, once it is known to hold only numbers and operators.

    PyTorch unpickles samples, weights and constants, loads compiled libraries, and evaluates strings of the program.
    The exporter's files need none of that. The archive is written again from the checked parts, because readers of zip
    files differ in what they find.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise Mistake(
                    f"{path} is compressed or damaged; torch.export.save compresses nothing. Export it again."
                )
            members = {entry.filename.partition("/")[2]: archive.read(entry) for entry in archive.infolist()}
            alien = [name for name in members if not _MEMBERS.fullmatch(name)]
            if alien or len({name.casefold() for name in archive.namelist()}) != len(members):
                raise _holds_code(path, f"holds {alien[0][:80]!r}" if alien else "holds a file twice")
        if _SAMPLES in members:
            members[_SAMPLES] = b""
        for name, data in members.items():
            pickles = _values(json.loads(data), "use_pickle") if name.endswith("_config.json") else ()
            if any(value is not False for value in pickles):
                raise _holds_code(path, "holds a pickle")
        members[_PROGRAM] = _checked_program(path, json.loads(members[_PROGRAM]))
    except Mistake:
        raise
    except Exception:  # of zipfile and json, for a damaged file
        raise Mistake(f"{path} is truncated or is not a .pt2 file; copy it again.") from None
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"model/{name}", data)
    file.seek(0)
    return file


def _holds_code(path: Path, what: str) -> Mistake:
    return Mistake(
        f"{path} {what}, which can run code and which python -m tvconv_jax.export does not write; export it again, or "
        f"add --run-code if you trust it."
    )


def _checked_program(path: Path, program: dict[str, Any]) -> bytes:
    """Return the program as JSON, without metadata about its source."""
    for node in program["graph_module"]["graph"]["nodes"]:
        node["metadata"] = {}
    for key, text in _texts(program):
        if key in ("in_spec", "out_spec"):
            spec = json.loads(text)
            sound = all(kind in _CONTAINERS for kind in _values(spec, "type"))
            sound = sound and all(context in (None, "null", "[]") for context in _values(spec, "context"))
        else:
            plain = {"target": _TARGET}.get(key, _PLAIN).fullmatch(text)
            sound = len(text) <= 300 and ("".join(_SYMBOLIC.findall(text)) == text if key == "expr_str" else plain)
        if not sound or key in ("guards_code", "as_custom_obj", "custom_obj", "as_operator", "as_graph"):
            raise _holds_code(path, f"holds {text[:60]!r} as {key}")
    return json.dumps(program).encode()


def _nested(tree: Any) -> Iterator[tuple[str, Any]]:
    """Yield every entry of every dictionary, however deep, and the items of lists under the name of the list."""
    waiting = [("", tree)]
    while waiting:
        key, value = waiting.pop()
        yield key, value
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(key, item) for item in value]


def _values(tree: Any, name: str) -> Iterator[Any]:
    return (value for key, value in _nested(tree) if key == name)


def _texts(tree: Any) -> Iterator[tuple[str, str]]:
    """Yield strings with their keys, and the keys themselves."""
    for key, value in _nested(tree):
        yield "a key", key
        if isinstance(value, str):
            yield key, value


# By kind of ONNX message: the kinds of its fields that are messages. Source: onnx.proto, IR 8 to 12.
_ONNX = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "another file"},
}


def check_onnx(path: Path) -> None:
    """Refuse a model with weights in other files: a runtime would read any path that the model names."""
    try:
        with existing(path).open("rb") as file:  # mapped, so that weights take no memory
            waiting = [("model", memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))]
        while waiting:
            kind, data = waiting.pop()
            if kind == "another file":
                raise Mistake(f"{path} keeps weights in other files, which are not read; save it as one file.")
            waiting += [(_ONNX[kind][field], value) for field, value in _fields(data) if field in _ONNX[kind]]
    except (IndexError, ValueError):
        raise ValueError("it is truncated or is not an .onnx file; copy it again") from None


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield numbers and contents of the fields of a protobuf message that have a length."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        size = {0: 0, 1: 8, 5: 4}.get(tag & 7)
        if tag & 7 in (0, 2):
            value, at = _varint(data, at)
            size = value if tag & 7 == 2 else 0
        if size is None or at + size > len(data):
            raise ValueError("a field of an unknown kind, or one that ends beyond the message")
        if tag & 7 == 2:
            yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number without an end")


def _safetensors_metadata(path: Path) -> str | None:
    """Return the metadata in the header, if the file is as long as the header says."""
    size = existing(path).stat().st_size
    try:
        with path.open("rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(start - 8, size)))
        metadata = header.pop("__metadata__", {})
        if start + max(tensor["data_offsets"][1] for tensor in header.values()) == size:
            return metadata.get("tvconv_jax")
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise Mistake(f"{path} is truncated or is not a .safetensors file; copy it again.")


def existing(path: Path) -> Path:
    """Return the path of a file that exists."""
    if path.is_file():
        return path
    folder = path if path.is_dir() else path.parent
    there = sorted(file.name for file in folder.glob("*") if file.suffix in SUFFIXES)
    error = "is a folder; name a file in it" if path.is_dir() else "is not there"
    raise Mistake(f"{path} {error}; artifacts in {folder}: {', '.join(there) or 'none'}.")


def choose_runtime(path: Path, runtime: str) -> str:
    """Return the runtime's name if it can run the file, ``auto`` by the file's suffix and the code beside it."""
    able = [name for name, kind in RUNTIMES.items() if existing(path).suffix in kind.suffixes]
    if not able:
        raise Mistake(f"{path} is not loaded: artifacts end in .onnx, .safetensors or .pt2.")
    if runtime not in (*able, "auto"):
        raise Mistake(
            f"{runtime} does not run {path}; --runtime of such a file is one of: {', '.join(able)}. Of several "
            f"artifacts each can have its own, as --runtime=auto,{runtime}."
        )
    wanted = [name for name in able if not RUNTIMES[name].on_request] if runtime == "auto" else [runtime]
    found = [name for name in wanted if not _absent_code(path, name)]
    if not found:
        raise _lacks_code(path, wanted, [name for name in able if not _absent_code(path, name)])
    chosen = next((name for name in found if importlib.util.find_spec(RUNTIMES[name].package)), found[0])
    for other in (name for name in found if name != chosen):
        print(f"note: {path} is run by {chosen}; --runtime={other} runs it by {other}", file=sys.stderr)
    return chosen


def _absent_code(path: Path, runtime: str) -> list[str]:
    """Return the files that a runtime needs beside a ``.safetensors`` and that are not there."""
    code = RUNTIMES[runtime].code if path.suffix == ".safetensors" else ()
    return [name for name in code if not path.with_name(name).is_file()]


def _lacks_code(path: Path, wanted: Sequence[str], whole: Sequence[str]) -> Mistake:
    """Name the missing files of the runtimes that were wanted, and the runtimes whose files are all there."""
    lacking = []
    for name in wanted:
        files = _absent_code(path, name)
        lacking.append(f"{' and '.join(files)} {'are' if files[1:] else 'is'} not there (--runtime={name})")
    hint = f"choose --runtime={' or '.join(whole)}, whose files are there" if whole else "copy from the export"
    return Mistake(f"{path} needs code beside it: {'; '.join(lacking)}; {hint}.")


def import_runtime(runtime: str, path: Path | None = None) -> None:
    """Import the runtime, or say how to install it, and by which others a file can be run."""
    package = RUNTIMES[runtime].package
    try:
        importlib.import_module(package)
    except ImportError as error:
        hint = f"; {PI_HINT}" if package == "onnxruntime" else ""
        others = [
            name
            for name, kind in RUNTIMES.items()
            if path and path.suffix in kind.suffixes and kind.package != package and not _absent_code(path, name)
        ]
        hint += f"; or choose --runtime={' or '.join(others)}" if others else ""
        raise Mistake(f"{package} cannot be imported ({error}): pip install {package}{hint}.") from None


def load(path: Path, runtime: str, threads: int, *, run_code: bool = False) -> OnnxRuntime:
    """Load a model; ``run_code`` trusts whatever code comes with it."""
    import_runtime(runtime, path)
    kind = RUNTIMES[runtime]
    return explained(lambda: kind(path, threads, run_code=run_code), f"{path} cannot be loaded by {runtime}")


def ready(model: OnnxRuntime, images: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
    """Return a function that runs the model on images; it has run once."""
    if model.batch not in (None, len(images)):
        raise Mistake(f"{model.path} does not take a batch of {len(images)}, only --batch={model.batch}.")
    model.use(threads)
    what = f"{model.path} does not take a batch of {len(images)} in {model.name}"
    call = explained(lambda: model.call(images, threads), what)
    explained(call, what)
    return call


def explained(call: Callable[[], Any], what: str) -> Any:
    """Call a function; any exception of a runtime becomes one line."""
    try:
        return call()
    except Mistake:
        raise
    except Exception as error:
        raise Mistake(f"{what}: {' '.join(str(error).split())[:200] or type(error).__name__}") from None


def check(model: OnnxRuntime, file: Path, threads: int) -> dict[str, Any]:
    """Run the images of ``check.npz``, all at once and the first alone, and compare with the JAX model's outputs.

    Raises:
        Mistake: If the file is not of this artifact (code 2), or the outputs differ (code 1).
    """
    try:
        if not file.is_file():
            raise Mistake(f"{file} is not there; python -m tvconv_jax.export writes it beside the model.")
        with np.load(file) as arrays:
            if sum(entry.file_size for entry in arrays.zip.infolist()) > MAX_BYTES:
                raise ValueError("it unpacks to more than memory may hold")
            images, outputs = arrays["images"], arrays[model.output] if model.output in arrays.files else None
    except Mistake:
        raise
    except Exception:  # of zipfile and numpy, for a damaged file; no pickle is loaded
        raise Mistake(f"{file} is truncated or is not an .npz file of images and outputs; copy it again.") from None
    if not len(images):
        raise Mistake(f"{file} holds no images; copy the one that python -m tvconv_jax.export wrote.")
    if outputs is None:
        raise Mistake(f"{file} holds no {model.output}, which {model.path} gives: they are of different models.")
    if list(images.shape[1:]) != model.shape:
        raise Mistake(f"{file} holds images {list(images.shape[1:])}, {model.path} takes {model.shape}: another size.")
    worst, scale = 0.0, np.abs(outputs).max() if model.output == "logits" else 1.0
    for n in [model.batch] if model.batch else [1, len(images)]:
        actual = ready(model, np.resize(images, (n, *images.shape[1:])), threads)()
        expected = np.resize(outputs, (n, *outputs.shape[1:]))
        if actual.shape != expected.shape:
            raise Mistake(f"{model.path} returns {list(actual.shape)}, {file} holds {list(expected.shape)}.")
        if model.output == "embeddings":
            actual, expected = (a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (actual, expected))
        worst = float(np.maximum(worst, np.abs(actual - expected).max() / scale))  # NaN stays
    if not worst <= model.allowed:
        text = f"{model.path} in {model.name} differs from {file} by {worst:.2g}; {model.allowed:g} is allowed"
        raise Mistake(f"{text}: they are of different exports, or the runtime is wrong.", 1)
    return {"file": str(file), "output": model.output, "max_difference": worst, "allowed": model.allowed}


def weigh(path: Path, runtime: str, threads: int, *, run_code: bool = False) -> dict[str, Any]:
    """Measure load time, and peak memory with the runtime alone and with runs (and compiling), of a fresh process."""
    import_runtime(runtime, path)
    alone, start = peak_memory(), time.perf_counter()
    model = load(path, runtime, threads, run_code=run_code)
    seconds, batch = time.perf_counter() - start, model.batch or MEMORY_BATCH
    call = ready(model, make_images(model, batch), threads)
    for _ in range(3):
        call()
    memory = {"peak_bytes": peak_memory(), "runtime_alone_bytes": alone, "batch": batch, "threads": threads}
    return {"file_bytes": path.stat().st_size, "load_s": seconds, "memory": memory}


def weigh_in_fresh_process(path: Path, runtime: str, threads: int, *, run_code: bool = False) -> dict[str, Any]:
    """Call :func:`weigh` in a fresh process, which a runtime may kill."""
    command = [sys.executable, __file__, str(path), "--weigh", f"--runtime={runtime}", f"--threads={threads}"]
    command += ["--run-code"] if run_code else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == -4:  # SIGILL
        hint = f"; {PI_HINT}" if runtime == "onnxruntime" else ""
        raise Mistake(f"{runtime} died of an illegal instruction here: install another version{hint}.")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}, out of memory?"])[-1]
        raise Mistake(last[7:] if last.startswith("error: ") else f"{path} in {runtime}, in a fresh process: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def peak_memory() -> int:
    """Return the peak memory in bytes: VmHWM where there is one, since it excludes the parent's memory."""
    for line in (_text("/proc/self/status") or "").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def make_images(model: OnnxRuntime, batch: int) -> np.ndarray:
    """Return noise in the range of images, the same every time."""
    return np.random.default_rng(0).uniform(-1, 1, (batch, *model.shape)).astype(np.float32)


def measure(models: Sequence[OnnxRuntime], points: Sequence[tuple[int, int]], seconds: float) -> list[list[dict]]:
    """Time every model at every (batch, threads), interleaved, in rounds over all of them.

    Returns:
        For each model and point ``batch``, ``threads``, ``runs``, ``median_ms``, ``p90_ms``, ``p99_ms``, and
        ``images_per_second`` at the median.
    """
    images = make_images(models[0], max(batch for batch, _ in points))
    calls = {
        (point, i): ready(model, images[: point[0]], point[1]) for point in points for i, model in enumerate(models)
    }
    times: dict[Any, list[float]] = {key: [] for key in calls}
    for _ in range(ROUNDS):
        for (point, i), call in calls.items():
            time.sleep(REST)
            models[i].use(point[1])
            call()
            now = begin = time.perf_counter()
            while now == begin or now - begin < seconds / ROUNDS:
                start = time.perf_counter()
                call()
                now = time.perf_counter()
                times[point, i].append(now - start)
    return [[_figures(*point, times[point, i]) for point in points] for i in range(len(models))]


def _figures(batch: int, threads: int, times: Sequence[float]) -> dict[str, float]:
    median, p90, p99 = (float(value) for value in np.percentile(times, [50, 90, 99]))
    figures = {"median_ms": 1000 * median, "p90_ms": 1000 * p90, "p99_ms": 1000 * p99}
    return {"batch": batch, "threads": threads, "runs": len(times), **figures, "images_per_second": batch / median}


def best(points: Sequence[dict]) -> dict[str, Any]:
    """Return the point with the most images/s."""
    return max(points, key=lambda point: point["images_per_second"])


def compare(measured: Sequence[Sequence[dict]]) -> list[dict[str, Any]]:
    """Return ratios of images/s of every other model over the first: point by point, and best over best."""
    first, ratios = measured[0], []
    for i, other in enumerate(measured[1:], start=1):
        points = [
            {"batch": a["batch"], "threads": a["threads"], "ratio": b["images_per_second"] / a["images_per_second"]}
            for a, b in zip(first, other)  # noqa: B905, Python 3.9 has no strict=
        ]
        ratio = best(other)["images_per_second"] / best(first)["images_per_second"]
        ratios.append({"artifact": i, "over": 0, "points": points, "best_over_best": ratio})
    return ratios


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """Describe the machine; None where nothing is known."""
    lines = [line.partition(":") for line in (_text("/proc/cpuinfo") or "").splitlines()]
    fields = {key.strip(): value.strip() for key, _, value in lines}
    return {
        "model": _text("/proc/device-tree/model"),
        "processor": fields.get("model name") or ARM_CORES.get(fields.get("CPU part", "")) or platform.machine(),
        "cores": cores(),
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "system": platform.platform(),
    }


def state() -> dict[str, Any]:
    """Return the temperature in degrees Celsius and a Raspberry Pi's throttling bits (0: never); None if unknown."""
    degrees = _text("/sys/class/thermal/thermal_zone0/temp")
    bits = _text("/sys/devices/platform/soc/soc:firmware/get_throttled")
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["vcgencmd", "get_throttled"], capture_output=True, text=True, timeout=10)
        bits = done.stdout.strip().partition("0x")[2] or bits
    temperature = _number(degrees, 10)
    return {"temperature": temperature and temperature / 1000, "throttled": _number(bits, 16)}


def _number(text: str | None, base: int) -> int | None:
    with contextlib.suppress(ValueError):
        return int(text or "", base)
    return None


def slowed(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Return whether a Pi throttled meanwhile: it does now (bits 0-3), or did since ``before`` (16-19, kept on)."""
    bits = after["throttled"] or 0
    return bool(bits & 0xF or bits & ~(before["throttled"] or 0))


def _text(path: str) -> str | None:
    with contextlib.suppress(OSError):
        return Path(path).read_text(errors="replace").strip("\0\n ")
    return None


def print_check(entry: dict[str, Any]) -> None:
    """Print how close an artifact is to the JAX model."""
    text = "{output} equal {file} to {max_difference:.1e}, {allowed:g} is allowed"
    text = text.format(**entry["check"]) if entry["check"] else "not checked, there is no check.npz beside it"
    print(f"{entry['file']} ({entry['title']}): {text}", flush=True)


def print_points(entry: dict[str, Any]) -> None:
    """Print size, load time, memory and the table of an artifact."""
    memory, size = entry["memory"], f"{entry['file_bytes'] / 1e6:.2f} MB, loaded in {entry['load_s']:.2f} s"
    peak, alone = (f"{memory[key] / 1e6:.0f} MB" for key in ("peak_bytes", "runtime_alone_bytes"))
    print(f"\n{entry['file']} ({entry['title']}): {size}")
    print(f"peak memory of a fresh process at batch {memory['batch']}: {peak}; with the runtime alone: {alone}")
    print(f"{'batch':>7}{'threads':>9}{'median ms':>12}{'p90':>10}{'p99':>10}{'images/s':>11}")
    for point in entry["points"]:
        line = "{batch:>7}{threads:>9}{median_ms:>12.2f}{p90_ms:>10.2f}{p99_ms:>10.2f}{images_per_second:>11.1f}"
        print(line.format(**point) + ("  best" if point == entry["best"] else ""))


def print_ratios(results: dict[str, Any]) -> None:
    """Print ratios of every other artifact over the first."""
    titles = [f"{entry['file']} ({entry['title']})" for entry in results["artifacts"]]
    for ratios in results["compare"]:
        print(f"\nimages/s of {titles[ratios['artifact']]} over {titles[0]}, interleaved:")
        for point in ratios["points"]:
            print("{batch:>7}{threads:>9}{ratio:>11.2f}x".format(**point))
        print(f"{'best over best':>16}{ratios['best_over_best']:>11.2f}x")


def check_json(file: Path | None) -> None:
    """Refuse a file for the figures that cannot be written, before anything is measured."""
    if not file:
        return
    folder = file.absolute().parent
    if not folder.is_dir():
        raise Mistake(f"--json={file}: there is no folder {file.parent}; make it first.")
    if file.is_dir() or not os.access(file if file.exists() else folder, os.W_OK):
        raise Mistake(f"--json={file} is a folder, or may not be written; name another file.")
    if file.exists():
        print(f"note: {file} exists and will be written over", file=sys.stderr)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    runtimes = [choose_runtime(path, name) for path, name in _each(args.artifacts, args.runtime, "--runtime")]
    checks = _each(args.artifacts, args.check or [None], "--check")
    if args.weigh:
        return print(json.dumps(weigh(args.artifacts[0], runtimes[0], args.threads[0], run_code=args.run_code)))
    if args.compare and len(args.artifacts) < 2:
        raise Mistake("--compare takes two artifacts or more; the others are compared with the first.")
    check_json(args.json)
    threads = [n for n in args.threads if n <= cores()]
    if not threads:
        raise Mistake(f"--threads={min(args.threads)} is more than the {cores()} cores that this process may use.")
    models, entries = [], []
    for (path, file), runtime in zip(checks, runtimes):  # noqa: B905, Python 3.9 has no strict=
        model, entry = load_and_check(args, path, file, runtime, threads)
        models.append(model)
        entries.append(entry)
    if args.compare and (
        len({(model.output, *model.shape) for model in models}) > 1
        or len({model.task for model in models} - {None}) > 1
    ):
        kinds = "; ".join(f"{model.path} ({model.title}) gives {model.output} of {model.shape}" for model in models)
        raise Mistake(f"--compare takes models of one kind and image size: {kinds}.")
    versions = {model.package: model.module.__version__ for model in models}
    versions |= {"python": platform.python_version(), "numpy": np.__version__}
    results = {"machine": machine(), "versions": versions, "before": state(), "artifacts": entries}
    if not args.check_only:
        time_all(args, threads, models, results)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


def load_and_check(
    args: argparse.Namespace, path: Path, file: Path | None, runtime: str, threads: list[int]
) -> tuple[OnnxRuntime, dict[str, Any]]:
    """Weigh, load and check an artifact, and print the check; return the model and its results."""
    trust = {"run_code": args.run_code}
    weight = {} if args.check_only else weigh_in_fresh_process(path, runtime, max(threads), **trust)
    model = load(path, runtime, threads[0], **trust)
    beside = path.with_name("check.npz")
    file = file or (beside if args.check_only or beside.exists() else None)
    checked = check(model, file, threads[0]) if file else None
    about = {"file": str(path), "title": model.title, "task": model.task, "runtime": runtime}
    about["metadata"] = model.metadata
    entry = {**about, **weight, "check": checked}
    print_check(entry)
    return model, entry


def time_all(args: argparse.Namespace, threads: list[int], models: list[OnnxRuntime], results: dict[str, Any]) -> None:
    """Time the models, print their tables and add them to the results."""
    entries, about = results["artifacts"], results["machine"] | results["versions"]
    print("\n" + ", ".join(f"{key} {value}" for key, value in about.items() if value))
    if len(threads) < len(args.threads):
        print(f"numbers of threads above the {cores()} cores that this process may use are left out")
    points = [(batch, n) for batch in args.batch for n in threads]
    groups = [models] if args.compare else [[model] for model in models]
    measured = [figures for group in groups for figures in measure(group, points, args.seconds)]
    for entry, figures in zip(entries, measured):  # noqa: B905
        entry.update(points=figures, best=best(figures))
        print_points(entry)
    results |= {"after": state(), "compare": compare(measured) if args.compare else None}
    if args.compare:
        print_ratios(results)
    if slowed(results["before"], results["after"]):
        print(f"\nthrottled ({results['after']['throttled']:#x}): too hot or short of power; the figures are low")


def _each(artifacts: Sequence[Path], values: Sequence[Any], flag: str) -> list[tuple[Path, Any]]:
    """Pair every artifact with its value; one value is for all."""
    if len(values) not in (1, len(artifacts)):
        raise Mistake(f"{flag} has {len(values)} values for {len(artifacts)} artifacts; give one, or one for each.")
    return [(path, values[i % len(values)]) for i, path in enumerate(artifacts)]


def _integers(text: str) -> list[int]:
    values = [int(part) for part in text.split(",")]
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"{min(values)} must be at least 1")
    return sorted(set(values))


def seconds(text: str) -> float:
    """Parse seconds, for argparse."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be 0 or more, and finite")
    return value


def _runtimes(text: str) -> list[str]:
    for name in text.split(","):
        if name not in ("auto", *RUNTIMES):
            raise argparse.ArgumentTypeError(f"{name!r} is not one of: auto, {', '.join(RUNTIMES)}")
    return text.split(",")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        self.exit(2, "error: " + message.rstrip(".") + f". See {self.prog} --help.\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    called_as = getattr(sys.modules.get("tvconv_jax.utils.cli"), "called_as", None)
    parser = _Parser(called_as, description=__doc__.splitlines()[0])
    add, runtimes = parser.add_argument, ", ".join(RUNTIMES)
    trust = "run model.py, native.py, native.cpp and .pt2 programs that no exporter wrote: their code is executed"
    add("artifacts", nargs="+", type=Path, metavar="ARTIFACT")
    add("--compare", action="store_true", help="interleave all; ratios of the others over the first")
    about = "default: check.npz beside it, if there; repeated: one for each"
    add("--check", action="append", type=Path, metavar="FILE", help=about)
    add("--check-only", action="store_true", help="time and weigh nothing")
    add("--batch", type=_integers, default=[1, 2, 4, 8, 16], help="default: 1,2,4,8,16")
    add("--threads", type=_integers, default=[1, 2, 4], help="default: 1,2,4; at most the number of cores")
    add("--runtime", type=_runtimes, default=["auto"], help=f"one, or one for each artifact, of: auto, {runtimes}")
    add("--seconds", type=seconds, default=2.0, help="per artifact, batch and threads: default 2")
    add("--json", type=Path, metavar="FILE", help="also write all figures there")
    add("--run-code", action="store_true", help=trust)
    add("--weigh", action="store_true", help=argparse.SUPPRESS)  # load time, memory: see weigh
    try:
        run(parser.parse_args(argv))
    except Mistake as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.code)
    except KeyboardInterrupt:
        sys.exit(130)


class _LossyOutput(io.RawIOBase):
    """A descriptor that takes every byte; it drops bytes that nobody reads or no disk has room for."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, content: Any) -> int:
        left = memoryview(content).cast("B")
        size = len(left)
        with contextlib.suppress(OSError):
            while left:
                left = left[os.write(self._descriptor, left) :]
        return size


def _ignore_broken_output() -> None:
    """Keep measuring if nobody reads the output, as with ``| head -1`` or a dead ssh."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        encoding = getattr(getattr(sys, name), "encoding", "utf-8")  # None, where it is closed
        raw = io.BufferedWriter(_LossyOutput(descriptor))
        setattr(sys, name, io.TextIOWrapper(raw, encoding, "backslashreplace", line_buffering=True))


if __name__ == "__main__":
    _ignore_broken_output()
    main()
