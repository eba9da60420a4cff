"""The benchmark of exported models: on tiny models whose answers are known, and on files that are wrong."""

import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch._inductor.config
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tvconv_jax.edge import benchmark
from tvconv_jax.export import artifacts
from tvconv_jax.export.graph import Graph
from tvconv_jax.export.interpreter import arrays_of, make_run

SIDE = 6
WEIGHTS = np.linspace(-1, 1, 4 * 3, dtype=np.float32).reshape(4, 3)
QUICK = ["--batch=1,3", "--threads=1", "--seconds=0"]
MODEL_PY = """
import json, struct, torch

def load(path):
    data = open(path, "rb").read()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    begin, end = json.loads(data[8:start])["weights"]["data_offsets"]
    model = Model()
    model.weights = torch.nn.Parameter(torch.frombuffer(bytearray(data[start + begin:start + end]), dtype=torch.float32).reshape(4, 3))
    return model.eval()

class Model(torch.nn.Module):
    def forward(self, images):
        return images.clamp(min=0).mean((2, 3)) @ self.weights.T
"""  # noqa: E501


def metadata(output="embeddings", side=SIDE, batch=None, **fields):
    about = {"name": "mobilenetv2", "width": 0.5, "operator": "tvconv", "rank": "exact", "accuracy": {"mean": 0.87}}
    shape = [batch, 4] if output == "embeddings" else [batch, 3, side, side]
    files = {"input": {"name": "images", "shape": [batch, 3, side, side]}, "output": {"name": output, "shape": shape}}
    return json.dumps(about | files | fields)


def embed(images, weights=WEIGHTS):
    """What the artifacts compute: positive pixels, their mean, a linear layer."""
    return np.maximum(images, 0).mean((2, 3)) @ weights.T


def write_onnx(folder, *, output="embeddings", side=SIDE, batch=None, text=None, **fields):
    """An artifact as the exporter writes it, with its ``check.npz``; logits are the positive pixels themselves."""
    folder.mkdir(exist_ok=True)
    relu = helper.make_node("Relu", ["images"], ["relu" if output == "embeddings" else "logits"])
    mean = helper.make_node("ReduceMean", ["relu"], ["mean"], axes=[2, 3], keepdims=0)
    linear = helper.make_node("MatMul", ["mean", "weights"], ["embeddings"])
    shape = ["batch", 4] if output == "embeddings" else ["batch", 3, side, side]
    graph = helper.make_graph(
        [relu, mean, linear] if output == "embeddings" else [relu],
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch or "batch", 3, side, side])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch or "batch", *shape[1:]])],
        [numpy_helper.from_array(WEIGHTS.T.copy(), "weights")] if output == "embeddings" else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"tvconv_jax": text or metadata(output, side, batch, **fields)})
    onnx.save(model, folder / "model.onnx")
    images = np.random.default_rng(1).uniform(-9, 9, (8, 3, side, side)).astype(np.float32)
    write_check(folder, images, **{output: embed(images) if output == "embeddings" else np.maximum(images, 0)})
    return str(folder / "model.onnx")


def write_check(folder, images, **answers):
    np.savez(folder / "check.npz", images=images, **answers)


def write_torch(folder, *, weights=WEIGHTS):
    """``model.safetensors``, ``model.py``, ``model.pt2``."""
    write_onnx(folder)
    tensor = {"dtype": "F32", "shape": list(weights.shape), "data_offsets": [0, weights.nbytes]}
    header = json.dumps({"__metadata__": {"tvconv_jax": metadata()}, "weights": tensor}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + weights.tobytes())
    (folder / "model.py").write_text(MODEL_PY)
    return str(folder / "model.safetensors")


def failure(capsys, *arguments):
    """Exit code and the one line that the command says when it fails."""
    with pytest.raises(SystemExit) as info:
        benchmark.main([str(argument) for argument in arguments])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return info.value.code, lines[0]


@pytest.fixture(autouse=True)
def threads():
    """Other tests get PyTorch with the threads that it had."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def here(monkeypatch):
    """Weighs in this process: that it does so in a fresh one, one test shows."""
    monkeypatch.setattr(benchmark, "weigh_in_fresh_process", benchmark.weigh)


def test_a_copied_file_loads_no_jax_and_measures(tmp_path):
    artifact = write_onnx(tmp_path)
    copied = shutil.copy(benchmark.__file__, tmp_path)
    code = (
        "import sys, benchmark; names = {name.split('.')[0] for name in sys.modules}\n"
        "assert benchmark.__file__ == sys.argv[1], benchmark.__file__\n"
        "assert not names & {'jax', 'tvconv_jax', 'torch', 'onnxruntime', 'onnx', 'scipy'}, names"
    )
    subprocess.run([sys.executable, "-c", code, copied], cwd=tmp_path, check=True)
    command = [sys.executable, copied, artifact, *QUICK, "--json=figures.json"]
    printed = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert "mobilenetv2 x0.5 tvconv, onnxruntime" in printed and "best" in printed
    results = json.loads((tmp_path / "figures.json").read_text())
    memory = results["artifacts"][0]["memory"]
    assert 2**20 < memory["runtime_alone_bytes"] <= memory["peak_bytes"] < 2**30
    assert memory["batch"] == 8
    assert results["versions"].keys() == {"onnxruntime", "numpy", "python"}
    assert results["machine"]["cores"] >= 1 and results["machine"]["processor"]


def test_figures_of_every_point(here, tmp_path, capsys):
    artifact = write_onnx(tmp_path)
    benchmark.main([artifact, "--batch=4,1,1", "--threads=1,1024", "--seconds=0", f"--json={tmp_path}/figures.json"])
    (entry,) = json.loads((tmp_path / "figures.json").read_text())["artifacts"]
    assert [(point["batch"], point["threads"]) for point in entry["points"]] == [(1, 1), (4, 1)]
    for point in entry["points"]:
        assert 0 < point["median_ms"] <= point["p90_ms"] <= point["p99_ms"]
        assert point["images_per_second"] == pytest.approx(1000 * point["batch"] / point["median_ms"])
        assert point["runs"] == benchmark.ROUNDS
    assert entry["best"] == max(entry["points"], key=lambda point: point["images_per_second"])
    assert entry["file_bytes"] == Path(artifact).stat().st_size
    assert entry["load_s"] > 0
    assert entry["metadata"]["accuracy"] == {"mean": 0.87}
    assert entry["check"]["max_difference"] <= 1e-6  # means of 36 float32 numbers in another order
    printed = capsys.readouterr().out
    assert "are left out" in printed and "embeddings equal" in printed


def test_percentiles_and_ratios_by_hand():
    points = [benchmark._figures(2, 1, [0.001 * i for i in range(1, 102)]), benchmark._figures(4, 1, [0.1])]
    assert points[0]["median_ms"] == pytest.approx(51)
    assert points[0]["p90_ms"] == pytest.approx(91)
    assert points[0]["p99_ms"] == pytest.approx(100)
    assert points[0]["images_per_second"] == pytest.approx(2 / 0.051)
    others = [benchmark._figures(2, 1, [0.0255]), benchmark._figures(4, 1, [0.2])]
    (ratios,) = benchmark.compare([points, others])
    assert [point["ratio"] for point in ratios["points"]] == pytest.approx([2, 0.5])
    assert ratios["best_over_best"] == pytest.approx((2 / 0.0255) / (4 / 0.1))


def test_compare_takes_turns(here, tmp_path, capsys, monkeypatch):
    first, second = write_onnx(tmp_path / "a", operator="depthwise"), write_torch(tmp_path / "b")
    order, call = [], benchmark.OnnxRuntime.use
    monkeypatch.setattr(benchmark.OnnxRuntime, "use", lambda self, n: (order.append("a"), call(self, n)))
    monkeypatch.setattr(benchmark.Torch, "use", lambda self, n: (order.append("b"), torch.set_num_threads(n)))
    file = tmp_path / "figures.json"
    benchmark.main(["--compare", first, second, "--runtime=auto,torch", "--run-code", *QUICK, f"--json={file}"])
    assert order[-4 * benchmark.ROUNDS :] == ["a", "b", "a", "b"] * benchmark.ROUNDS
    results = json.loads(file.read_text())
    (ratios,) = results["compare"]
    for point, a, b in zip(ratios["points"], *(one["points"] for one in results["artifacts"]), strict=True):
        assert point["ratio"] == pytest.approx(b["images_per_second"] / a["images_per_second"])
    assert "best over best" in capsys.readouterr().out


def test_torch_artifacts_answer_the_same(here, tmp_path):
    artifact = write_torch(tmp_path)
    namespace = {}
    exec(MODEL_PY, namespace)
    images = torch.zeros(2, 3, SIDE, SIDE)
    batch = {"images": {0: torch.export.Dim("batch", min=1, max=16)}}
    program = torch.export.export(namespace["load"](artifact), (images,), dynamic_shapes=batch)
    torch.export.save(program, tmp_path / "model.pt2", extra_files={"tvconv_jax.json": metadata()})
    benchmark.main([artifact, str(tmp_path / "model.pt2"), "--run-code", *QUICK, f"--json={tmp_path}/figures.json"])
    entries = json.loads((tmp_path / "figures.json").read_text())["artifacts"]
    assert [entry["runtime"] for entry in entries] == ["torch", "torch"]
    for entry in entries:
        assert entry["check"]["max_difference"] <= 1e-6  # means of 36 float32 numbers in another order


def test_a_pi_that_throttled_before_it_was_measured_is_not_said_to_do_so():
    def at(bits):
        return {"throttled": bits}

    assert not benchmark.slowed(at(0x50000), at(0x50000)) and not benchmark.slowed(at(None), at(None))
    assert benchmark.slowed(at(0), at(0x50000)) and benchmark.slowed(at(0x50000), at(0x50005))


def test_what_is_only_checked_is_written_too(here, tmp_path, capsys):
    artifact, file = write_onnx(tmp_path), tmp_path / "figures.json"
    benchmark.main([str(artifact), "--check-only", f"--json={file}"])
    (entry,) = json.loads(file.read_text())["artifacts"]
    assert entry["check"]["max_difference"] <= entry["check"]["allowed"] and "points" not in entry
    assert "a folder, or may not be written" in failure(capsys, artifact, f"--json={tmp_path}")[1]
    (tmp_path / "check.npz").unlink()
    np.savez(tmp_path / "check.npz", images=np.zeros((0, 3, SIDE, SIDE)), embeddings=np.zeros((0, 4)))
    assert "check.npz holds no images" in failure(capsys, artifact, "--check-only")[1]
    assert "nan must be 0 or more, and finite" in failure(capsys, artifact, "--seconds=nan")[1]


def test_inductor_compiles_frozen_and_channels_last(tmp_path, monkeypatch):
    artifact, seen = write_torch(tmp_path), []

    def compile_(model, **options):
        def spy(images):
            seen.append((options, images.is_contiguous(memory_format=torch.channels_last), torch.get_num_threads()))
            return model(images)

        return spy

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(torch._inductor.config, "freezing", False)
    benchmark.main([artifact, "--runtime=inductor", "--run-code", "--check-only", "--threads=1"])
    assert seen == [({"dynamic": False}, True, 1)] * 4  # of one image and of eight, twice each
    assert torch._inductor.config.freezing


def test_logits_are_compared_relative_to_the_largest(tmp_path, capsys):
    artifact = write_onnx(tmp_path, output="logits")
    benchmark.main([artifact, "--check-only"])
    with np.load(tmp_path / "check.npz") as arrays:
        images, logits = arrays["images"], arrays["logits"]
    logits[0, 0, 0, 0] += 0.5e-3 * np.abs(logits).max()
    write_check(tmp_path, images, logits=logits)
    benchmark.main([artifact, "--check-only"])
    logits[0, 0, 0, 0] += 1e-3 * np.abs(logits).max()
    write_check(tmp_path, images, logits=logits)
    code, line = failure(capsys, artifact, "--check-only")
    assert code == 1 and "0.0015" in line


@pytest.mark.parametrize("wrong", [0.01, np.nan])
def test_another_answer_is_exit_code_1(tmp_path, capsys, wrong):
    """As of an artifact with another operator or of another run; embeddings are compared at length one."""
    artifact = write_onnx(tmp_path)
    with np.load(tmp_path / "check.npz") as arrays:
        images, embeddings = arrays["images"], arrays["embeddings"]
    write_check(tmp_path, images, embeddings=5 * embeddings)
    benchmark.main([artifact, "--check-only"])
    embeddings[7, 2] += wrong
    np.savez(tmp_path / "other.npz", images=images, embeddings=embeddings)
    code, line = failure(capsys, artifact, "--check-only", f"--check={tmp_path}/other.npz")
    assert code == 1 and "differs from" in line and "other.npz" in line


def test_check_files_that_do_not_fit(tmp_path, capsys):
    artifact = write_onnx(tmp_path / "a")
    write_onnx(tmp_path / "b", side=8)
    write_onnx(tmp_path / "c", output="logits")
    for folder, expected in (("b", "another size"), ("c", "holds no embeddings"), ("d", "is not there")):
        code, line = failure(capsys, artifact, "--check-only", f"--check={tmp_path / folder}/check.npz")
        assert code == 2 and expected in line
    for data in (b"", b"garbage", (tmp_path / "a/check.npz").read_bytes()[:-100]):
        (tmp_path / "a/check.npz").write_bytes(data)
        code, line = failure(capsys, artifact, "--check-only")
        assert code == 2 and "truncated" in line


def test_models_of_two_kinds_are_not_compared(here, tmp_path, capsys):
    first = write_onnx(tmp_path / "a")
    for other in (write_onnx(tmp_path / "b", side=8), write_onnx(tmp_path / "c", output="logits")):
        code, line = failure(capsys, "--compare", first, other, *QUICK)
        assert code == 2 and "one kind and image size" in line
    code, line = failure(capsys, "--compare", first, *QUICK)
    assert code == 2 and "two artifacts" in line


def test_a_batch_that_the_model_does_not_take(here, tmp_path, capsys):
    fixed = write_onnx(tmp_path / "a", batch=2)
    benchmark.main([fixed, "--batch=2", "--threads=1", "--seconds=0"])
    capsys.readouterr()
    code, line = failure(capsys, fixed, *QUICK)
    assert code == 2 and "does not take a batch of 1, only --batch=2" in line
    said_wrongly = write_onnx(tmp_path / "b", batch=2, text=metadata())
    code, line = failure(capsys, said_wrongly, *QUICK)
    assert code == 2 and "does not take a batch of" in line and "onnxruntime" in line


def test_files_that_are_no_artifacts(tmp_path, capsys):
    onnx_data, torch_data = (Path(write(tmp_path)).read_bytes() for write in (write_onnx, write_torch))
    bad = {
        "short.onnx": onnx_data[:-200],
        "garbage.onnx": b"garbage" * 50,
        "empty.onnx": b"",
        "short.safetensors": torch_data[:-1],
        "long.safetensors": torch_data + b"x",
        "garbage.safetensors": b"garbage" * 50,
        "empty.safetensors": b"",
        "short.pt2": b"PK garbage",
        "model.pth": b"",
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
        if name == "short.pt2":
            (tmp_path / "short.safetensors").write_bytes(torch_data)
        code, line = failure(capsys, tmp_path / name, "--check-only")
        assert code == 2 and name in line, line
    code, line = failure(capsys, tmp_path / "none.onnx")
    assert code == 2 and "is not there" in line
    code, line = failure(capsys, write_onnx(tmp_path / "other", text="{}"), "--check-only")
    assert code == 2 and "no metadata of tvconv_jax" in line
    (tmp_path / "model.py").unlink()
    code, line = failure(capsys, tmp_path / "model.safetensors", "--check-only")
    assert code == 2 and "model.py is not there" in line


def test_the_fresh_process_says_what_is_wrong(tmp_path, capsys, monkeypatch):
    (tmp_path / "model.onnx").write_bytes(b"garbage")
    code, line = failure(capsys, tmp_path / "model.onnx", *QUICK)
    assert code == 2 and "model.onnx cannot be loaded by onnxruntime" in line
    killed = subprocess.CompletedProcess([], -4, "", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: killed)
    code, line = failure(capsys, tmp_path / "model.onnx", *QUICK)
    assert code == 2 and "illegal instruction" in line and "onnxruntime==1.20.1" in line


def write_native(folder):
    """``model.onnx`` and ``model.safetensors`` of one small face model, with the native engine's code."""
    graph = Graph(SIDE)
    stem = {"kernel": np.linspace(-1, 1, 9 * 3 * 8, dtype=np.float32).reshape(3, 3, 3, 8), "bias": np.zeros(8, "f4")}
    conv = {"strides": 1, "padding": 1, "dilation": 1, "groups": 1, "activation": "relu"}
    linear = {"kernel": np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4), "bias": np.zeros(4, "f4")}
    graph.add("linear", graph.add("mean", graph.add("conv", 0, arrays=stem, **conv), keep_grid=False), arrays=linear)
    images = np.random.default_rng(1).uniform(-1, 1, (8, SIDE, SIDE, 3)).astype(np.float32)
    expected = np.asarray(make_run(graph)(arrays_of(graph), images))
    options = {"formats": ["onnx", "native"], "precision": "float32", "expected": expected}
    channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    artifacts.write(folder, graph, json.loads(metadata()), images=channels_first, **options)
    return [str(folder / "model.onnx"), str(folder / "model.safetensors")]


def test_the_runtime_is_found_by_the_code_beside_the_file(here, tmp_path, capsys):
    """ONNX and native of one export are compared in one run, without a flag."""
    files, figures = write_native(tmp_path / "export"), tmp_path / "figures.json"
    benchmark.main([*files, "--compare", *QUICK, f"--json={figures}"])
    results = json.loads(figures.read_text())
    assert [entry["runtime"] for entry in results["artifacts"]] == ["onnxruntime", "native"]
    assert len(results["compare"]) == 1 and not capsys.readouterr().err


def test_a_copied_benchmark_finds_the_native_engine(tmp_path):
    files = write_native(tmp_path)
    copied = shutil.copy(benchmark.__file__, tmp_path)
    command = [sys.executable, copied, *files, "--compare", "--check-only"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert "tvconv, onnxruntime)" in done.stdout and "tvconv, native)" in done.stdout


def test_of_two_runtimes_the_taken_one_is_said(tmp_path, capsys, monkeypatch):
    artifact = Path(write_torch(tmp_path))
    for name in ("native.py", "native.cpp"):
        artifact.with_name(name).touch()
    assert benchmark.choose_runtime(artifact, "auto") == "torch"
    assert capsys.readouterr().err == f"note: {artifact} is run by torch; --runtime=native runs it by native\n"
    monkeypatch.setitem(sys.modules, "torch", None)  # a device without PyTorch
    assert benchmark.choose_runtime(artifact, "auto") == "native"
    assert "is run by native; --runtime=torch" in capsys.readouterr().err
    code, line = failure(capsys, artifact, "--runtime=torch", "--check-only")
    assert code == 2 and "pip install torch; or choose --runtime=native." in line


@pytest.mark.parametrize(
    ("files", "flags", "words"),
    [
        ([], [], "model.py is not there (--runtime=torch); native.py and native.cpp are not there (--runtime=native)"),
        (["native.py"], [], "native.cpp is not there (--runtime=native); copy from the export."),
        (["native.py", "native.cpp"], ["--runtime=torch"], "model.py is not there (--runtime=torch); choose --runtime"),
        (["model.py"], ["--runtime=native"], "(--runtime=native); choose --runtime=torch or inductor, whose files are"),
    ],
)
def test_missing_code_is_named_with_its_runtime(files, flags, words, tmp_path, capsys):
    artifact = Path(write_torch(tmp_path))
    artifact.with_name("model.py").unlink()
    for name in files:
        artifact.with_name(name).touch()
    code, line = failure(capsys, artifact, "--check-only", *flags)
    assert code == 2 and words in line and "whole folder" not in line


def test_a_missing_artifact_or_check_is_named_and_what_is_there(tmp_path, capsys):
    artifact = Path(write_onnx(tmp_path))
    line = f"error: {tmp_path}/model.pt2 is not there; artifacts in {tmp_path}: model.onnx."
    assert failure(capsys, tmp_path / "model.pt2") == (2, line)
    line = f"error: {tmp_path} is a folder; name a file in it; artifacts in {tmp_path}: model.onnx."
    assert failure(capsys, tmp_path) == (2, line)
    (tmp_path / "check.npz").unlink()
    assert "check.npz is not there; python -m tvconv_jax.export writes" in failure(capsys, artifact, "--check-only")[1]


def test_an_artifact_without_threshold_is_checked_and_timed(here, tmp_path, capsys):
    benchmark.main([write_onnx(tmp_path, thresholds=None, verified=False, accuracy=None), *QUICK])
    assert "embeddings equal" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("thresholds", "ends"),
    [({"thresholds": {"cosine": 0.4}}, False), ({"thresholds": None, "verified": False}, True), ({}, True)],
)
def test_the_snippet_of_the_page_survives_a_model_without_threshold(thresholds, ends, tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "docs" / "export.md").read_text()
    (snippet,) = [text for text in re.findall(r"```py\n(.*?)```", page, re.DOTALL) if "thresholds" in text]
    write_onnx(tmp_path, **thresholds)
    for name in ("one.jpg", "other.jpg"):
        Image.new("RGB", (9, 9), "gray").save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    if ends:
        with pytest.raises(SystemExit, match="this model has no threshold: add verification pairs"):
            exec(snippet, {})
    else:
        exec(snippet, scope := {})
        assert isinstance(bool(scope["same"]), bool)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "torch"])
def test_a_missing_runtime_says_what_to_install(tmp_path, capsys, monkeypatch, runtime):
    artifact = write_torch(tmp_path) if runtime == "torch" else write_onnx(tmp_path)
    monkeypatch.setitem(sys.modules, runtime, None)
    code, line = failure(capsys, artifact, f"--runtime={runtime}", "--check-only")
    assert code == 2 and f"pip install {runtime}" in line
    assert ("onnxruntime==1.20.1" in line) == (runtime == "onnxruntime")


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--runtime=torch", "torch does not run"),
        ("--runtime=native", "each can have its own, as --runtime=auto,native."),
        ("--runtime=onnxruntime,onnxruntime", "2 values for 1 artifacts"),
        ("--threads=1024", "more than the"),
        ("--json=nowhere/figures.json", "there is no folder nowhere"),
    ],
)
def test_flags_that_do_not_fit(tmp_path, capsys, flag, expected):
    code, line = failure(capsys, write_onnx(tmp_path), flag)
    assert code == 2 and expected in line


@pytest.mark.parametrize("flag", ["--batch=0", "--batch=x", "--runtime=tflite", "--seconds=x"])
def test_flags_that_are_no_values(flag, capsys):
    assert failure(capsys, "model.onnx", flag)[0] == 2


def test_what_the_machine_says(monkeypatch):
    files = {
        "/proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4",
        "/proc/cpuinfo": "processor\t: 0\nCPU part\t: 0xd08\n\nModel\t: Raspberry Pi 4",
        "/sys/class/thermal/thermal_zone0/temp": "48200",
        "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand",
    }
    monkeypatch.setattr(benchmark, "_text", files.get)
    about = benchmark.machine()
    assert (about["model"], about["processor"], about["governor"]) == (
        *list(files.values())[:1],
        "Cortex-A72",
        "ondemand",
    )
    throttled = subprocess.CompletedProcess([], 0, "throttled=0x50005\n", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: throttled)
    assert benchmark.state() == {"temperature": 48.2, "throttled": 0x50005}
    monkeypatch.setattr(benchmark, "_text", lambda path: None)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError))
    assert benchmark.state() == {"temperature": None, "throttled": None}


def test_the_task_of_an_artifact_is_named_and_different_tasks_are_not_compared(tmp_path, capsys):
    old, *new = (
        write_onnx(tmp_path / str(task), output="logits", **({"task": task} if task else {}))
        for task in (None, "segmentation", "classification")
    )
    assert (
        "(mobilenetv2 x0.5 tvconv for classification, onnxruntime) gives logits"
        in failure(capsys, *new, "--compare", *QUICK)[1]
    )
    benchmark.main([old, new[0], "--compare", "--check-only", f"--json={tmp_path / 'all.json'}"])
    assert "tvconv for segmentation, onnxruntime): logits equal" in capsys.readouterr().out
    assert [entry["task"] for entry in json.loads((tmp_path / "all.json").read_text())["artifacts"]] == [
        None,
        "segmentation",
    ]
