"""The command for a machine with a GPU: all of it at tiny sizes on a CPU, without packages that it must not need."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from folders import encoded
from PIL import Image

from tvconv_jax.bench import __main__ as bench
from tvconv_jax.bench import torch_baseline as baseline
from tvconv_jax.bench.gpu import command, operators, processes
from tvconv_jax.bench.gpu.face_files import read_faces
from tvconv_jax.bench.gpu.item import TINY, Group, Item, Sizes
from tvconv_jax.bench.gpu.items import groups, shapes
from tvconv_jax.bench.gpu.page import page
from tvconv_jax.bench.gpu.record import FILE, Record, read_rows
from tvconv_jax.bench.torch_baseline_shufflenet import ShuffleNetV2
from tvconv_jax.convert import from_torch
from tvconv_jax.models import create_model
from tvconv_jax.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("barely_optimized")

ROOT = Path(__file__).parents[1]
# Of the extras, what a bare machine with a GPU lacks.
LACKING = (
    "grain",
    "tensorflow_datasets",
    "ml_collections",
    "matplotlib",
    "scipy",
    "sklearn",
    "simplejpeg",
    "tensorboardX",
)
BLOCK = f"""
import sys
for name in {LACKING}:
    sys.modules[name] = None
"""


@pytest.fixture(autouse=True)
def one_thread():
    """Several threads of PyTorch would wait for each other where other tests keep the cores busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def packed(path, **changes):
    """Write eight images of two identities and twenty pairs as the packing script does."""
    random, arrays = np.random.default_rng(0), {}
    for name, count in (("", 8), ("test_", 40)):
        drawn = [random.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(count)]
        images = [encoded(image, "WEBP") for image in drawn]
        arrays[f"{name}data"] = np.frombuffer(b"".join(images), np.uint8)
        arrays[f"{name}ends"] = np.cumsum([0] + [len(image) for image in images])
    pairs = np.arange(40, dtype=np.int32).reshape(20, 2)
    arrays |= {"labels": np.arange(8, dtype=np.int32) % 2, "left": pairs[:, 0], "right": pairs[:, 1]}
    np.savez(path, **(arrays | {"same": np.arange(20) % 2 == 0} | changes))
    return path


def run(folder, *arguments):
    """Run the command where the packages of LACKING cannot be imported."""
    (folder / "block").mkdir(exist_ok=True)
    (folder / "block" / "sitecustomize.py").write_text(BLOCK)
    environment = os.environ | {"PYTHONPATH": f"{folder / 'block'}{os.pathsep}{ROOT}"}
    line = [sys.executable, "-m", "tvconv_jax.bench", "gpu", "--tiny", f"--out={folder / 'out'}", *arguments]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)


def test_all_of_it_at_tiny_sizes_and_again_what_is_missing(tmp_path, capsys):
    faces, file = packed(tmp_path / "faces.npz"), tmp_path / "out" / FILE
    done = run(tmp_path, "--minutes=12", f"--faces={faces}", "--commit=abc")
    assert done.returncode == 0, done.stderr
    assert "all is measured" in done.stderr
    rows = read_rows(file)
    assert [json.loads(line) for line in done.stdout.splitlines()] == rows
    assert [row["what"] for row in rows[:4]] == ["copy", "copy", "operator", "operator"]
    times = [row["t"] for row in rows]
    assert times == sorted(times)
    for row in rows:
        assert row["commit"] == "abc" and row["tiny"] and "cpu" in row["device"]
        assert row["versions"]["jax"] == jax.__version__ and "torch" in row["versions"]
        assert "error" not in row, row
    for row in rows[2:4]:
        for name in operators.PASSES:
            assert row[name]["us"] > 0 and row[name]["share_of_copy"] > 0 and "error" not in row[name]
            assert 0 < row[name]["float64_difference"] < operators.TOLERANCE[row["precision"]]
    steps = [row for row in rows if row["what"] == "step"]
    assert {row.get("mode", row["side"]) for row in steps} == {
        *("ours", "compiled", "eager", "channels-last", "compiled channels-last")
    }
    assert all(np.isfinite(row["losses"]).all() and row["images_per_s"] >= 0 for row in steps)
    assert all(row["kernels"] > 50 and row["moved_bytes"] > 1e6 for row in steps if row["side"] == "ours")
    runs = [row for row in rows if row["what"] == "accuracy"]
    assert [(row["asked_rate"], row["learning_rate"]) for row in runs] == [(0.05, 0.05), (None, 0.05)]
    assert all(0 <= row["accuracy"] <= 100 for row in runs)

    # Killed in the middle of a line: that figure alone is measured again, and nothing else changes.
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[1:])[:-20])
    again = run(tmp_path, "--minutes=5", "--only=copy", "--commit=abc")
    assert again.returncode == 0, again.stderr
    (row,) = map(json.loads, again.stdout.splitlines())
    assert (row["what"], row["precision"]) == ("copy", "float32")
    assert file.read_text().splitlines()[:-1] == [line.rstrip("\n") for line in lines[1:-1]]

    bench.main(["gpu", f"--page={file}"])
    printed = capsys.readouterr().out
    for title in ("### Copy", "### Operators", "### Training steps", "### Faces"):
        assert title in printed
    assert "commit abc" in printed and "mean nothing" in printed


def test_a_step_stands_beside_a_copy():
    model = {"model": "mobilenetv2", "width": 0.1, "operator": "tvconv", "precision": "float32", "batch": 512}
    figures = {"images_per_s": 40_000, "kernels": 750, "moved_bytes": 29e9, "gb_per_s": 2265.6, "compile_s": 60.0}
    copy = {"what": "copy", "precision": "float32", "gb_per_s": 4100.0, "read_bytes": 1, "launch_us": 2.0}
    step = {"what": "step", "side": "ours", **model, **figures}
    assert "| 60 | 750 | 29.0 | 55% |" in page([copy, step])
    assert "| 60 | 750 | 29.0 | - |" in page([step])


def test_the_order_is_by_value_and_each_item_is_there_once():
    found = groups(Sizes(), ("copy", "operators", "steps", "faces"), "digest")
    items = [item for group in found for items in group.sets for item in items]
    assert len({str(item) for item in items}) == len(items)
    assert [item.what for item in items[:2]] == ["copy", "copy"]
    assert [group.side for group in found[:2]] == ["jax_side", "torch_side"]
    steps = {
        (i.settings["side"], i.settings.get("mode"), i.settings["model"], i.settings["width"])
        for i in items
        if i.what == "step"
    }
    assert len(steps) == 3 * (1 + 4)
    assert shapes(0.1, 96)[0][0] in (48, 96) and len(shapes(1.0, 96)) >= 9
    assert {i.settings["operator"] for i in items if i.what == "accuracy"} == {"tvconv", "depthwise"}
    assert groups(Sizes(), ("faces",), None) == []
    (only,) = groups(Sizes(), ("copy",), None)
    assert [str(item) for items in only.sets for item in items] == ["copy float32", "copy bfloat16"]


def test_figures_of_other_code_count_as_missing_and_failed_ones_come_last(tmp_path):
    record = Record(tmp_path, commit="a", tiny=True)
    record.set_device("chip")
    first, second = Item("copy", {"precision": "float32"}), Item("copy", {"precision": "bfloat16"})
    record.add("copy", **first.settings, error="out of memory")
    assert record.missing([[first, second]]) == [[second], [first]]
    record.add("copy", **second.settings, gb_per_s=1.0)
    assert record.missing([[first, second]]) == [[first]]
    other = Record(tmp_path, commit="b", tiny=True)
    other.set_device("chip")
    assert other.missing([[first, second]]) == [[first, second]]


class BrokenProcess:
    """Ends without a word when it measures a certain item, and at a set that holds it."""

    bad = ""

    def __init__(self, side, options, *, quick):
        self.answers = [{"machine": {"device": "chip", "platform": "gpu"}}]

    def send(self, items):
        names = [str(Item(**item)) for item in items]
        self.answers.append({"begin": names, "text": "compiling"})
        for name in names:
            if self.bad in names:
                self.answers.append(None)
                return
            self.answers.append({"begin": [name], "text": "measuring"})
            self.answers.append({"item": name, "figures": {"copy_gb_per_s": 1, "forward": {"error": "it is odd"}}})

    def answer(self, seconds):
        return self.answers.pop(0)

    def exit_code(self):
        return -11

    def end(self):
        self.ended = True
        return -9


def test_a_process_that_waits_gives_the_memory_to_pytorch(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "Process", BrokenProcess)
    worker = processes.Worker(Record(tmp_path, commit=None, tiny=True), TINY, None, processes.time.time() + 60)
    worker.look()
    waiting = worker._looking
    worker.measure(Group("torch_side", [[Item("copy", {"precision": "float32"})]]))
    assert waiting.ended
    worker.close()


def test_a_process_that_dies_costs_one_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processes, "Process", BrokenProcess)
    about = {"shape": [1, 2, 2, 1, 1], "precision": "float32"}
    items = [Item("operator", {"operator": name, **about}) for name in "abcd"]
    monkeypatch.setattr(BrokenProcess, "bad", str(items[1]))
    record = Record(tmp_path, commit=None, tiny=False)
    worker = processes.Worker(record, TINY, None, deadline=processes.time.time() + 60)
    worker.look()
    worker.measure(Group("jax_side", [items[:3], items[3:]]))
    found = {row["operator"]: row.get("error", "measured") for row in read_rows(tmp_path / FILE)}
    assert found == {"a": "measured", "b": "the process ended with code -11", "c": "measured", "d": "measured"}
    assert "the process ended with code -11" in page(record.rows) and "forward: it is odd" in page(record.rows)


def test_a_side_that_cannot_run_is_one_line(tmp_path, monkeypatch):
    class Skipping(BrokenProcess):
        def __init__(self, side, options, *, quick):
            self.answers = [{"skip": "PyTorch is not installed, so ours are timed alone"}]

    monkeypatch.setattr(processes, "Process", Skipping)
    record = Record(tmp_path, commit=None, tiny=True)
    worker = processes.Worker(record, TINY, None, deadline=processes.time.time() + 60)
    for _ in range(2):
        worker.measure(Group("torch_side", [[Item("step", {"mode": "eager"})]]))
    (row,) = read_rows(tmp_path / FILE)
    assert row["what"] == "skipped" and row["reason"].startswith("PyTorch is not installed")


def test_a_wrong_kernel_is_an_error_and_the_other_passes_go_on(monkeypatch):
    def wrong(x, weights, *, strides):
        return 1.01 * operators.jax.lax.stop_gradient(weights[0, 0, 0, 0]) * x

    def fails(x, weights, *, strides):
        raise ValueError("out of memory")

    item = Item("operator", {"operator": "tvconv", "shape": [2, 4, 4, 3, 1], "precision": "float32"})
    monkeypatch.setitem(operators.OPERATORS, "tvconv", wrong)
    assert "differs from float64" in operators.prepare(item, TINY)()["forward"]["error"]
    monkeypatch.setitem(operators.OPERATORS, "tvconv", fails)
    assert operators.prepare(item, TINY)()["weight_gradient"]["error"] == "ValueError: out of memory"


@pytest.mark.parametrize("operator", ["tvconv", "depthwise"])
def test_the_baseline_of_shufflenet_computes_the_same(operator):
    torch.manual_seed(0)
    spatial = {"tvconv": baseline.TVConv, "depthwise": baseline.depthwise}[operator]
    theirs = ShuffleNetV2(0.5, 0.1, spatial, 16, embedding_size=512).eval()
    model = create_model("shufflenetv2", width=0.5, depth=0.1, operator=operator)
    variables = from_torch({name: value.numpy() for name, value in theirs.state_dict().items()}, model)
    images = np.random.default_rng(0).standard_normal((2, 16, 16, 3), dtype=np.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor(images).permute(0, 3, 1, 2)).numpy()
    found = jax.jit(lambda variables, images: model.apply(variables, images, train=False))(variables, images)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())  # float32, another order


def test_channels_last_changes_the_layout_alone():
    arrays, class_weights = bench.face_inputs(2, 16)
    losses = []
    for channels_last in (False, True):
        trainer = baseline.face_trainer(
            "depthwise", class_weights, arrays, bench.SGD, width=0.1, depth=0.1, channels_last=channels_last
        )
        losses.append(trainer.loss().item())
        layout = trainer.model.features[0][0].weight.is_contiguous(memory_format=torch.channels_last)
        assert layout == channels_last
    np.testing.assert_allclose(*losses, rtol=1e-3)  # batch norm over two images amplifies rounding


def test_faces_from_a_folder_are_those_of_the_file(tmp_path):
    random = np.random.default_rng(0)
    names = []
    for identity in ("ann", "bob"):
        (tmp_path / "train" / identity).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(
                tmp_path / "train" / identity / f"{i}.png"
            )
    (tmp_path / "few").mkdir()
    for i in range(40):
        names.append(f"{i:02}.png")
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / "few" / names[-1])
    pairs = [f"{names[i]} {names[i + 1]} {1 if i % 4 else -1}" for i in range(0, 40, 2)]
    (tmp_path / "few_pair.txt").write_text("\n".join(pairs))
    faces = read_faces(tmp_path)
    assert len(faces.images) == 4 and faces.labels.tolist() == [0, 0, 1, 1]
    assert len(faces.test) == 40 and faces.folds.tolist() == [i // 2 for i in range(20)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.zeros(8, np.int32)}, "1 identities"),
        ({"labels": np.zeros(3, np.int32)}, "8 images of 1 identities"),
        ({"ends": np.array([0, 5, 3])}, "do not fit"),
        ({"ends": np.array([], np.int32)}, "do not fit"),
        ({"left": np.full(20, 99, np.int32)}, "pairs of 40 images"),
        ({"left": np.zeros(3, np.int32)}, "other shapes"),
        ({"same": np.zeros(20)}, "other types"),
        ({"labels": np.array(["a"] * 8)}, "other types"),
    ],
)
def test_a_damaged_file_of_faces_is_one_line(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read_faces(packed(tmp_path / "faces.npz", **changes))


def test_bad_arguments_are_one_line(tmp_path, refusal):
    (tmp_path / "text.npz").write_text("no arrays")
    (tmp_path / "odd.jsonl").write_text('{"what": 1}\n{"what": "copy"}\n')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "part.jsonl").write_text('{"what": "copy"}\n')
    for argument, message in (
        ("--minutes=5", "--out is missing"),
        (f"--page={tmp_path / 'odd.jsonl'}", "odd.jsonl:1 is not a line"),
        (f"--page={tmp_path / 'empty.jsonl'}", "no figures"),
        (f"--page={tmp_path / 'part.jsonl'}", "lacks figures"),
        (f"--page={tmp_path / 'none'}", "cannot be read"),
        ("--only=kernels", "'kernels' is unknown"),
        ("--minutes=0", "greater than 0"),
    ):
        assert message in refusal(command.main, argument)
    for faces, message in ((tmp_path / "none", "does not exist"), (tmp_path / "text.npz", "is not an .npz")):
        assert message in refusal(command.main, f"--out={tmp_path / 'out'}", f"--faces={faces}", "--tiny")


def test_without_a_gpu_it_says_so(tmp_path, refusal):
    assert "JAX finds no GPU here; install jax[cuda13], or try the command with --tiny." in refusal(
        command.main, f"--out={tmp_path / 'out'}", "--only=copy"
    )
    assert not (tmp_path / "out" / FILE).exists()
