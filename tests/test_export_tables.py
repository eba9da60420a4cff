"""Tables of exported models: runtimes beside the reference's module; the cost of low rank and quantization."""

import json

import jax
import numpy as np
import pytest
import torch
from cached_runs import untrained

from tvconv_jax.bench import edge_table, export_table, random_models
from tvconv_jax.bench.edge_table import Row
from tvconv_jax.bench.random_models import Subject
from tvconv_jax.export import exporting
from tvconv_jax.export.onnx import speed as onnx_speed

pytestmark = pytest.mark.usefixtures("barely_optimized")

SUBJECT = Subject("mobilenetv2", 0.1, "tvconv")


def test_the_reference_is_interleaved_with_ours_and_equals_it():
    """``measure`` ends with an error if the reference's module differs from the JAX model."""
    rows = edge_table.measure([(SUBJECT, ["reference", "onnxruntime"])], batches=[1, 2], seconds=0, image_size=32)
    assert [row.runtime for row in rows] == ["reference", "onnxruntime"]
    for row in rows:
        assert 0 <= row.difference < 1e-4 and {point["batch"] for point in row.points} == {1, 2}
        assert row.speed() >= row.speed(1) > 0


def test_strided_is_a_kernel_a_pixel():
    """By hand: every pixel of a 4x4 image sees the pixel to its upper left, times its own number."""
    weights = np.zeros((1, 9, 2, 2), np.float32)
    weights[0, 0] = [[1, 2], [3, 4]]
    images = torch.arange(16, dtype=torch.float32).reshape(1, 1, 4, 4)
    arrays = {"weights": torch.from_numpy(weights), "bias": torch.tensor([0.5])}
    found = random_models.strided({"strides": 2, "activation": "identity"}, arrays, images)
    assert found.tolist() == [[[[0.5, 0.5], [0.5, 4 * 5 + 0.5]]]]


def test_ratios_of_the_headline(monkeypatch, capsys, tmp_path):
    speeds = {("depthwise", 1.0): (100.0, 80.0), ("depthwise", 0.5): (300.0, 240.0), ("tvconv", 0.5): (260.0, 40.0)}

    def measured(cases, **_):
        points = {name: [{"batch": b, "images_per_second": r} for b, r in zip((8, 1), speeds[name], strict=True)]
                  for name in speeds}  # fmt: skip
        return [
            Row(subject, runtime, 1e-6, points[subject.operator, subject.width])
            for subject, all_ in cases
            for runtime in all_
        ]

    monkeypatch.setattr(edge_table, "measure", measured)
    edge_table.main(["headline", "--runtimes=onnxruntime", f"--json={tmp_path / 'rows.json'}"])
    rows = json.loads((tmp_path / "rows.json").read_text())
    ranks = ("exact", "1", "2", "1:10", "2:10", "1:14", "2:14")
    kinds = [(1.0, "depthwise", "exact"), (0.5, "depthwise", "exact"), *((0.5, "tvconv", rank) for rank in ranks)]
    assert [(row["width"], row["operator"], row["rank"]) for row in rows] == kinds
    lines = [line.split("│") for line in capsys.readouterr().out.splitlines() if "x0.5 tvconv" in line]
    assert len(lines) == 7
    for cells in lines:
        assert [cell.strip() for cell in cells[4:10]] == ["260", "40", "2.60x", "0.50x", "2.60x", "0.50x"]


def test_ratios_of_lowerings(monkeypatch, capsys):
    speeds = {"plain": 100.0, "unfold": 40.0, "slices": 50.0, "sums": 80.0, "convs": 60.0}

    def measured(cases, **_):
        rows = []
        for subject, runtimes in cases:
            speed = speeds[subject.lowering.removesuffix("-blocks")] * (1.5 if "blocks" in subject.lowering else 1)
            points = [{"batch": b, "images_per_second": speed * b} for b in (1, 2)]
            rows += [Row(subject, runtime, 1e-6, points) for runtime in runtimes]
        return rows

    monkeypatch.setattr(edge_table, "measure", measured)
    monkeypatch.setattr(edge_table, "EIGHT", [("mobilenetv2", 0.1)])
    edge_table.main(["lowerings", "--runtimes=onnxruntime,native", "--image-size=32"])
    lines = [line.split("│") for line in capsys.readouterr().out.splitlines() if "onnxruntime" in line]
    found = {cells[1].split(", ", 1)[-1].strip(): [cell.strip() for cell in cells[4:8]] for cells in lines}
    assert len(lines) == 2 + 4 + 4
    assert found["plain"] == ["200", "100", "1.00x", "1.00x"] and found["plain-blocks"][2:] == ["1.50x", "1.50x"]
    assert found["unfold"][2:] == ["0.80x", "0.80x"] and found["rank 1, convs-blocks"][2:] == ["1.12x", "1.12x"]


class Multiplied(Exception):
    """Carries how a product is computed."""


def multiply(*_):
    """In the place of the first function that computes."""
    raise Multiplied(str(jax.make_jaxpr(lambda x: x @ x)(np.ones((2, 2), np.float32))))


@pytest.mark.parametrize(
    ("module", "call"),
    [
        (exporting, lambda run, out: exporting.export(run, out, formats=["onnx"])),
        (export_table, lambda run, out: export_table.of_run(run, ["exact"], ["float32"], fine_tune_steps=0)),
        (random_models, lambda run, out: random_models.compute_outputs(SUBJECT, 32)),
    ],
)
def test_what_is_compared_is_computed_in_full_float32(module, call, workdir, tmp_path, monkeypatch):
    """By default GPUs and TPUs multiply in fewer bits."""
    monkeypatch.setattr(module, "fold", multiply)
    with pytest.raises(Multiplied, match="HIGHEST"):
        call(workdir, tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sizes"], "invalid choice: 'sizes'"),
        (["models", "--runtimes=ncnn"], "'ncnn' is unknown; there are: onnxruntime"),
        (["lowerings", "--runtimes=native"], "lowerings are of ONNX files; name onnxruntime or openvino."),
        (["models", "--batch=0"], "0 must be at least 1"),
        (
            ["models", "--json=nowhere/a.json"],
            "--json: nowhere/a.json: there is no folder nowhere; make it first.",
        ),
    ],
)
def test_mistakes_are_one_line(arguments, words, refusal):
    assert words in refusal(edge_table.main, *arguments)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("run"))


def test_the_cost_of_low_rank_and_quantization(workdir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx_speed, "ROUNDS", 1)
    file = tmp_path / "table.json"
    with np.errstate(all="ignore"):
        export_table.main([str(workdir), "--ranks=exact,9,exact", "--precisions=float32,int8", f"--json={file}"])
    printed = capsys.readouterr().out
    results = json.loads(file.read_text())
    exact, few, whole, _ = results["variants"]
    assert whole["accuracy"] == pytest.approx(exact["accuracy"], abs=0.05)  # rank 9 is exact
    assert whole["energy"] == pytest.approx(1) and exact["size"] > 3.5 * few["size"]
    lost = 100 * (exact["accuracy"] - few["accuracy"])
    row = next(line for line in printed.splitlines() if "int8" in line and "exact" in line and "│" in line)
    assert f"{lost:.2f} │" in row and "±" not in row and f"{exact['size'] / few['size']:.1f}x" in row
    assert set(results["images_per_second"]) == {"exact", "9"}


def test_runs_that_are_set_side_by_side_are_of_one_model(workdir, tmp_path, refusal):
    config = json.loads((workdir / "config.json").read_text())
    (tmp_path / "seed").mkdir()
    (tmp_path / "seed" / "config.json").write_text(json.dumps(config | {"seed": 7}))
    (tmp_path / "config.json").write_text(json.dumps(config | {"model": config["model"] | {"width": 0.5}}))
    for others, words in (
        ([tmp_path / "seed", tmp_path], "model.width: 0.5 there, 0.1 now"),
        ([workdir], "a workdir is named twice"),
    ):
        assert words in refusal(export_table.main, workdir, *others)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere holds no run"),
        (
            ["nowhere", "--ranks=0"],
            "shared-kernel layers 1:10, 2:10, ..., or exact",
        ),
        (
            ["nowhere", "--json=nowhere/a.json"],
            "--json: nowhere/a.json: there is no folder nowhere; make it first.",
        ),
        (["nowhere", "--fine-tune=-1"], "--fine-tune=-1 must be at least 0"),
        (["nowhere", "--precisions=int4"], "'int4' is unknown; there are: float32, float16, int8"),
    ],
)
def test_mistakes_of_the_second_table_are_one_line(arguments, words, refusal):
    assert words in refusal(export_table.main, *arguments)
