"""Speed, memory and correctness of exported models, on the device itself; this one file is all to copy.

    python benchmark.py model.onnx                            checked, weighed, timed
    python benchmark.py --compare A.onnx B.onnx               in turns; ratios of B over A
    python -m tvconv_jax.edge.benchmark ARTIFACT ...          the same, where tvconv_jax is installed

It needs Python 3.9, numpy and one runtime. An ARTIFACT is what ``python -m tvconv_jax.export`` wrote: ``.onnx``
(onnxruntime; openvino on request), ``.safetensors`` with its ``model.py`` beside it, which is executed, or ``.pt2``,
which ``torch.export.load`` reads (torch; inductor on request; native for ``.safetensors`` with ``native.py`` and
``native.cpp`` beside it, which need a C++ compiler instead of a runtime).
Nothing else is loaded, pickles least of all. A ``check.npz`` beside the artifact holds images and the JAX model's
answers to them; an artifact that answers otherwise ends the run with exit code 1. A time is one run's, on images in
memory, after warm-up.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 9):  # noqa: UP036, the device's Python is older than the package's
    sys.exit("error: this needs Python 3.9 or later, and is run by " + sys.version.split()[0])

import argparse
import contextlib
import importlib.util
import io
import json
import logging
import os
import platform
import subprocess
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Seconds of rest before a stretch, because another runtime's threads keep spinning for a while after their work.
ROUNDS, REST, MEMORY_BATCH = 5, 0.02, 8
# Largest difference allowed: of embeddings brought to length one; of logits, relative to the largest.
TOLERANCES = {"embeddings": 1e-4, "logits": 1e-3}
PI_HINT = "on a Raspberry Pi 4 onnxruntime==1.20.1, because 1.21.0 dies of an illegal instruction there"
ARM_CORES = {"0xd03": "Cortex-A53", "0xd08": "Cortex-A72", "0xd0b": "Cortex-A76"}


class Mistake(Exception):
    """One line for the user, and the exit code: 2, or 1 for an artifact that answers wrongly."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(" ".join(message.split()))
        self.code = code


class OnnxRuntime:
    """A model in onnxruntime, a session for each number of threads; the other runtimes have the same methods."""

    name, package, suffixes = "onnxruntime", "onnxruntime", (".onnx",)

    def __init__(self, path: Path, threads: int) -> None:
        self.path, self.module, self.sessions = path, importlib.import_module(self.package), {}
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
            if not zipfile.is_zipfile(self.path):
                raise Mistake(f"{self.path} is truncated or no .pt2 file; copy it again.")
            logging.getLogger("torch.export").setLevel(logging.CRITICAL)  # errors are told here, in one line
            about = {"tvconv_jax.json": ""}
            self.model = importlib.import_module("torch.export").load(str(self.path), extra_files=about).module()
            return about["tvconv_jax.json"]
        text = _safetensors_metadata(self.path)
        self.model = _beside(self.path, "model.py").load(str(self.path))
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
        self.model = _beside(self.path, "native.py").load(self.path, threads)
        return text

    def call(self, images: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
        return lambda: self.model(images)

    def use(self, threads: int) -> None:
        self.model.use(threads)


RUNTIMES = {kind.name: kind for kind in (OnnxRuntime, OpenVino, Torch, Inductor, Native)}


def _beside(path: Path, name: str) -> Any:
    """The module of that name beside an artifact, executed."""
    spec = importlib.util.spec_from_file_location(
        f"tvconv_jax_artifact_{len(sys.modules)}", existing(path.with_name(name))
    )
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    raise Mistake(f"{path} is truncated or no .safetensors file; copy it again.")


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


def load(path: Path, runtime: str, threads: int) -> OnnxRuntime:
    """The model in its runtime."""
    import_runtime(runtime)
    return explained(lambda: RUNTIMES[runtime](path, threads), f"{path} cannot be loaded by {runtime}")


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
            images, answers = arrays["images"], arrays[model.output] if model.output in arrays.files else None
    except (OSError, EOFError, KeyError, ValueError, AttributeError, zipfile.BadZipFile):
        raise Mistake(f"{file} is truncated or no .npz file of images and answers; copy it again.") from None
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


def weigh(path: Path, runtime: str, threads: int) -> dict[str, Any]:
    """Load time, and peak memory with the runtime alone and with runs (and compiling), of this fresh process."""
    import_runtime(runtime)
    alone, start = peak_memory(), time.perf_counter()
    model = load(path, runtime, threads)
    seconds, batch = time.perf_counter() - start, model.batch or MEMORY_BATCH
    call = ready(model, make_images(model, batch), threads)
    for _ in range(3):
        call()
    memory = {"peak_bytes": peak_memory(), "runtime_alone_bytes": alone, "batch": batch, "threads": threads}
    return {"file_bytes": path.stat().st_size, "load_s": seconds, "memory": memory}


def weigh_in_fresh_process(path: Path, runtime: str, threads: int) -> dict[str, Any]:
    """As :func:`weigh`; where the runtime kills the process, this one lives to tell."""
    command = [sys.executable, __file__, str(path), "--weigh", f"--runtime={runtime}", f"--threads={threads}"]
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


def run(args: argparse.Namespace) -> None:
    """What the command does, once its arguments are parsed."""
    runtimes = [choose_runtime(path, name) for path, name in _each(args.artifacts, args.runtime, "--runtime")]
    checks = _each(args.artifacts, args.check or [None], "--check")
    if args.weigh:
        return print(json.dumps(weigh(args.artifacts[0], runtimes[0], args.threads[0])))
    if args.compare and len(args.artifacts) < 2:
        raise Mistake("--compare takes two artifacts or more; the first is what the others are compared with.")
    check_json(args.json)
    threads = [n for n in args.threads if n <= cores()]
    if not threads:
        raise Mistake(f"--threads={min(args.threads)} is more than the {cores()} cores that this process may use.")
    models, entries = [], []
    for (path, file), runtime in zip(checks, runtimes):  # noqa: B905, Python 3.9 has no strict=
        weight = {} if args.check_only else weigh_in_fresh_process(path, runtime, max(threads))
        model = load(path, runtime, threads[0])
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


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
