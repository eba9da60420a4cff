"""Old names of config keys, arguments and flags go on for a release, and old workdirs for good."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from tvconv_jax.experiments.sweep_file import load_sweep
from tvconv_jax.tasks.command import config_of
from tvconv_jax.tasks.configs import face_config, odoc_config, renamed
from tvconv_jax.tasks.saved_config import check_workdir, flat, read_config
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.moved import print_renamed

ROOT = Path(__file__).parent.parent
FACE = f"--config={ROOT}/configs/face_mb01.py:smoke"
OWN = """
from ml_collections import ConfigDict
from tvconv_jax.tasks.configs import face_config, odoc_config

def get_config(arg=None):
    config = face_config("smoke", model="mobilenetv2", width=0.1)
    {line}
    return config
"""


@pytest.fixture(autouse=True)
def nothing_printed():
    print_renamed.cache_clear()


def old_keys(config):
    """A config as an older version wrote it."""
    old = json.loads(config.to_json())
    for before, after in renamed.KEYS.items():
        section, _, name = after.rpartition(".")
        parent = old.get(section, {}) if section else old
        if name in parent:
            (old[before.rpartition(".")[0]] if section else old)[before.rpartition(".")[2]] = parent.pop(name)
    return old


@pytest.mark.parametrize("config", [face_config("data=folder", model="mobilenetv2", width=0.1), odoc_config("smoke")])
def test_an_old_workdir_is_of_the_same_config(tmp_path, config):
    config.train.on_nonfinite, config.train.grad_accum_steps = "skip", 2
    old = old_keys(config)
    assert {"nan", "accumulate"} <= old["train"].keys() and not {"finetune"} & old.keys()
    (tmp_path / "config.json").write_text(json.dumps(old))
    check_workdir(config, tmp_path)
    assert flat(read_config(tmp_path).to_dict()) == flat(json.loads(config.to_json()))
    config.train.grad_accum_steps = 1
    with pytest.raises(UserError, match="1 keys differ: train.grad_accum_steps: 2 there, 1 now"):
        check_workdir(config, tmp_path)


def test_old_keys_on_the_command_line_are_renamed_with_a_line(capsys):
    config = config_of([FACE, "--config.train.nan=skip", "--config.start.freeze=model/*", "--config.seed=3"])
    assert (config.train.on_nonfinite, config.finetune.freeze, config.seed) == ("skip", "model/*", 3)
    assert capsys.readouterr().err.splitlines() == [
        f"note: config key {old} is now {new}; the old name goes with the next release."
        for old, new in (("train.nan", "train.on_nonfinite"), ("start.freeze", "finetune.freeze"))
    ]
    assert config_of([f"--config={ROOT}/configs/odoc.py:select=held_out"]).eval.checkpoint == "held_out"
    assert "config argument select is now checkpoint" in capsys.readouterr().err
    flags = ["--kind=tpu-v4", "--kind", "tpu-v4", "--mode=plan"]
    assert renamed.rename_arguments(flags) == ["--device-kind=tpu-v4", "--device-kind", "tpu-v4", "--mode=plan"]


def test_a_config_file_that_sets_an_old_key_goes_on(tmp_path, capsys):
    (file := tmp_path / "own.py").write_text(OWN.format(line="config.train.nan = 'skip'"))
    assert config_of([f"--config={file}"]).train.on_nonfinite == "skip"
    assert "note: config key train.nan is now train.on_nonfinite" in capsys.readouterr().err
    config = config_of([f"--config={file}", "--config.train.on_nonfinite=stop"])
    assert config.train.on_nonfinite == "stop" and "nan" not in config.train
    file.write_text(OWN.format(line="config.start = {'freeze': 'model/*'}; config.lock()"))
    config = config_of([f"--config={file}"])
    assert config.finetune == ConfigDict({"checkpoint": "", "freeze": "model/*"}) and "start" not in config


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("config.start.freeze = 'model/*'", "unknown config key: 'start'; start is now finetune"),
        ("config.lock(); config.train.nan = 'skip'", "train.nan is now train.on_nonfinite"),
    ],
)
def test_a_config_file_that_needs_an_old_key_is_one_line_with_the_new_one(tmp_path, line, words):
    (file := tmp_path / "own.py").write_text(OWN.format(line=line))
    with pytest.raises(UserError) as error:
        config_of([f"--config={file}"])
    assert words in str(error.value) and "\n" not in str(error.value)


def test_rows_of_a_sweep_may_have_old_keys(tmp_path, capsys):
    row = f'Setting("a", "{ROOT}/configs/face_mb01.py", changes={{"train.accumulate": 2, "seed": 1}})'
    (file := tmp_path / "sweep.py").write_text(
        f"from tvconv_jax.experiments.sweep_file import Setting, Sweep\ndef get_sweep(): return Sweep('x', [{row}])\n"
    )
    assert load_sweep(str(file)).settings[0].changes == {"train.grad_accum_steps": 2, "seed": 1}
    assert "train.accumulate is now train.grad_accum_steps" in capsys.readouterr().err


def test_a_command_takes_old_names_with_a_line_each(tmp_path):
    command = [sys.executable, "-m", "tvconv_jax.main", FACE, "--config.train.nan=skip", "--config.data.size=fll"]
    done = subprocess.run([*command, f"--workdir={tmp_path}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.splitlines() == [
        "note: config key train.nan is now train.on_nonfinite; the old name goes with the next release.",
        "error: data.size 'fll' is unknown; there are: full, smoke.",
    ]
