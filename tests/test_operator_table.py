"""The table of all operators: real runs exported, timed and weighed; what is missing or fails is a row of its own."""

import json

import numpy as np
import pytest

from tvconv_jax.bench import operator_table
from tvconv_jax.bench.operator_table import PAPERS
from tvconv_jax.experiments.sweep_file import load_sweep
from tvconv_jax.models.registry import list_operators
from tvconv_jax.tasks.configs import face_config
from tvconv_jax.tasks.face import FaceJob
from tvconv_jax.training.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("barely_optimized")

SWEEP = """
from tvconv_jax.experiments.sweep import Setting, Sweep

def get_sweep():
    names = ("involution", "depthwise", "ddf", "condconv", "sasa")
    return Sweep("five", [Setting(name, "configs/face_mb01.py", f"operator={name}") for name in names], "a note")
"""
QUICK = ["--batch=2", "--seconds=0"]


def write_results(workdir, accuracy, speed=50.0):
    workdir.mkdir(parents=True, exist_ok=True)
    results = {
        "mean_accuracy": accuracy,
        "verification": {},
        "complexity": {"macs": 2e6, "params": 3000, "train_params": 4000},
        "images_per_second": speed,
    }
    (workdir / "results.json").write_text(json.dumps(results))
    config = face_config(f"smoke,operator={workdir.parent.name}", model="mobilenetv2", width=0.1)
    (workdir / "config.json").write_text(config.to_json())
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run at its start, two whose checkpoints are gone, one that stopped, one whose results are damaged."""
    folder = tmp_path_factory.mktemp("sweep")
    workdir = folder / "involution" / "seed0"
    job = FaceJob(write_results(workdir, 0.8))
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(job.init_state(), {"batches": {}, "best": {"step": 0, "score": 0.0}})
    write_results(folder / "depthwise" / "seed0", 0.7)
    write_results(folder / "depthwise" / "seed2", 0.8, speed=None)
    (folder / "ddf" / "seed0").mkdir(parents=True)
    (folder / "sasa" / "seed0").mkdir(parents=True)
    (folder / "sasa" / "seed0" / "results.json").write_text("{}")
    (folder / "sweep.json").write_text("[]")
    return folder


@pytest.fixture
def sweep(tmp_path):
    path = tmp_path / "five.py"
    path.write_text(SWEEP)
    return f"--sweep={path}"


def test_every_row_says_what_it_has(folder, sweep, tmp_path, capsys):
    with pytest.raises(SystemExit) as end, np.errstate(all="ignore"):
        operator_table.main([str(folder), sweep, *QUICK, f"--out={tmp_path / 'kept'}"])
    printed = capsys.readouterr().out
    assert end.value.code == 1  # depthwise has results, and no run to export
    lines = {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in
             (line.split("│") for line in printed.splitlines()) if len(cells) == 14}  # fmt: skip
    involution = lines["involution"]
    assert involution[:6] == ["Li et al., CVPR 2021", "1", "2.00", "3", "4", "50"] and involution[6] == "80.00"
    assert 0 <= float(involution[7]) < 1e-4 and min(map(float, involution[8:])) > 0
    assert lines["depthwise"][1:8] == ["2", "2.00", "3", "4", "50", "75.00 ± 5.00", "-"]
    assert lines["condconv"][1:] == ["0", *"-" * 9]
    assert "depthwise: " in printed and "seed0 holds no checkpoint" in printed
    assert "ddf: started, has not ended" in printed and "condconv: not run" in printed
    assert "seed0/results.json holds no results with an accuracy and a cost" in printed
    rows = {row["name"]: row for row in json.loads((folder / "operator_table.json").read_text())["rows"]}
    row = rows["involution"]
    assert {point["batch"] for point in row["points"]} == {1, 2} and row["memory"]["peak_bytes"] > 1e7
    assert row["file_bytes"] == (tmp_path / "kept/involution/seed0/model.onnx").stat().st_size
    assert rows["depthwise"]["error"] and rows["depthwise"]["points"] is None


def test_rows_of_groups_have_their_names(tmp_path):
    options = {"batches": [1], "seconds": 0.0, "log_fn": print}
    rows = operator_table.measure(load_sweep("configs/sweeps/table1.py"), tmp_path, tmp_path, **options)
    assert len({row.name for row in rows}) == 16 and all(row.paper for row in rows)


def test_every_operator_has_a_paper_in_the_table():
    assert set(PAPERS) == {*list_operators("mobilenetv2"), "mlp_mixer"} and all(PAPERS.values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "there is no folder nowhere; run the sweep first: experiments.sweep configs/sweeps/figure6.py."),
        (["tests"], "which is not of this sweep; choose another --out, or move it away."),
        (["tests", "--sweep=configs/sweeps/table9.py"], "there is no sweep configs/sweeps/table9.py; there are:"),
        (["tests", "--batch=0"], "0 must be at least 1"),
        (
            ["tests", "--json=nowhere/a.json"],
            "--json: nowhere/a.json: there is no folder nowhere; make it first.",
        ),
    ],
)
def test_mistakes_are_one_line(arguments, words, refusal):
    assert words in refusal(operator_table.main, *arguments)
