"""The command line, as a person uses it: whole runs in a process of their own."""

import html
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from tvconv_jax.report.__main__ import remake
from tvconv_jax.tasks import face
from tvconv_jax.tasks.command import config_of
from tvconv_jax.tasks.configs import Argument, face_config, frontal_config, parse_arguments
from tvconv_jax.tasks.face import FaceJob
from tvconv_jax.tasks.face_model import make_embed
from tvconv_jax.tasks.limits import check_values
from tvconv_jax.tasks.workdir import load_model
from tvconv_jax.training.checkpoint import Checkpoints
from tvconv_jax.utils.errors import UserError

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(path.name for path in (ROOT / "configs").glob("*.py"))


def command(*arguments):
    return [sys.executable, "-m", "tvconv_jax.main", *map(str, arguments)]


def run(*arguments, **environment):
    env = {**os.environ, **environment}
    return subprocess.run(command(*arguments), cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


def smoke(workdir, text="smoke", **environment):
    return run(f"--config=configs/face_mb01.py:{text}", f"--workdir={workdir}", **environment)


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def last_state(workdir, text):
    job = FaceJob(face_config(text, model="mobilenetv2", width=0.1))
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.restore(jax.eval_shape(job.init_state))[0]


def test_a_run_leaves_what_it_promises(finished):
    workdir, stdout = finished
    assert {path.name for path in workdir.iterdir()} == {
        ".lock",
        "config.json",
        "metrics.jsonl",
        "checkpoints",
        "tensorboard",
        "results.json",
        "report.html",
        "report.npz",
        "maps",
    }
    results = json.loads((workdir / "results.json").read_text())
    assert set(results["verification"]) == {"light", "expression", "pose", "occlusion"}
    for result in results["verification"].values():
        assert len(result["folds"]) == 10 and abs(np.mean(result["folds"]) - result["accuracy"]) < 1e-9
    assert results["step"] == 24 and "synthetic" in results["data"]
    losses = [json.loads(line).get("loss") for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert results["train_loss"] == pytest.approx(np.mean([loss for loss in losses if loss is not None]), abs=1e-4)
    assert json.loads((workdir / "config.json").read_text())["optimizer"]["epochs"] == 6
    assert "light" in stdout and str(workdir) in stdout
    assert list((workdir / "tensorboard").iterdir())


def test_a_run_killed_in_mid_epoch_ends_with_the_same_bits(finished, tmp_path):
    workdir = tmp_path / "killed"
    process = subprocess.Popen(
        command("--config=configs/face_mb01.py:smoke,epochs=6", f"--workdir={workdir}"),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 200
    while not (workdir / "checkpoints" / "last" / "6").exists():  # 4 steps are an epoch
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = smoke(workdir, "smoke,epochs=6")
    assert again.returncode == 0, again.stderr
    assert losses(workdir) == losses(finished[0])
    for ours, theirs in zip(
        jax.tree.leaves(last_state(workdir, "smoke,epochs=6")),
        jax.tree.leaves(last_state(finished[0], "smoke,epochs=6")),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
    verification = [json.loads((w / "results.json").read_text())["verification"] for w in (workdir, finished[0])]
    assert verification[0] == verification[1]


def test_the_report_is_made_again_from_files_alone_and_from_an_older_run(finished):
    workdir, _ = finished
    report = (workdir / "report.html").read_text()
    command = "python -m tvconv_jax.main --config=configs/face_mb01.py:smoke,epochs=6 --workdir="
    assert html.escape(command + str(workdir)) in report
    (workdir / "report.html").unlink()
    assert remake(workdir).read_text() == report
    (workdir / "report.npz").unlink()  # as if an older version had trained it
    assert remake(workdir).read_text() == report


def test_the_trained_model_is_loaded_without_its_data(finished):
    workdir, _ = finished
    for best in (True, False):
        model, variables = load_model(workdir, best=best)
        assert model.stages == (1,)
        with Checkpoints(workdir) as checkpoints:
            job = FaceJob(face_config("smoke,epochs=6", model="mobilenetv2", width=0.1))
            state = checkpoints.restore(jax.eval_shape(job.init_state), best=best)[0]
        expected = {"params": state.params["model"], "batch_stats": state.batch_stats}
        jax.tree.map(np.testing.assert_array_equal, variables, expected)
    with pytest.raises(UserError, match="holds no run"):
        load_model(workdir / "nowhere")


def test_eval_mode_verifies_the_best_checkpoint(finished):
    workdir, _ = finished
    result = run("--config=configs/face_mb01.py:smoke,epochs=6", f"--workdir={workdir}", "--mode=eval")
    assert result.returncode == 0, result.stderr
    assert "best checkpoint" in result.stdout and "occlusion" in result.stdout
    other = ["--config=configs/face_mb01.py:smoke,epochs=6", "--config.eval.protocol=reference"]
    result = run(*other, "--config.eval.channel_order=bgr", f"--workdir={workdir}", "--mode=eval")
    assert result.returncode == 0, result.stderr
    assert "reference" in result.stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense", "(NameError: name 'nonsense' is not defined, at "),
        ("def get_config(_=''): return int('x')", "(ValueError: invalid literal for int() with base 10: 'x'); correct"),
        ("def get_config(_='')", "(SyntaxError: expected ':'"),
        ("import nothing_there", "(ModuleNotFoundError: No module named 'nothing_there', at "),
        ("def get_config(_=''): return 1 / 0", "(ZeroDivisionError: division by zero, at "),
        ("def get_config(_=''): raise KeyError", "unknown config key"),
        ("def get_config(_=''): return 5", "own.py gives 5; let its get_config return a ConfigDict."),
        ("def get_config(one): return 5", "own.py cannot be used (TypeError: get_config() missing 1 required"),
        ("x = 1", "own.py has no function get_config, as a config has."),
    ],
)
def test_a_config_file_of_ones_own_that_fails_is_one_line(tmp_path, monkeypatch, text, words):
    monkeypatch.delitem(sys.modules, "config_config", raising=False)  # its get_config would stay
    (file := tmp_path / "own.py").write_text(text)
    with pytest.raises(UserError) as error:
        config_of([f"--config={file}"])
    assert words in str(error.value) and "Traceback" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config=configs/face_mb01.py:foo=1"], "config argument 'foo' is unknown; there are: data, operator"),
        (["--config=configs/face_mb01.py:operator=conv"], "operator=conv is unknown; there are: tvconv, depthwise,"),
        (["--config=configs/face_mb01.py", "--config.model.widht=1"], "key model.widht; did you mean model.width?"),
        (
            ["--config=configs/face_mb01.py", "--config.batch_size=8"],
            "batch_size; did you mean data.batch_size or eval",
        ),
        (
            ["--config=configs/face_mb01.py", "--config.data.root=x"],
            "give --config=configs/face_mb01.py:data=folder for files of your own",
        ),
        (["--config=configs/face_mb01.py:opertor=conv"], "batch_size, recipe; did you mean operator?"),
        (["--config=configs/face_mb01.py", "--config.model.width=x"], "could not convert string to float: 'x'"),
        (
            ["--config=configs/face_mb99.py"],
            "there is no config configs/face_mb99.py; there are: classification, face_mb01, ",
        ),
        ([], "--config is missing; name one, as in --config=face_mb01."),
        (["--config=configs/face_mb01.py", "--workdri=x"], "Unknown command line flag 'workdri'"),
        (["--config=configs/face_mb01.py", "--mode=trian"], "value should be one of <train|eval|plan|config>"),
        (["--config=configs/face_mb01.py", "extra"], "argument 'extra' is not a flag"),
        (
            ["--config=configs/face_mb01.py", "--config.task=cook"],
            "config.task 'cook' is unknown; there are: face, frontal, segmentation, classification, verification.",
        ),
        (["--config=configs/face_mb01.py:smoke", "--config.model.width=0.15"], "mobilenetv2 width 0.15 is unknown"),
        (["--config=configs/face_mb01.py:data=folder"], "data.root is empty"),
        (["--config=configs/frontal.py:seed=-1"], "seed -1 must be at least 0"),
        (
            ["--config=configs/face_mb01.py", "--config.eval.protocol=x"],
            "eval.protocol 'x' is unknown; there are: standard",
        ),
        (["--config=configs/face_mb01.py", "--mode=eval"], "holds no checkpoint; train first"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2_and_nothing_is_written(arguments, words, tmp_path):
    result = run(*arguments, f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert words in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_workdir_of_another_config_is_not_written_over(finished):
    workdir, _ = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    result = smoke(workdir, "smoke,epochs=6,seed=1")
    assert result.returncode == 2
    assert "holds a run of another config (1 keys differ: seed: 0 there, 1 now); choose another" in result.stderr
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


class Watched:
    """A config that remembers which of its keys were read."""

    def __init__(self, config, read, prefix=""):
        self._config, self._read, self._prefix = config, read, prefix

    def __contains__(self, name):
        return name in self._config

    def __getattr__(self, name):
        value = getattr(self._config, name)
        if isinstance(value, ConfigDict):
            return Watched(value, self._read, f"{self._prefix}{name}.")
        if name == "to_dict":  # hands everything over
            self._read.update(f"{self._prefix}{key}" for key in self._config)
        self._read.add(self._prefix + name)
        return value


def leaves(config, prefix=""):
    for name, value in config.items():
        yield from leaves(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else [prefix + name]


def test_every_key_of_the_config_is_read(tmp_path, capsys):
    config = face_config("smoke,epochs=6", model="mobilenetv2", width=0.1)  # compiled for the run above
    config.train.checkpoint_every = 100
    read = {"task"}  # main reads it
    with jax.numpy_dtype_promotion("standard"):  # optax compares a step number with a float
        face.train(Watched(config, read), tmp_path / "run")
    assert set(leaves(config)) <= read, set(leaves(config)) - read
    assert "mean" in capsys.readouterr().out
    read, config = set(), face_config("data=folder", model="mobilenetv2", width=0.1)
    config.data.root = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is not a folder"):
        FaceJob(Watched(config, read))
    assert "data.root" in read


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("seed", -1, "seed -1 must be at least 0; set --config.seed."),
        ("data.image_size", 7, "data.image_size 7 must be at least 8"),
        ("data.workers", -1, "data.workers -1 must be at least 0"),
        ("data.timeout", math.nan, "data.timeout nan must be at least 0"),
        ("data.size", "fll", "data.size 'fll' is unknown; there are: full, smoke."),
        ("data.source", "folder", "data.source 'folder' needs data.root, .* as in --config=FILE:data=folder."),
        ("optimizer.base_batch", 0, "optimizer.base_batch 0 must be at least 1"),
        ("optimizer.learning_rate", -0.1, "optimizer.learning_rate -0.1 must be at least 0"),
        ("optimizer.epochs", 0.0, "optimizer.epochs 0.0 must be greater than 0"),
        ("optimizer.epochs", math.inf, "optimizer.epochs inf must be"),
        ("train.log_every", 0, "train.log_every 0 must be at least 1"),
        ("train.checkpoint_every", -5, "train.checkpoint_every -5 must be at least 1"),
        ("optimizer.factor", -0.1, "optimizer.factor -0.1 must be at least 0"),
        ("loss.scale", 0.0, "loss.scale 0.0 must be greater than 0"),
        ("train.eval_every", -1.0, "train.eval_every -1.0 must be greater than 0"),
    ],
)
def test_values_that_make_no_sense_are_refused_before_data_is_opened(key, value, words):
    config = face_config(None, model="mobilenetv2", width=0.1)
    config.update_from_flattened_dict({"optimizer.epochs": 0.1})
    check_values(config)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=words):
        check_values(config)


def test_a_share_is_no_percentage():
    config = frontal_config(None)
    check_values(config)
    config.data.crop = 70.0
    with pytest.raises(UserError, match="data.crop 70.0 must be greater than 0, and at most 1"):
        check_values(config)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_names_its_model_and_says_how_to_run_it(name):
    scope = {}
    exec(compile((ROOT / "configs" / name).read_text(), name, "exec"), scope)
    assert f"--config=configs/{name}" in scope["__doc__"]
    operator = "baseline" if name == "face_mixer.py" else "depthwise"
    config = scope["get_config"](f"operator={operator},seed=3")
    assert config.model.operator == operator and config.seed == 3
    for argument in (None, "smoke"):
        check_values(scope["get_config"](argument))
    if config.task != "face":
        assert name == ("odoc.py" if "test_domain" in config.data else f"{config.task}.py")
        return
    prefix = {"mobilenetv2": "mb", "shufflenetv2": "sf", "mlp_mixer": "mixer"}[config.model.name]
    assert name in (f"face_{prefix}{round(config.model.width * 10):02d}.py", f"face_{prefix}.py")
    paper = scope["get_config"]("data=folder")
    check_values(paper)
    assert (paper.data.image_size, paper.data.batch_size, paper.optimizer.epochs) == (96, 512, 38)
    assert paper.optimizer.milestones == (22, 30, 35) and paper.optimizer.learning_rate == 0.1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sped=1", "'sped' is unknown; there are: size, speed, fast; did you mean speed?"),
        ("size=big", "size=big must be of type int."),
        ("size=1,size=2", "'size' is given twice"),
        ("size", "'size' needs a value, as in size=3."),
        ("fast=yes", "fast=yes must be true or false"),
        ("speed=5", "speed=5 is unknown; there are: low, high."),
    ],
)
def test_arguments_are_strict(text, words):
    table = {
        "size": Argument(int, 3),
        "speed": Argument(str, "low", choices=("low", "high")),
        "fast": Argument(bool, False),
    }
    assert parse_arguments("size=4,fast", table) == {"size": 4, "speed": "low", "fast": True}
    assert parse_arguments(None, table) == {"size": 3, "speed": "low", "fast": False}
    with pytest.raises(UserError) as error:
        parse_arguments(text, table)
    assert words in str(error.value)


def test_the_references_way_to_verify_shows_bgr_and_no_mirror_image():
    class Sum(nn.Module):
        def __call__(self, images, train):
            return images[:, :, :, 0].sum((1, 2))[:, None] + 10 * images[:, :1, 0, 0]

    images = np.random.RandomState(0).randint(0, 255, (2, 4, 4, 3)).astype(np.uint8)
    x = images / 127.5 - 1
    first = lambda x, c: x[..., c].sum((1, 2))  # noqa: E731
    plain = first(x, 2) + 10 * x[:, 0, 0, 2]
    embed = make_embed(Sum(), mirror=False, channel_order="bgr")
    np.testing.assert_allclose(embed({}, images)[:, 0], plain, rtol=1e-5)
    mirrored = 2 * first(x, 0) + 10 * (x[:, 0, 0, 0] + x[:, 0, 3, 0])
    np.testing.assert_allclose(make_embed(Sum(), mirror=True)({}, images)[:, 0], mirrored, rtol=1e-5)
