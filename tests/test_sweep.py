"""Sweeps: what would run, what is repeated, what fails, and the table; one small run is real."""

import json
import shlex
import sys
from pathlib import Path

import pytest

from tvconv_jax.analysis import sweep
from tvconv_jax.analysis.sweep import Run

SWEEPS = sorted(str(path) for path in Path("configs/sweeps").glob("*.py"))
TWO = """
from tvconv_jax.analysis.sweep import Setting, Sweep

def get_sweep():
    small = {"model.hidden_channels": 4, "optimizer.epochs": 0.1}
    config = "configs/face_mb01.py"
    return Sweep("two", [Setting("tvconv", config, changes=small), Setting("other", config, "operator=depthwise")])
"""
# What stands for a training run: it writes the accuracy that its seed asks for, and fails for seed 9.
FAKE = """
import json, sys
workdir, seed, accuracy = sys.argv[1:]
if seed == "9": sys.exit("error: the loss is nan")
results = {"mean_accuracy": float(accuracy), "verification": {"pose": {"accuracy": float(accuracy)}},
           "complexity": {"macs": 2e6, "params": 3e3, "train_params": 4e3}, "images_per_second": 50.0, "note": seed}
json.dump(results, open(workdir + "/results.json", "w"))
"""


@pytest.fixture
def two(tmp_path):
    path = tmp_path / "two.py"
    path.write_text(TWO)
    return str(path)


@pytest.fixture
def faked(monkeypatch):
    def command(run, *_):
        accuracy = 0.5 + 0.1 * run.seed + 0.05 * (run.setting.label == "other")
        return [sys.executable, "-c", FAKE, str(run.workdir), str(run.seed), str(accuracy)]

    monkeypatch.setattr(Run, "command", command)


@pytest.mark.parametrize("path", SWEEPS)
def test_every_setting_of_every_sweep_fits_its_config(path):
    for setting in sweep.load_sweep(path).settings:
        scope = {}
        exec(compile(Path(setting.config).read_text(), setting.config, "exec"), scope)
        config = scope["get_config"](",".join(filter(None, (setting.argument, "smoke"))))
        for key, value in setting.changes.items():
            with config.unlocked():
                old = config
                for part in key.split("."):
                    old = old[part]
            assert type(old) is type(value), key


def test_a_dry_run_prints_the_commands_and_makes_nothing(two, tmp_path, capsys):
    out = tmp_path / "out"
    sweep.main([f"{two}:smoke", f"--out={out}", "--seeds=0,3", "--dry-run", "--config.data.workers=1"])
    lines = [shlex.split(line)[2:] for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == [
        "tvconv_jax.main",
        "--config=configs/face_mb01.py:smoke,seed=0",
        "--config.model.hidden_channels=4",
        "--config.optimizer.epochs=0.1",
        "--config.data.workers=1",
        f"--workdir={out}/tvconv/seed0",
    ]
    assert lines[3][1] == "--config=configs/face_mb01.py:operator=depthwise,smoke,seed=3"
    assert len(lines) == 4 and not out.exists()


def test_what_ended_is_not_repeated_and_a_failure_stops_nothing(two, faked, tmp_path, capsys):
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as end:
        sweep.main([two, f"--out={out}", "--seeds=1,9,2"])
    printed = capsys.readouterr().out
    assert end.value.code == 1 and printed.count("failed: tvconv, seed 9: exit code 1: the loss is nan") == 1
    tvconv = next(line.split("│") for line in printed.splitlines() if "│ tvconv" in line)
    assert [cell.strip() for cell in tvconv[2:9]] == ["2", "2.00", "3", "4", "50", "65.00 ± 5.00", "65.00 ± 5.00"]
    assert "70.00 ± 5.00" in next(line for line in printed.splitlines() if "│ other" in line)
    report = (out / "report.html").read_text()
    assert "70.00 ± 5.00" in report and "4 of 6 runs ended" in report and "the loss is nan" in report
    before = (out / "other" / "seed2" / "results.json").stat().st_mtime_ns
    with pytest.raises(SystemExit):
        sweep.main([two, f"--out={out}", "--seeds=1,9,2"])
    assert "[2/2] other, seed 9" in capsys.readouterr().out
    assert (out / "other" / "seed2" / "results.json").stat().st_mtime_ns == before
    sweep.main([two, f"--out={out}", "--seeds=1,9,2", "--show"])
    assert "70.00 ± 5.00" in capsys.readouterr().out
    assert len(json.loads((out / "sweep.json").read_text())) == 4


def test_a_run_of_its_own_process_and_its_place_in_an_array(two, tmp_path, capsys, monkeypatch):
    """Job 5 of an array that begins with 4 takes the second of two runs."""
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "4")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    sweep.main([f"{two}:smoke", f"--out={tmp_path}/out", "--seeds=0"])
    printed = capsys.readouterr().out
    assert "[1/1] other, seed 0" in printed and "│ tvconv  │     0 │" in printed
    results = json.loads((tmp_path / "out" / "other" / "seed0" / "results.json").read_text())
    assert f"{100 * results['mean_accuracy']:.2f}" in printed


def test_mistakes_are_one_line(two, faked, tmp_path, capsys):
    def error(*arguments):
        with pytest.raises(SystemExit) as end:
            sweep.main([*arguments, f"--out={tmp_path / 'out'}"])
        text = capsys.readouterr().err
        assert end.value.code == 2
        return text.strip().splitlines()[-1]

    assert "there is no file configs/sweeps/table9.py; beside it are: configs/" in error("configs/sweeps/table9.py")
    assert "has no get_sweep(); it is a config" in error("configs/face_mb01.py")
    assert "what goes to the configs starts with --config." in error(two, "--epochs=3")
    Path(two).write_text(TWO.replace("face_mb01", "face_mb99"))
    assert "names the config configs/face_mb99.py, which is not there" in error(two)
    Path(two).write_text(TWO.replace('"other"', '"tvconv"'))
    assert "has two settings that go to the folder tvconv" in error(two)
    Path(two).write_text(TWO)
    sweep.main([two, f"--out={tmp_path / 'out'}", "--seeds=0"])
    (tmp_path / "out" / "tvconv" / "seed0" / "results.json").write_text("{}")
    assert "holds no results of a face run; remove that folder" in error(two, "--seeds=0")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert "holds notes.txt, which is not of this sweep" in error(two)
