"""Every config key has a meaning and a range, from one table, which the page and the command show."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from flax.traverse_util import flatten_dict
from test_limits import every_config

from tvconv_jax.experiments import config_page
from tvconv_jax.metrics import segmentation as metrics
from tvconv_jax.models.registry import MODELS
from tvconv_jax.tasks import affinity, segmentation
from tvconv_jax.tasks.command import config_of
from tvconv_jax.tasks.config_table import print_config
from tvconv_jax.tasks.configs import face_config, odoc_config
from tvconv_jax.tasks.configs.face import face_arguments
from tvconv_jax.tasks.keys import KEYS, describe_allowed, near
from tvconv_jax.utils import console
from tvconv_jax.utils.errors import UserError

ROOT = Path(__file__).parent.parent
FACE = f"--config={ROOT}/configs/face_mb01.py"


def test_every_key_of_every_config_has_an_entry_and_no_entry_is_dead():
    found = {key for config in every_config() for key in flatten_dict(config.to_dict(), sep=".")}
    found |= {key for key in flatten_dict(odoc_config("operator=tvconv_lowrank").to_dict(), sep=".")}
    assert found == set(KEYS)
    for key, entry in KEYS.items():
        assert entry.meaning and not entry.meaning.endswith(".") and describe_allowed(key)


def test_choices_are_those_of_the_code():
    for key, choices in {
        "eval.hd95": metrics.DEFINITIONS,
        "eval.empty": metrics.EMPTY,
        "eval.checkpoint": tuple(segmentation.SELECTIONS),
        "model.affinity_init": affinity.INITS,
        "model.name": tuple(MODELS),
        "model.generator_padding": ("zeros", "edge"),
    }.items():
        assert KEYS[key].choices == choices
    for config in every_config():
        for key, value in flatten_dict(config.to_dict(), sep=".").items():
            assert not KEYS[key].choices or value in KEYS[key].choices


def test_the_page_is_what_the_table_says(tmp_path):
    page = ROOT / "docs" / "config.md"
    assert page.read_text() == config_page.render(), (
        "run python -m tvconv_jax.experiments.config_page --out=docs/config.md"
    )
    for key in KEYS:
        assert f"| `{key}` | " in page.read_text()
    for name in ("operator", "smoke", "batch_size", "per_domain", "test_domain", "changes", "settings"):
        assert f"| `{name}` | " in page.read_text()
    config_page.main([f"--out={tmp_path / 'page.md'}"])
    assert (tmp_path / "page.md").read_text() == page.read_text()


def test_the_command_shows_values_ranges_and_meanings(capsys):
    print_config(face_config("data=folder,seed=3", model="mobilenetv2", width=0.1))
    shown = capsys.readouterr().out
    assert "batch_size" in shown and "smoke" in shown and "whole number from 1 to 1048576" in shown
    print_config(face_config("data=folder", model="mobilenetv2", width=0.1), "model.width")
    shown = capsys.readouterr().out
    assert "0.1, 0.2, 0.3, 0.5, 1.0" in shown and "multiplier of the channels" in shown and "seed" not in shown
    print_config(odoc_config("epochs=7"), "*.epochs")
    shown = capsys.readouterr().out
    assert "optimizer.epochs" in shown and "│ 7 " in shown and "warmup" not in shown
    with pytest.raises(UserError, match="--keys=learning_rats matches no key; did you mean optimizer.learning_rate"):
        print_config(odoc_config(None), "learning_rats")
    with pytest.raises(UserError, match=r"--keys=zzz\* matches no key; leave it out to list all"):
        print_config(odoc_config(None), "zzz*")


def test_the_table_is_readable_at_80_columns(capsys, monkeypatch):
    monkeypatch.setattr(console.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    config = face_config("data=folder", model="mobilenetv2", width=0.1)
    print_config(config)
    lines = re.sub(r"\x1b\[\d+m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line for line in lines if line.startswith("│ data.") or line.startswith("│ optimizer.")]
    assert any("optimizer.learning_rate" in row and "learning rate" in row for row in rows)
    arguments = face_arguments("mobilenetv2")
    assert len(lines) < 4 * (len(flatten_dict(config.to_dict())) + len(arguments))


def test_the_mode_reads_no_data_and_refuses_flags_of_other_modes(tmp_path):
    command = [sys.executable, "-m", "tvconv_jax.main", f"{FACE}:data=folder", "--mode=config"]
    done = subprocess.run([*command, "--keys=seed"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "seed of weights" in done.stdout, done.stderr
    done = subprocess.run([*command[:-1], "--mode=eval", "--keys=seed"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "--keys does nothing with --mode=eval, only with config" in done.stderr


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("train.log_evry=1", "unknown config key train.log_evry; did you mean train.log_every or "),
        ("batch_size=8", "unknown config key batch_size; did you mean data.batch_size or eval.batch_size"),
        ("modle.width=1", "unknown config key modle.width; did you mean model.width?"),
        ("learning_rate=1", "unknown config key learning_rate; did you mean optimizer.learning_rate?"),
        ("zzz=1", "unknown config key zzz; --mode=config lists all keys."),
        ("data.root=x", "this config has no key data.root: .* give --config=configs/face.*:data=folder for files"),
        ("data.per_domain=x", "this config has no key data.per_domain: it is of another task"),
    ],
)
def test_a_mistyped_key_names_near_ones(flag, words):
    with pytest.raises(UserError, match=words) as error:
        config_of([FACE, "--config.train.log_every=3", f"--config.{flag}"])
    assert "\n" not in str(error.value)


def test_near_names_are_few():
    assert near("data.batchsize")[0] == "data.batch_size" and len(near("e")) <= 4
