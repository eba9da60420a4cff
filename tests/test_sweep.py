"""Sweeps: what would run, what is repeated, what fails, and the table; two small runs are real, one is killed."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from itertools import permutations
from pathlib import Path

import jax
import numpy as np
import pytest
from folders import encoded, lay

from tvconv_jax.data import own_sets
from tvconv_jax.data.faces import load_faces
from tvconv_jax.data.own_sets import load_data
from tvconv_jax.data.synthetic.inspection import CLASSES
from tvconv_jax.experiments import sweep, sweep_record, sweep_runs
from tvconv_jax.experiments.sweep_file import Setting
from tvconv_jax.experiments.sweep_runs import Run, check_overrides, shares_of_cores, train_all
from tvconv_jax.tasks.auto import with_classes
from tvconv_jax.tasks.classification import ClassificationJob
from tvconv_jax.tasks.face import FaceJob
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.sizes import height_width

SWEEPS = sorted(str(path) for path in Path("configs/sweeps").glob("*.py"))
REAL = ("table3", "figure10")
TWO = """
from tvconv_jax.experiments.sweep import Setting, Sweep

def get_sweep():
    small = {"model.hidden_channels": 4, "optimizer.epochs": 0.1}
    config = "configs/face_mb01.py"
    return Sweep("two", [Setting("tvconv", config, changes=small), Setting("other", config, "operator=depthwise")])
"""
# What stands for a training run: it writes the accuracy that its seed asks for, and fails for seed 9.
FAKE = """
import json, sys
workdir, seed, accuracy, config = sys.argv[1:]
open(workdir + "/config.json", "w").write(config)
if seed == "9": sys.exit("error: the loss is nan")
results = {"mean_accuracy": float(accuracy), "verification": {"pose": {"accuracy": float(accuracy)}},
           "complexity": {"macs": 2e6, "params": 3e3, "train_params": 4e3},
           "images_per_second": None if seed == "2" else 50.0, "note": seed,
           "device": "a chip" if seed == "1" else "another chip"}
json.dump(results, open(workdir + "/results.json", "w"))
"""


@pytest.fixture
def two(tmp_path):
    path = tmp_path / "two.py"
    path.write_text(TWO)
    return str(path)


@pytest.fixture
def faked(monkeypatch):
    def command(run, *arguments):
        accuracy = 0.5 + 0.1 * run.seed + 0.05 * (run.setting.label == "other")
        config = run.config(*arguments).to_json()
        return [sys.executable, "-c", FAKE, str(run.workdir), str(run.seed), str(accuracy), config]

    monkeypatch.setattr(Run, "command", command)


def config_of(setting):
    """What the setting's run has for its config with ``:smoke``."""
    scope = {}
    exec(compile(Path(setting.config).read_text(), setting.config, "exec"), scope)
    config = scope["get_config"](",".join(filter(None, (setting.argument, "smoke"))))
    for key, value in setting.changes.items():
        part, (*path, name) = config, key.split(".")
        for step in path:
            part = part[step]
        assert type(part[name]) is type(value), key
        part[name] = value
    return config


@pytest.fixture(scope="module")
def traced():
    return set()


def job_of(config, cache):
    if config.data.source == "folder":  # of the user; here a batch of images of four identities
        picture = encoded(np.zeros((16, 16, 3), np.uint8))
        names = (f"train/{i % 4}/{i}.png" for i in range(config.data.batch_size))
        config.data.root = str(lay(cache / "faces", dict.fromkeys(names, picture)))
    if config.task == "face":
        return FaceJob(config, load_faces(config.data))
    config = with_classes(config, len(CLASSES))
    data = config.data.copy_and_resolve_references()
    data.update({"images": config.data.batch_size, "split_seed": 0, "shift": 0.0, "rotation": 0.0})
    return ClassificationJob(config, load_data(data, cache))


@pytest.mark.parametrize("path", SWEEPS)
def test_every_setting_of_every_sweep_is_built_and_traced(path, traced, tmp_path, monkeypatch):
    """Models and states of all settings, and a step of the last, as a run traces them; nothing is compiled.

    A setting of each of ``REAL`` is compiled and run below, every operator in the tests of models.
    """
    monkeypatch.setattr(own_sets, "TESTED", 20)
    settings = sweep.load_sweep(path).settings
    for setting in settings:
        config = config_of(setting)
        job = job_of(config, tmp_path)
        if config.model.to_json() not in traced:
            state = jax.eval_shape(job.init_state)
            traced.add(config.model.to_json())
    if Path(path).stem in REAL:
        return
    n, size = config.data.batch_size, height_width(config.data.image_size)
    batch = {"image": jax.ShapeDtypeStruct((n, *size, 3), "uint8"), "label": jax.ShapeDtypeStruct((n,), "int32")}
    with jax.numpy_dtype_promotion("standard"):  # optax compares a step number with a float
        state, metrics = jax.eval_shape(job.train_step(), jax.eval_shape(job.init_state), batch)
    assert metrics["loss"].shape == () and state.step.dtype == "int32"


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


def test_a_key_that_is_none_ends_a_sweep_before_its_first_run(two, faked, tmp_path, refusal):
    for key, words in (
        ("optimizer.momentun=0.8", "unknown config key optimizer.momentun; did you mean optimizer.momentum"),
        ("train.log_every=0", "train.log_every 0 must be"),
        ("model.affinity_channels=0", "at least 1"),
    ):
        assert words in refusal(sweep.main, two, f"--out={tmp_path / 'out'}", f"--config.{key}")
        assert not (tmp_path / "out").exists()


def test_a_set_without_pairs_ends_a_sweep_before_its_first_run(two, faked, tmp_path, refusal):
    for name in ("a", "b"):
        (tmp_path / "faces" / "train" / name).mkdir(parents=True)
        (tmp_path / "faces" / "train" / name / "0.jpg").write_bytes(b"")
    text = TWO.replace("small = {", f'small = {{"data.root": "{tmp_path}/faces", ').replace(
        '"operator', '"data=folder,operator'
    )
    Path(two).write_text(
        text.replace("config, changes", 'config, "data=folder", changes').replace('wise")', 'wise", changes=small)')
    )
    assert "faces has no verification set to evaluate on; make a list: python" in refusal(
        sweep.main, two, f"--out={tmp_path / 'out'}", "--seeds=0"
    )
    assert not list((tmp_path / "out").glob("**/seed*"))


@pytest.mark.parametrize(
    ("behind_the_colon", "override", "words"),
    [
        ("", "--config.seed=5", "--config.seed=5: a sweep gives every run its seed; name them with --seeds"),
        (":seed=5", "", "seed=5: a sweep gives every run its seed"),
        ("", "--config.model.hidden_channels=8", "the sweep sets model.hidden_channels itself, for 'tvconv'"),
        ("", "--config.model.operator=tvconv", "the sweep sets model.operator itself, for 'other'"),
        ("", "--config.model.nothing=4", "unknown config key"),
    ],
)
def test_what_a_sweep_sets_run_by_run_is_not_set_for_all(two, tmp_path, behind_the_colon, override, words, refusal):
    arguments = [f"{two}{behind_the_colon}", f"--out={tmp_path / 'out'}", "--dry-run", *filter(None, [override])]
    assert words in refusal(sweep.main, *arguments)


def test_rows_that_are_told_apart_by_their_files_stay_apart():
    rows = [sweep.Setting(width, f"configs/face_mb{width}.py") for width in ("01", "02")]
    with pytest.raises(UserError, match="'01' and '02' would be the same run"):
        check_overrides(rows, "smoke", ["--config.model.width=0.5"])
    check_overrides(rows, "smoke", ["--config.model.affinity_channels=2"])


def test_a_row_of_own_data_takes_its_folder():
    rows = [sweep.Setting("faces", "configs/face_mb01.py", "data=folder")]
    check_overrides(rows, "", ["--config.data.root=faces"])
    with pytest.raises(UserError, match="the sweep sets data.source itself"):
        check_overrides(rows, "", ["--config.data.source=embedded"])


def test_commands_in_one_folder_keep_each_others_lines(two, faked, tmp_path, monkeypatch, capsys):
    """While one trains seed 1, another that began before it ended trains seed 2."""
    out, train = tmp_path / "out", sweep.train_all

    def train_beside(*arguments):
        monkeypatch.setattr(sweep, "train_all", train)
        sweep.main([two, f"--out={out}", "--seeds=2"])
        return train(*arguments)

    monkeypatch.setattr(sweep, "train_all", train_beside)
    sweep.main([two, f"--out={out}", "--seeds=1"])
    lines = json.loads((out / "sweep.json").read_text())
    assert [(line["setting"], line["seed"]) for line in lines] == [
        ("tvconv", 1), ("tvconv", 2), ("other", 1), ("other", 2)
    ]  # fmt: skip


def test_a_run_that_ended_is_recorded_before_the_next(two, faked, tmp_path, monkeypatch, capsys):
    """With its whole config: MLP-Mixer's has a key that is left out elsewhere for its length."""
    out, start = tmp_path / "out", sweep_runs._start

    def start_one(run, *arguments):
        if run.setting.label == "other":
            raise KeyboardInterrupt
        return start(run, *arguments)

    monkeypatch.setattr(sweep_runs, "_start", start_one)
    monkeypatch.setattr(sweep_record, "LENGTHY", ("weight_decay",))
    with pytest.raises(SystemExit, match="130"):
        sweep.main([two, f"--out={out}", "--seeds=1,1"])
    (line,) = json.loads((out / "sweep.json").read_text())
    assert (line["setting"], line["seed"], line["config"]["optimizer"]["weight_decay"]) == ("tvconv", 1, 0.05)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"images_per_second": "fast"}, "damaged; remove it, and it is written again from the folders beside it."),
        ({"verification": None}, "damaged; remove it"),
        ({"complexity": {"macs": 1}}, "damaged; remove it"),
        ({"config": {"seed": 1, "task": "face", "model": 3}}, "damaged; remove it"),
        ({"mean_accuracy": None}, "the run has no verification set; give the data pair lists"),
    ],
)
def test_a_damaged_record_is_one_line(two, faked, tmp_path, capsys, changed, said, refusal):
    out = tmp_path / "out"
    sweep.main([two, f"--out={out}", "--seeds=1"])
    lines = json.loads((out / "sweep.json").read_text())
    (out / "sweep.json").write_text(json.dumps([lines[0] | changed, lines[1]]))
    capsys.readouterr()
    assert said in refusal(sweep.main, two, f"--out={out}", "--seeds=1", "--show")


def test_nothing_to_show_is_said(two, faked, tmp_path, refusal):
    message = f"{tmp_path / 'out'} holds no run that ended; without --show the same command trains them."
    assert message in refusal(sweep.main, two, f"--out={tmp_path / 'out'}", "--show")


def test_what_ended_is_not_repeated_and_a_failure_stops_nothing(two, faked, tmp_path, capsys):
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as end:
        sweep.main([two, f"--out={out}", "--seeds=1,9,2"])
    printed = capsys.readouterr().out
    assert end.value.code == 1
    assert printed.count("failed: tvconv, seed 9: exit code 1: the loss is nan") == 2  # at once and at the end
    tvconv = next(line.split("│") for line in printed.splitlines() if "│ tvconv" in line)
    assert [cell.strip() for cell in tvconv[2:9]] == ["2", "2.00", "3", "4", "50", "65.00 ± 5.00", "65.00 ± 5.00"]
    assert "70.00 ± 5.00" in next(line for line in printed.splitlines() if "│ other" in line)
    report = (out / "report.html").read_text()
    assert "70.00 ± 5.00" in report and "4 of 6 runs ended" in report and "the loss is nan" in report
    assert "speeds differ: a chip, 2 runs; another chip, 2 runs." in report
    assert "more than one device" in printed
    before = (out / "other" / "seed2" / "results.json").stat().st_mtime_ns
    with pytest.raises(SystemExit):
        sweep.main([two, f"--out={out}", "--seeds=1,9,2"])
    assert "[2/2] other, seed 9" in capsys.readouterr().out
    assert (out / "other" / "seed2" / "results.json").stat().st_mtime_ns == before
    sweep.main([two, f"--out={out}", "--seeds=1,9,2", "--show"])
    assert "70.00 ± 5.00" in capsys.readouterr().out
    sweep.main([two, f"--out={out}", "--seeds=1", "--show"])
    assert "more than one device" not in capsys.readouterr().out
    sweep.main([two, f"--out={out}", "--seeds=1,9,2", "--show", "--markdown"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| setting | seeds | MACs M |") and lines[1].startswith("| --- |")
    assert lines[2].startswith("| tvconv | 2 | 2.00 | 3 | 4 | 50 | 65.00 ± 5.00 |")
    lines = json.loads((out / "sweep.json").read_text())  # what figures are drawn from
    assert [(line["group"], line["label"], line["seed"]) for line in lines[:2]] == [
        ("", "tvconv", 1),
        ("", "tvconv", 2),
    ]
    assert len(lines) == 4


def test_a_sweep_goes_on_elsewhere_with_what_is_known(two, faked, tmp_path, capsys, refusal):
    there, here = tmp_path / "there", tmp_path / "here"
    sweep.main([two, f"--out={there}", "--seeds=1,2"])
    known = (there / "sweep.json").rename(tmp_path / "known.json")
    assert len(known.read_text().splitlines()) == 4 + 2  # a line a run
    capsys.readouterr()
    sweep.main([two, f"--out={here}", "--seeds=1,2,3", f"--reuse-results={known}", "--markdown"])
    printed = capsys.readouterr().out
    assert "[1/2] tvconv, seed 3" in printed and "| tvconv | 3 | 2.00 | 3 | 4 | 50 | 70.00 ± 8.16 |" in printed
    assert sorted(path.name for path in here.glob("*/*/")) == ["seed3"] * 2
    assert len(json.loads((here / "sweep.json").read_text())) == 6
    shutil.rmtree(here / "other")  # its results stay in sweep.json
    sweep.main([two, f"--out={here}", "--seeds=3", "--markdown"])
    assert "| other | 1 | 2.00 |" in capsys.readouterr().out and not (here / "other").exists()
    assert len(json.loads((here / "sweep.json").read_text())) == 6
    record = here / "sweep.json"
    record.write_text(record.read_text().replace('"setting": "tvconv"', '"setting": "convtv"'))
    assert "sweep.json has the setting convtv, which is not of this sweep." in refusal(sweep.main, two, f"--out={here}")
    known.write_text('[{"setting": "tvconv"}]')
    assert "known.json is not a sweep.json, or damaged; name the one of a sweep." in refusal(
        sweep.main, two, f"--out={here}", f"--known={known}"
    )


def test_what_another_sweep_trained_is_taken_by_its_config(two, faked, tmp_path, capsys):
    three = tmp_path / "three.py"
    three.write_text(TWO.replace('"tvconv", config', '"small", config, group="kept"').replace("=depthwise", "=sasa"))
    sweep.main([two, f"--out={tmp_path / 'two'}", "--seeds=1,2"])
    command = [str(three), f"--out={tmp_path / 'three'}", f"--known={tmp_path / 'two' / 'sweep.json'}"]
    capsys.readouterr()
    sweep.main([*command, "--seeds=2"])
    assert "[1/1] other, seed 2" in capsys.readouterr().out
    lines = json.loads((tmp_path / "three" / "sweep.json").read_text())
    names = [(line["setting"], line["group"], line["label"], line["seed"]) for line in lines]
    assert names == [("kept_small", "kept", "small", 1), ("kept_small", "kept", "small", 2), ("other", "", "other", 2)]
    assert lines[1]["mean_accuracy"] == pytest.approx(0.7)  # what two's tvconv had
    with pytest.raises(SystemExit):
        sweep.main([*command, "--seeds=2", "--config.optimizer.weight_decay=0.8"])
    nearest = "(the nearest: 1 keys differ: optimizer.weight_decay: 0.05 there, 0.8 now)"
    assert f"sweep.json holds no run of this sweep, nor one of the same config {nearest}" in capsys.readouterr().err


def test_runs_of_another_config_are_not_taken_for_this_sweeps(two, faked, tmp_path, refusal):
    """Nor those of a default that has changed since: what a run trained counts, not what its command said."""
    out, command = tmp_path / "out", [two, f"--out={tmp_path / 'out'}", "--seeds=1"]
    sweep.main(command)
    run = Run(sweep.load_sweep(two).settings[0], 1, out / "tvconv" / "seed1")

    def refused(*arguments):
        return refusal(sweep.main, *command, *arguments, "--dry-run")

    config = run.config("", ["--config.optimizer.weight_decay=0.8"])
    assert (config.model.hidden_channels, config.optimizer.weight_decay, config.seed) == (4, 0.8, 1)
    (out / "sweep.json").unlink()  # which holds what it was before
    (run.workdir / "config.json").write_text(config.to_json())
    shutil.rmtree(out / "other")
    other = "is of another config (1 keys differ: optimizer.weight_decay: 0.8 there, 0.05 now); ask for that, or"
    assert f"tvconv/seed1 {other}" in refused()
    sweep.main([*command, "--show"])  # what there is
    sweep.main([*command, "--config.optimizer.weight_decay=0.8", "--config.data.timeout=9.0", "--dry-run"])
    record = (out / "sweep.json").rename(tmp_path / "known.json")
    elsewhere = [f"--out={tmp_path / 'elsewhere'}", f"--known={record}"]
    nearest = "(the nearest: 1 keys differ: optimizer.weight_decay: 0.8 there, 0.05 now)"
    assert f"known.json holds no run of this sweep, nor one of the same config {nearest}" in refused(*elsewhere)
    assert "unknown config key optimizer.momentun; did you mean optimizer.momentum" in refused(
        *elsewhere, "--config.optimizer.momentun=0.8"
    )


def test_an_array_deals_all_runs_out_and_one_with_gaps_is_refused():
    def share(index, first, last, jobs):
        values = {"ID": index, "MIN": first, "MAX": last, "COUNT": jobs}
        return sweep.share_of_array("abcde", {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()})

    assert share(3, 3, 4, 2) == ["a", "c", "e"] and share(4, 3, 4, 2) == ["b", "d"]
    assert sweep.share_of_array("abcde", {}) == list("abcde")
    with pytest.raises(UserError, match="an array of 2 jobs from 3 to 7 has gaps; give a whole range"):
        share(7, 3, 7, 2)


MEETING = """
import os, sys, time
from pathlib import Path
workdir, other = map(Path, sys.argv[1:])
(workdir / "cores").write_text(" ".join(map(str, os.sched_getaffinity(0))))
deadline = time.monotonic() + 30
while not (other / "cores").exists():
    assert time.monotonic() < deadline, "the other never came"
    time.sleep(0.01)
(workdir / "results.json").write_text("{}")
"""


def test_cores_are_dealt_out(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 0, 1, 3, 2})
    assert shares_of_cores(2) == [[0, 1], [2, 3, 4]]
    with pytest.raises(UserError, match="--jobs=6 must be 1 to 5, the number of cores"):
        shares_of_cores(6)


def test_jobs_train_side_by_side_on_cores_of_their_own(tmp_path, monkeypatch):
    cores = sorted(os.sched_getaffinity(0))
    monkeypatch.setattr(sweep_runs, "shares_of_cores", lambda _: [[cores[0]], [cores[-1]]])
    runs = [Run(Setting(name, "a config"), 0, tmp_path / name) for name in ("one", "two")]
    pairs = permutations(str(run.workdir) for run in runs)
    assert train_all(runs, [[sys.executable, "-c", MEETING, *pair] for pair in pairs], jobs=2) == {}
    assert [(run.workdir / "cores").read_text() for run in runs] == [str(cores[0]), str(cores[-1])]


def test_what_stops_the_sweep_stops_its_runs(tmp_path, monkeypatch):
    def interrupt(_):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr("tvconv_jax.experiments.sweep_runs.time.sleep", interrupt)
    run = Run(Setting("one", "a config"), 0, tmp_path)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        train_all([run], [[sys.executable, "-c", "import time; time.sleep(60)"]], jobs=1)
    assert time.monotonic() - start < 30


def test_a_run_of_its_own_process_and_its_place_in_an_array(tmp_path, capsys, monkeypatch):
    """Job 5 of an array that begins with 4 takes the second of two runs: Table 3's that starts as a depthwise one."""
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "4")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MAX", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    chosen = "--settings=zeros constant,edge_constant"
    sweep.main(["configs/sweeps/table3.py:smoke", chosen, f"--out={tmp_path}/out", "--seeds=0"])
    printed = capsys.readouterr().out
    rows = {cells[1].strip(): cells for line in printed.splitlines() if len(cells := line.split("│")) > 2}
    assert "[1/1] edge_constant, seed 0" in printed and rows["zeros constant"][2].strip() == "0"
    results = json.loads((tmp_path / "out" / "edge_constant" / "seed0" / "results.json").read_text())
    assert f"{100 * results['mean_accuracy']:.2f}" in printed
    assert rows["edge constant"][-2].strip() == "0.00" and results["start"]["deviation"] < 1e-6


def test_a_killed_sweep_goes_on_where_it_was(tmp_path):
    """SIGKILL to the sweep alone: its run ends with it, and the same command takes it to its end."""
    command = [sys.executable, "-m", "tvconv_jax.experiments.sweep", "configs/sweeps/figure6.py:smoke,epochs=6"]
    command += ["--settings=mlp_mixer", "--seeds=0", f"--out={tmp_path}/out"]
    workdir = tmp_path / "out" / "mlp_mixer" / "seed0"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (workdir / "checkpoints" / "last" / "6").exists():  # of 24 steps
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    before = (workdir / "metrics.jsonl").read_text().splitlines()
    assert not (workdir / "results.json").exists()
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stdout + again.stderr
    after = (workdir / "metrics.jsonl").read_text().splitlines()
    assert after[:5] == before[:5] and [json.loads(line)["step"] for line in after if "loss" in line] == [*range(1, 25)]
    assert "[1/1] mlp_mixer, seed 0" in again.stdout and "│ mlp_mixer" in again.stdout


def test_the_papers_values_and_further_columns_stand_beside_ours(tmp_path, faked, capsys):
    path = tmp_path / "published.py"
    published = TWO.replace('"operator=depthwise")', '"operator=depthwise", paper={"MACs M": 22.47, "pose": 70.0})')
    path.write_text(published.replace("])", '], columns={"start %": "start.deviation"})'))
    sweep.main([str(path), f"--out={tmp_path / 'out'}", "--seeds=0,1", "--settings=o*"])
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    rows = [row for row in rows if row and row[0] in ("tvconv", "other")]
    assert rows[0] == ["tvconv", "0", *[""] * 7, "-", "-"]
    assert rows[1][6:] == ["60.00 ± 5.00", "60.00 ± 5.00", "-", "22.47", "70.00"]


def test_runs_of_classification_are_compared_by_the_accuracy_on_test_images(two, tmp_path, monkeypatch, capsys):
    test = '"test": {"balanced_accuracy": 0.25, "macro_f1": None, "confusion": [[1, 2]], "per_class": {"a": {}}}'
    classified = FAKE.replace('"verification": {"pose": {"accuracy": float(accuracy)}}', test)
    assert classified != FAKE

    def command(run, *arguments):
        return [sys.executable, "-c", classified, str(run.workdir), "0", "0.75", run.config(*arguments).to_json()]

    monkeypatch.setattr(Run, "command", command)
    sweep.main([two, f"--out={tmp_path / 'out'}", "--seeds=0", "--markdown"])
    head, _, row, _ = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert "| balanced accuracy % | macro F1 % | mean accuracy % |" in head and row.endswith("| 25.00 | - | 75.00 |")
    assert "best mean accuracy: tvconv" in (tmp_path / "out" / "report.html").read_text()
    assert "confusion" not in (tmp_path / "out" / "sweep.json").read_text()


def test_mistakes_are_one_line(two, faked, tmp_path, refusal):
    def error(*arguments):
        return refusal(sweep.main, *arguments, f"--out={tmp_path / 'out'}")

    assert "there is no sweep configs/sweeps/table9.py; there are: figure10, " in error("configs/sweeps/table9.py")
    assert "--jobs=0 must be 1 to " in error(two, "--jobs=0")
    assert "has no get_sweep(); it is a config" in error("configs/face_mb01.py")
    assert "arguments for the configs start with --config." in error(two, "--epochs=3")
    assert "--settings 'stage 9' matches none of: tvconv, other." in error(two, "--settings=stage 9")
    Path(two).write_text("import tvconv_jaxx")
    assert "cannot be read (ModuleNotFoundError: No module named 'tvconv_jaxx'); repair it." in error(two)
    Path(two).write_text(TWO.replace("face_mb01", "face_mb99"))
    assert "two.py: there is no config configs/face_mb99.py; there are: " in error(two)
    Path(two).write_text(TWO.replace('"other"', '"tvconv"'))
    assert "has two settings that go to the folder tvconv" in error(two)
    Path(two).write_text(TWO)
    sweep.main([two, f"--out={tmp_path / 'out'}", "--seeds=0"])
    (tmp_path / "out" / "tvconv" / "seed0" / "results.json").write_text("{}")
    assert "holds no results with an accuracy and a cost; remove that folder" in error(two, "--seeds=0")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert "holds notes.txt, which is not of this sweep" in error(two)
