"""Speed, memory and correctness of exported models, on the device itself; this one file is all to copy.

    python benchmark.py model.onnx                            checked, weighed, timed
    python benchmark.py --compare A.onnx B.onnx               in turns; ratios of B over A
    python -m tvconv_jax.edge.benchmark ARTIFACT ...          the same, where tvconv_jax is installed

It needs Python 3.9, numpy and one runtime. An ARTIFACT is what ``python -m tvconv_jax.export`` wrote: ``.onnx``
(onnxruntime; openvino on request), ``.safetensors`` with its ``model.py`` beside it, or ``.pt2``, which
``torch.export.load`` reads (torch; inductor on request; native for ``.safetensors`` with ``native.py`` and
``native.cpp`` beside it, which need a C++ compiler instead of a runtime).

``model.py``, ``native.py`` and ``native.cpp`` are code, and a ``.pt2`` can hold some. They are run only if they are
what an exporter wrote: code byte for byte, a program without pickles, libraries and expressions of Python. Anything
else is refused, unless ``--run-code`` says that you trust it. Nothing else is loaded.

A ``check.npz`` beside the artifact holds images and the JAX model's answers to them; an artifact that answers otherwise
ends the run with exit code 1. A time is one run's, on images in memory, after warm-up.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 9):  # noqa: UP036, the device's Python is older than the package's
    sys.exit("error: this needs Python 3.9 or later, and is run by " + sys.version.split()[0])

import argparse
import contextlib
import hashlib
import importlib
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

# Seconds of rest before a stretch, because another runtime's threads keep spinning for a while after their work.
ROUNDS, REST, MEMORY_BATCH = 5, 0.02, 8
MAX_BYTES = 2**30  # of check.npz
# Largest difference allowed: of embeddings brought to length one; of logits, relative to the largest.
TOLERANCES = {"embeddings": 1e-4, "logits": 1e-3}
PI_HINT = "on a Raspberry Pi 4 onnxruntime==1.20.1, because 1.21.0 dies of an illegal instruction there"
# SHA-256 of the code that exporters wrote beside an artifact, newest first, so that this file alone can tell.
KNOWN_CODE = {
    "model.py": (
        "858f0b31016b21d4f05fd0b512326896a0ecfaa5d3c889267896fe53543e9c3f",
        "b8cb6e8090d30091ef85bab4a189dcf1d2a07a9ec89051430d21276a7893c3f9",
        "41315d7e840f9fcf6b6e3d127d9c30c19f287f319f85c8a95e9e30a2164e3f0f",
        "3f55a40479719e5494523870d21e71e20bb0d964dc2cf345a742804d8acc7fe8",
        "e610c933494345b1bc39a8cc688e22ce3fe493b7c0d5c0340da3f12cb1a7121e",
    ),
    "native.py": (
        "8634433d92d278323da269cfbdacb71087380918cb187456ff4a49f36b7d18bb",
        "b5b4ce59742d3462a5354d76d43cfa7111e332efe859a55555e560bd4816962a",
        "bee6dfd55fbd80abbc5f41f4715bfd0e21004318e906d847f24f965305b70a0f",
        "2978d782f2596655600de2dacdc3cf5c1800c2073be81fa34d7781df349188b2",
    ),
    "native.cpp": ("f8d9d9d008d9fb37c03cd303c88b9fbf8c29e26d593377bb2252401f93fd5eff",),
}
# Where these files lie in a checkout, below export/.
PACKAGED = {"model.py": "torch/model.py", "native.py": "native/native.py", "native.cpp": "native/native.cpp"}
ARM_CORES = {"0xd03": "Cortex-A53", "0xd08": "Cortex-A72", "0xd0b": "Cortex-A76"}


class Mistake(Exception):
    """One line for the user, and the exit code: 2, or 1 for an artifact that answers wrongly."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(" ".join(message.split()))
        self.code = code


class OnnxRuntime:
    """A model in onnxruntime, a session for each number of threads; the other runtimes have the same methods."""

    name, package, suffixes = "onnxruntime", "onnxruntime", (".onnx",)

    def __init__(self, path: Path, threads: int, *, run_code: bool = False) -> None:
        self.path, self.module, self.sessions = path, importlib.import_module(self.package), {}
        self.run_code = run_code
        text = self.read(threads)
        try:
            self.metadata = json.loads(text or "")
            self.batch, *self.shape = self.metadata["input"]["shape"]  # a batch of None is any
            self.output = self.metadata["output"]["name"]
            self.title = "{name} x{width} {operator}, ".format(**self.metadata) + self.name
            self.allowed = TOLERANCES[self.output]
        except (ValueError, TypeError, KeyError):
            raise Mistake(f"{path} holds no metadata of tvconv_jax; python -m tvconv_jax.export writes it.") from None
        if self.metadata.get("rank", "exact") != "exact":
            self.title += f", rank {self.metadata['rank']}"

    def read(self, threads: int) -> str | None:
        """Reads the file and returns the exporter's metadata in it."""
        check_onnx(self.path)
        return self._session(threads).get_modelmeta().custom_metadata_map.get("tvconv_jax")

    def call(self, images: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
        """A function that runs the model on these images, ``float32 [n, 3, h, w]``."""
        session = self._session(threads)
        feed = {session.get_inputs()[0].name: images}
        return lambda: session.run(None, feed)[0]

    def use(self, threads: int) -> None:
        """Called before the model runs with so many threads."""

    def _session(self, threads: int) -> Any:
        if threads not in self.sessions:
            options = self.module.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
            providers = ["CPUExecutionProvider"]
            self.sessions[threads] = self.module.InferenceSession(str(self.path), options, providers=providers)
        return self.sessions[threads]


class OpenVino(OnnxRuntime):
    """Compiled for every batch and number of threads, in float32: by default it may compute in 16 bits."""

    name = package = "openvino"

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

    name, package, suffixes = "torch", "torch", (".safetensors", ".pt2")

    def read(self, threads: int) -> str | None:
        self.use(threads)
        if self.path.suffix == ".pt2":
            file = str(self.path) if self.run_code else harmless_program(self.path)
            logging.getLogger("torch.export").setLevel(logging.CRITICAL)  # errors are told here, in one line
            about = {"tvconv_jax.json": ""}
            self.model = importlib.import_module("torch.export").load(file, extra_files=about).module()
            return about["tvconv_jax.json"]
        text = _safetensors_metadata(self.path)
        self.model = _beside(self.path, "model.py", self.run_code).load(str(self.path))
        return text

    def call(self, images: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
        model, tensor = self.model, self.tensor(images)

        def infer() -> np.ndarray:
            with self.module.inference_mode():
                return model(tensor).numpy()

        return infer

    def tensor(self, images: np.ndarray) -> Any:
        """The images as the model takes them."""
        return self.module.from_numpy(images)

    def use(self, threads: int) -> None:
        self.module.set_num_threads(threads)


class Inductor(Torch):
    """Compiled by TorchInductor for every batch and number of threads, weights frozen, channels last."""

    name = "inductor"

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
    """The exporter's own engine: a C++ compiler instead of a runtime; it compiles on the first load, and keeps it."""

    name, package, suffixes = "native", "numpy", (".safetensors",)

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


def _beside(path: Path, name: str, run_code: bool) -> Any:
    """The module of that name beside an artifact, executed: the very bytes that were looked at, no ``__pycache__``."""
    file = path.with_name(name)
    source = _code(file, run_code)
    module = types.ModuleType(f"tvconv_jax_artifact_{len(sys.modules)}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module
    exec(compile(source, str(file), "exec"), module.__dict__)
    return module


def _code(file: Path, run_code: bool) -> bytes:
    """The bytes of a file of code, if an exporter wrote them or the user trusts them."""
    source = existing(file).read_bytes()
    if run_code or hashlib.sha256(source.replace(b"\r\n", b"\n")).hexdigest() in KNOWN_CODE[file.name]:
        return source
    packaged = Path(__file__).parents[1] / "export" / PACKAGED[file.name]
    if packaged.is_file() and packaged.read_bytes() == source:
        return source
    raise Mistake(
        f"{file} is code, and not what python -m tvconv_jax.export writes, so it is not run; export again, or read "
        f"it and add --run-code if you trust it."
    )


# What a program of torch.export consists of, behind the name of its folder. Samples are pickled, and left out.
_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|\.format_version|\.storage_alignment|"
    r"extra/tvconv_jax\.json|models/model\.json|data/sample_inputs/model\.pt|data/weights/weight_\d+|"
    r"data/constants/tensor_\d+|data/(weights/model_weights|constants/model_constants)_config\.json"
)
_SAMPLES, _PROGRAM = "data/sample_inputs/model.pt", "models/model.json"
# PyTorch looks up a target's name, and evaluates expr_str and guards_code as Python; code is generated from all names.
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
    """A ``.pt2`` as ``torch.export.load`` takes it, once nothing is in it that could run code.

    PyTorch unpickles samples, weights and constants, loads compiled libraries, and evaluates texts of the program. What
    the exporter writes needs none of that. The archive is written anew from what was looked at, because readers of zip
    files differ in what they find.

    Raises:
        Mistake: If there is more in it than numbers and operators.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise Mistake(
                    f"{path} is compressed or damaged; torch.export.save writes it as it is. Export it again."
                )
            members = {entry.filename.partition("/")[2]: archive.read(entry) for entry in archive.infolist()}
            alien = [name for name in members if not _MEMBERS.fullmatch(name)]
            if alien or len({name.casefold() for name in archive.namelist()}) != len(members):
                raise _holds_code(path, f"holds {alien[0][:80]!r}" if alien else "holds a file twice")
        if _SAMPLES in members:
            members[_SAMPLES] = b""
        for name, data in members.items():
            if name.endswith("_config.json") and any(
                value is not False for value in _values(json.loads(data), "use_pickle")
            ):
                raise _holds_code(path, "holds a pickle")
        members[_PROGRAM] = _checked_program(path, json.loads(members[_PROGRAM]))
    except Mistake:
        raise
    except Exception:  # whatever a damaged file makes of zipfile and json
        raise Mistake(f"{path} is truncated or is not a .pt2 file; copy it again.") from None
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"model/{name}", data)
    file.seek(0)
    return file


def _holds_code(path: Path, what: str) -> Mistake:
    return Mistake(
        f"{path} {what}, with which a .pt2 can run code, and which python -m tvconv_jax.export does not write; export "
        f"it again, or add --run-code if you trust it."
    )


def _checked_program(path: Path, program: dict[str, Any]) -> bytes:
    """The program as JSON, without what the exporter's machine said of its source."""
    for node in program["graph_module"]["graph"]["nodes"]:
        node["metadata"] = {}
    for key, text in _texts(program):
        if key in ("in_spec", "out_spec"):
            kinds = [*_values(json.loads(text), "type")]
            sound = all(kind in _CONTAINERS for kind in kinds) and all(
                context in (None, "null", "[]") for context in _values(json.loads(text), "context")
            )
        else:
            plain = {"target": _TARGET}.get(key, _PLAIN).fullmatch(text)
            sound = len(text) <= 300 and ("".join(_SYMBOLIC.findall(text)) == text if key == "expr_str" else plain)
        if not sound or key in ("guards_code", "as_custom_obj", "custom_obj", "as_operator", "as_graph"):
            raise _holds_code(path, f"holds {text[:60]!r} as {key}")
    return json.dumps(program).encode()


def _nested(tree: Any) -> Iterator[tuple[str, Any]]:
    """Every entry of every dictionary in it, however deep, and the items of lists under the name of the list."""
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
    """Texts with the keys that they stand under, and the keys themselves."""
    for key, value in _nested(tree):
        yield "a key", key
        if isinstance(value, str):
            yield key, value


# By kind of message of ONNX: which kind the fields with more messages in them are. Source: onnx.proto, IR 8 to 12.
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
    """Refuses a model whose numbers lie in other files: a runtime would read whatever path the model names."""
    try:
        with existing(path).open("rb") as file:  # mapped, so that weights count for no memory
            waiting = [("model", memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))]
        while waiting:
            kind, data = waiting.pop()
            if kind == "another file":
                raise Mistake(f"{path} keeps numbers in other files, which are not read; save it as one file.")
            waiting += [(_ONNX[kind][field], value) for field, value in _fields(data) if field in _ONNX[kind]]
    except (IndexError, ValueError):
        raise ValueError("it is truncated or is not an .onnx file; copy it again") from None


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The fields of a message of protobuf that have a length, with their numbers."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 == 2:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise ValueError("a field ends beyond the message")
            yield tag >> 3, data[at : at + size]
            at += size
        elif tag & 7 == 0:
            _, at = _varint(data, at)
        elif tag & 7 in (1, 5):
            at += {1: 8, 5: 4}[tag & 7]
        else:
            raise ValueError("a field of an unknown kind")


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
    """The header's, once the file is known to be as long as the header says."""
    size = existing(path).stat().st_size
    try:
        with path.open("rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(start - 8, size)))
        own = header.pop("__metadata__", {})
        if start + max(tensor["data_offsets"][1] for tensor in header.values()) == size:
            return own.get("tvconv_jax")
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise Mistake(f"{path} is truncated or is not a .safetensors file; copy it again.")


def existing(path: Path) -> Path:
    """The path, if a file is there."""
    if not path.is_file():
        raise Mistake(f"{path} is not there; copy the whole folder that python -m tvconv_jax.export wrote.")
    return path


def choose_runtime(path: Path, runtime: str) -> str:
    """The runtime's name, ``auto`` by the file's suffix; the file is there and is of a kind that it runs."""
    able = [name for name, kind in RUNTIMES.items() if existing(path).suffix in kind.suffixes]
    if not able:
        raise Mistake(f"{path} is not loaded: artifacts end in .onnx, .safetensors or .pt2.")
    if runtime not in (*able, "auto"):
        raise Mistake(f"{runtime} does not run {path}; --runtime of such a file is one of: {', '.join(able)}.")
    return able[0] if runtime == "auto" else runtime


def import_runtime(runtime: str) -> None:
    """Imports the runtime, or says how to install it."""
    package = RUNTIMES[runtime].package
    try:
        importlib.import_module(package)
    except ImportError as error:
        hint = f"; {PI_HINT}" if package == "onnxruntime" else ""
        raise Mistake(f"{package} cannot be imported ({error}): pip install {package}{hint}.") from None


def load(path: Path, runtime: str, threads: int, *, run_code: bool = False) -> OnnxRuntime:
    """The model in its runtime; ``run_code``: whatever code the artifact comes with."""
    import_runtime(runtime)
    return explained(
        lambda: RUNTIMES[runtime](path, threads, run_code=run_code), f"{path} cannot be loaded by {runtime}"
    )


def ready(model: OnnxRuntime, images: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
    """A function that runs the model on these images; it has run once."""
    if model.batch not in (None, len(images)):
        raise Mistake(f"{model.path} does not take a batch of {len(images)}, only --batch={model.batch}.")
    model.use(threads)
    what = f"{model.path} does not take a batch of {len(images)} in {model.name}"
    call = explained(lambda: model.call(images, threads), what)
    explained(call, what)
    return call


def explained(call: Callable[[], Any], what: str) -> Any:
    """Calls; every runtime has exceptions of its own, which all become one line."""
    try:
        return call()
    except Mistake:
        raise
    except Exception as error:
        raise Mistake(f"{what}: {' '.join(str(error).split())[:200] or type(error).__name__}") from None


def check(model: OnnxRuntime, file: Path, threads: int) -> dict[str, Any]:
    """Runs the images of ``check.npz``, all at once and the first alone, and compares with the JAX model's answers.

    Raises:
        Mistake: If the file is not of this artifact (code 2), or the answers differ (code 1).
    """
    try:
        with np.load(existing(file)) as arrays:
            if sum(entry.file_size for entry in arrays.zip.infolist()) > MAX_BYTES:
                raise ValueError("it unpacks to more than memory may hold")
            images, answers = arrays["images"], arrays[model.output] if model.output in arrays.files else None
    except Mistake:
        raise
    except Exception:  # whatever a damaged file makes of zipfile and numpy; no pickle is loaded
        raise Mistake(f"{file} is truncated or is not an .npz file of images and answers; copy it again.") from None
    if not len(images):
        raise Mistake(f"{file} holds no images; copy the one that python -m tvconv_jax.export wrote.")
    if answers is None:
        raise Mistake(f"{file} holds no {model.output}, which {model.path} gives: they are of different models.")
    if list(images.shape[1:]) != model.shape:
        raise Mistake(f"{file} holds images {list(images.shape[1:])}, {model.path} takes {model.shape}: another size.")
    worst, scale = 0.0, np.abs(answers).max() if model.output == "logits" else 1.0
    for n in [model.batch] if model.batch else [1, len(images)]:
        actual = ready(model, np.resize(images, (n, *images.shape[1:])), threads)()
        expected = np.resize(answers, (n, *answers.shape[1:]))
        if actual.shape != expected.shape:
            raise Mistake(f"{model.path} answers {list(actual.shape)}, {file} holds {list(expected.shape)}.")
        if model.output == "embeddings":
            actual, expected = (a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (actual, expected))
        worst = float(np.maximum(worst, np.abs(actual - expected).max() / scale))  # NaN stays
    if not worst <= model.allowed:
        text = f"{model.path} in {model.name} differs from {file} by {worst:.2g}; {model.allowed:g} is allowed"
        raise Mistake(f"{text}: they are of different exports, or that runtime computes wrongly.", 1)
    return {"file": str(file), "output": model.output, "max_difference": worst, "allowed": model.allowed}


def weigh(path: Path, runtime: str, threads: int, *, run_code: bool = False) -> dict[str, Any]:
    """Load time, and peak memory with the runtime alone and with runs (and compiling), of this fresh process."""
    import_runtime(runtime)
    alone, start = peak_memory(), time.perf_counter()
    model = load(path, runtime, threads, run_code=run_code)
    seconds, batch = time.perf_counter() - start, model.batch or MEMORY_BATCH
    call = ready(model, make_images(model, batch), threads)
    for _ in range(3):
        call()
    memory = {"peak_bytes": peak_memory(), "runtime_alone_bytes": alone, "batch": batch, "threads": threads}
    return {"file_bytes": path.stat().st_size, "load_s": seconds, "memory": memory}


def weigh_in_fresh_process(path: Path, runtime: str, threads: int, *, run_code: bool = False) -> dict[str, Any]:
    """As :func:`weigh`; where the runtime kills the process, this one lives to tell."""
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
    """Bytes that this process held at most: VmHWM where there is one, which a parent's memory is no part of."""
    for line in (_text("/proc/self/status") or "").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def make_images(model: OnnxRuntime, batch: int) -> np.ndarray:
    """Noise in the range of images, the same every time."""
    return np.random.default_rng(0).uniform(-1, 1, (batch, *model.shape)).astype(np.float32)


def measure(models: Sequence[OnnxRuntime], points: Sequence[tuple[int, int]], seconds: float) -> list[list[dict]]:
    """Times every model at every (batch, threads), in turns, in rounds over all of them.

    Returns:
        For each model an entry a point: ``batch``, ``threads``, ``runs``, milliseconds ``median_ms``, ``p90_ms`` and
        ``p99_ms``, and ``images_per_second`` at the median.
    """
    images = make_images(models[0], max(batch for batch, _ in points))
    calls = {(point, i): ready(one, images[: point[0]], point[1]) for point in points for i, one in enumerate(models)}
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
    """The point of most images per second."""
    return max(points, key=lambda point: point["images_per_second"])


def compare(measured: Sequence[Sequence[dict]]) -> list[dict[str, Any]]:
    """Images per second of every model but the first over the first's: point by point, and best over best."""
    ratios = []
    for i, others in enumerate(measured[1:], start=1):
        points = []
        for one, other in zip(measured[0], others):  # noqa: B905, Python 3.9 has no strict=
            place = {key: one[key] for key in ("batch", "threads")}
            points.append({**place, "ratio": other["images_per_second"] / one["images_per_second"]})
        ratio = best(others)["images_per_second"] / best(measured[0])["images_per_second"]
        ratios.append({"artifact": i, "over": 0, "points": points, "best_over_best": ratio})
    return ratios


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """What the machine says of itself; None where it says nothing."""
    lines = [line.partition(":") for line in (_text("/proc/cpuinfo") or "").splitlines()]
    said = {key.strip(): value.strip() for key, _, value in lines}
    return {
        "model": _text("/proc/device-tree/model"),
        "processor": said.get("model name") or ARM_CORES.get(said.get("CPU part", "")) or platform.machine(),
        "cores": cores(),
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "system": platform.platform(),
    }


def state() -> dict[str, Any]:
    """Temperature in degrees Celsius, and the Raspberry Pi's throttling bits (0: never throttled); None if unknown."""
    degrees = _text("/sys/class/thermal/thermal_zone0/temp")
    bits = _text("/sys/devices/platform/soc/soc:firmware/get_throttled")
    try:
        said = subprocess.run(["vcgencmd", "get_throttled"], capture_output=True, text=True, timeout=10).stdout
        bits = said.strip().partition("0x")[2] or bits
    except (OSError, subprocess.SubprocessError):
        pass
    temperature = _number(degrees, 10)
    return {"temperature": temperature and temperature / 1000, "throttled": _number(bits, 16)}


def _number(text: str | None, base: int) -> int | None:
    try:
        return int(text or "", base)
    except ValueError:
        return None


def slowed(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether a Pi throttled meanwhile: it does now (bits 0-3), or has since it was asked before (16-19, kept on)."""
    bits = after["throttled"] or 0
    return bool(bits & 0xF or bits & ~(before["throttled"] or 0))


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text(errors="replace").strip("\0\n ")
    except OSError:
        return None


def print_check(entry: dict[str, Any]) -> None:
    """How close an artifact is to the JAX model."""
    said = entry["check"] and "{output} equal {file} to {max_difference:.1e}, {allowed:g} is allowed"
    said = said.format(**entry["check"]) if said else "not checked, no check.npz is beside it"
    print(f"{entry['file']} ({entry['title']}): {said}", flush=True)


def print_points(entry: dict[str, Any]) -> None:
    """What an artifact weighs, and its table."""
    memory = entry["memory"]
    peak, alone = (f"{memory[key] / 1e6:.0f} MB" for key in ("peak_bytes", "runtime_alone_bytes"))
    print(
        f"\n{entry['file']} ({entry['title']}): {entry['file_bytes'] / 1e6:.2f} MB, loaded in {entry['load_s']:.2f} s"
    )
    print(f"peak memory of a fresh process at batch {memory['batch']}: {peak}; with the runtime alone: {alone}")
    print(f"{'batch':>7}{'threads':>9}{'median ms':>12}{'p90':>10}{'p99':>10}{'images/s':>11}")
    for point in entry["points"]:
        line = "{batch:>7}{threads:>9}{median_ms:>12.2f}{p90_ms:>10.2f}{p99_ms:>10.2f}{images_per_second:>11.1f}"
        print(line.format(**point) + ("  best" if point == entry["best"] else ""))


def print_ratios(results: dict[str, Any]) -> None:
    """Every further artifact over the first."""
    titles = [f"{entry['file']} ({entry['title']})" for entry in results["artifacts"]]
    for ratios in results["compare"]:
        print(f"\nimages per second of {titles[ratios['artifact']]} over {titles[0]}, interleaved:")
        for point in ratios["points"]:
            print("{batch:>7}{threads:>9}{ratio:>11.2f}x".format(**point))
        print(f"{'best over best':>16}{ratios['best_over_best']:>11.2f}x")


def check_json(file: Path | None) -> None:
    """Before anything is measured: figures that are wanted can be written there."""
    if not file:
        return
    folder = file.absolute().parent
    if not folder.is_dir():
        raise Mistake(f"--json={file}: there is no folder {file.parent}; make it first.")
    if file.is_dir() or not os.access(file if file.exists() else folder, os.W_OK):
        raise Mistake(f"--json={file} is a folder, or may not be written; name another file.")
    if file.exists():
        print(f"note: {file} is there and will be written over", file=sys.stderr)


def run(args: argparse.Namespace) -> None:
    """What the command does, once its arguments are parsed."""
    runtimes = [choose_runtime(path, name) for path, name in _each(args.artifacts, args.runtime, "--runtime")]
    checks = _each(args.artifacts, args.check or [None], "--check")
    if args.weigh:
        return print(json.dumps(weigh(args.artifacts[0], runtimes[0], args.threads[0], run_code=args.run_code)))
    if args.compare and len(args.artifacts) < 2:
        raise Mistake("--compare takes two artifacts or more; the first is what the others are compared with.")
    check_json(args.json)
    threads = [n for n in args.threads if n <= cores()]
    if not threads:
        raise Mistake(f"--threads={min(args.threads)} is more than the {cores()} cores that this process may use.")
    models, entries, trust = [], [], {"run_code": args.run_code}
    for (path, file), runtime in zip(checks, runtimes):  # noqa: B905, Python 3.9 has no strict=
        weight = {} if args.check_only else weigh_in_fresh_process(path, runtime, max(threads), **trust)
        model = load(path, runtime, threads[0], **trust)
        beside = path.with_name("check.npz")
        file = file or (beside if args.check_only or beside.exists() else None)
        checked = check(model, file, threads[0]) if file else None
        about = {"file": str(path), "title": model.title, "runtime": runtime, "metadata": model.metadata}
        models.append(model)
        entries.append({**about, **weight, "check": checked})
        print_check(entries[-1])
    if args.compare and len({(model.output, *model.shape) for model in models}) > 1:
        kinds = "; ".join(f"{model.path} gives {model.output} of images {model.shape}" for model in models)
        raise Mistake(f"--compare takes models of one kind and image size: {kinds}.")
    versions = {model.package: model.module.__version__ for model in models}
    versions |= {"python": platform.python_version(), "numpy": np.__version__}
    results = {"machine": machine(), "versions": versions, "before": state(), "artifacts": entries}
    if not args.check_only:
        time_all(args, threads, models, results)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


def time_all(args: argparse.Namespace, threads: list[int], models: list[OnnxRuntime], results: dict[str, Any]) -> None:
    """Times the models, prints what came out and adds it to the results."""
    entries, about = results["artifacts"], results["machine"] | results["versions"]
    print("\n" + ", ".join(f"{key} {value}" for key, value in about.items() if value))
    if len(threads) < len(args.threads):
        print(f"threads above the {cores()} cores that this process may use are left out")
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
    """Every artifact with its value: one value is for all."""
    if len(values) not in (1, len(artifacts)):
        raise Mistake(f"{flag} has {len(values)} values for {len(artifacts)} artifacts; give one, or one for each.")
    return [(path, values[i % len(values)]) for i, path in enumerate(artifacts)]


def _integers(text: str) -> list[int]:
    values = [int(part) for part in text.split(",")]
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"{min(values)} must be at least 1")
    return sorted(set(values))


def seconds(text: str) -> float:
    """For argparse: not negative, and not without end."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be 0 or more, and finite")
    return value


def _runtimes(text: str) -> list[str]:
    for name in text.split(","):
        if name not in ("auto", *RUNTIMES):
            raise argparse.ArgumentTypeError(f"{name!r} is none of: auto, {', '.join(RUNTIMES)}")
    return text.split(",")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        self.exit(2, "error: " + message.rstrip(".") + ". See --help.\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = _Parser(description=__doc__.splitlines()[0])
    parser.add_argument("artifacts", nargs="+", type=Path, metavar="ARTIFACT")
    parser.add_argument("--compare", action="store_true", help="all take turns; ratios of the others over the first")
    about = "default: check.npz beside it, if there; repeated: one for each"
    parser.add_argument("--check", action="append", type=Path, metavar="FILE", help=about)
    parser.add_argument("--check-only", action="store_true", help="times and weighs nothing")
    parser.add_argument("--batch", type=_integers, default=[1, 2, 4, 8, 16], help="default: 1,2,4,8,16")
    parser.add_argument(
        "--threads", type=_integers, default=[1, 2, 4], help="default: 1,2,4; up to the cores there are"
    )
    about = f"one, or one for each artifact, of: auto, {', '.join(RUNTIMES)}"
    parser.add_argument("--runtime", type=_runtimes, default=["auto"], help=about)
    parser.add_argument("--seconds", type=seconds, default=2.0, help="per artifact, batch and threads: default 2")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes all figures there too")
    about = (
        "runs model.py, native.py, native.cpp and .pt2 programs that no exporter wrote: whatever they hold is executed"
    )
    parser.add_argument("--run-code", action="store_true", help=about)
    parser.add_argument("--weigh", action="store_true", help=argparse.SUPPRESS)  # load time, memory: see weigh
    try:
        run(parser.parse_args(argv))
    except Mistake as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.code)
    except KeyboardInterrupt:
        sys.exit(130)


class _Courteous(io.RawIOBase):
    """A descriptor that takes every byte: what nobody reads, or no disk has room for, is dropped."""

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


def _be_courteous() -> None:
    """Output never ends the measurement, as with ``| head -1`` or a dead ssh."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        encoding = getattr(getattr(sys, name), "encoding", "utf-8")  # None, where it is closed
        raw = io.BufferedWriter(_Courteous(descriptor))
        setattr(sys, name, io.TextIOWrapper(raw, encoding, "backslashreplace", line_buffering=True))


if __name__ == "__main__":
    _be_courteous()
    main()
