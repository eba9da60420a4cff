"""A first run on few images: chosen settings, and what cannot work, said before data is read."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from folders import encoded, touch

from tvconv_jax.tasks import saved_config, small_data
from tvconv_jax.tasks.command import config_of
from tvconv_jax.tasks.configs import face_config
from tvconv_jax.tasks.configs.face import FREE
from tvconv_jax.tasks.face import FaceJob
from tvconv_jax.tasks.keys import get
from tvconv_jax.tasks.limits import check_values
from tvconv_jax.training.checkpoint import Checkpoints
from tvconv_jax.training.mesh import make_mesh
from tvconv_jax.training.optimizer import sgd
from tvconv_jax.training.state import create_state
from tvconv_jax.utils.errors import UserError

ROOT = Path(__file__).parent.parent
FACE = f"--config={ROOT}/configs/face_mb01.py"
FOLDER = f"{FACE}:data=folder"


def faces(root, identities=12, images=5, pairs=True):
    """A folder of empty files, which nothing that is tested here may open."""
    for i in range(identities):
        for j in range(images):
            touch(root / "train" / f"p{i:02d}" / f"{j}.jpg", b"")
    if pairs:
        (root / "friends").mkdir()
        (root / "friends_pair.txt").write_text("a/0.jpg a/1.jpg 1\n")
    return root


def start_of(folder, text=None, **changes):
    """A workdir as another run left it, with a checkpoint of one number."""
    config = face_config(text, model="mobilenetv2", width=0.1)
    config.update_from_flattened_dict(changes)
    with Checkpoints(folder) as checkpoints:
        optimizer = sgd(lambda _: 0.1, momentum=0.9, weight_decay=0.01)
        checkpoints.save(create_state({"x": jnp.ones(1)}, {}, optimizer, 0, make_mesh()), {}, best=True)
    (folder / "config.json").write_text(config.to_json())
    return folder


@pytest.fixture
def prepare(tmp_path):
    """Prepare a run with flags; returns its config and the lines that it prints."""

    def run(*flags, workdir=tmp_path / "new"):
        said, config = [], config_of(flags)
        check_values(config)
        return small_data.prepare(config, workdir, said.append), said

    return run


def test_sixty_images_get_a_batch_and_a_learning_rate_and_a_hint(tmp_path, prepare):
    config, (chosen, hint) = prepare(FOLDER, f"--config.data.root={faces(tmp_path)}")
    assert chosen.startswith("chosen for 60 training images, since none was given: data.batch_size 8, ")
    assert "few to train from scratch; start from a trained model with --config.finetune.checkpoint=WORKDIR" in hint
    assert (config.data.batch_size, config.optimizer.base_batch, config.optimizer.warmup_epochs) == (8, 8, 1.0)
    assert config.optimizer.learning_rate == pytest.approx(0.1 * 8 / 512) and config.optimizer.epochs == 38
    assert set(config.train.auto.split(",")) < set(FREE)
    check_values(config)


def test_fine_tuning_takes_the_starts_image_size_and_few_epochs(tmp_path, prepare):
    root, start = faces(tmp_path), start_of(tmp_path / "start")
    config, said = prepare(FOLDER, f"--config.data.root={root}", f"--config.finetune.checkpoint={start}")
    (chosen,) = said
    assert "for 60 training images, with the image size and generator of finetune.checkpoint" in chosen
    assert (config.data.image_size, config.data.batch_size, config.optimizer.epochs) == (48, 8, small_data.TUNE_EPOCHS)
    assert config.model.hidden_channels == 8  # of drawn faces, where the paper's recipe has 64
    assert config.optimizer.learning_rate == small_data.TUNE_RATE < 0.01
    assert config.optimizer.milestones[-1] < config.optimizer.epochs
    for key in config.train.auto.split(","):
        assert f"{key} " in chosen and get(config, key) != FREE[key]


@pytest.mark.parametrize(
    ("flag", "key", "value"),
    [
        ("batch_size=16", "data.batch_size", 16),
        ("epochs=3", "optimizer.epochs", 3.0),
        ("--config.optimizer.learning_rate=0.1", "optimizer.learning_rate", 0.1),
        ("--config.optimizer.lr_scaling=linear", "optimizer.learning_rate", 0.1),
        ("--config.optimizer.warmup_epochs=0.0", "optimizer.warmup_epochs", 0.0),
        ("--config.train.auto=", "optimizer.epochs", 38.0),
    ],
)
def test_what_is_given_stays(tmp_path, prepare, flag, key, value):
    root, start = faces(tmp_path), start_of(tmp_path / "start", "recipe=paper")
    more = [flag, "--config.data.batch_size=4", "--config.data.image_size=48"] if flag[0] == "-" else []
    flags = [f"--config.data.root={root}", f"--config.finetune.checkpoint={start}", *more]
    config, _ = prepare(FOLDER if more else f"{FOLDER},{flag}", *flags)
    assert get(config, key) == value and key not in config.train.auto.split(",")


@pytest.mark.parametrize("flags", [[f"{FOLDER},batch_size=512"], [FOLDER, "--config.data.batch_size=512"]])
def test_a_given_batch_that_is_larger_than_the_set_is_refused_with_the_way_out(tmp_path, prepare, flags):
    words = "data.batch_size 512 is more than the 60 training images; leave it out, .*, or take batch_size=8 behind"
    with pytest.raises(UserError, match=words):
        prepare(*flags, f"--config.data.root={faces(tmp_path)}")


def test_the_embedded_set_has_its_size_before_it_is_drawn(prepare):
    with pytest.raises(UserError, match="data.batch_size 12001 is more than the 12000 training images"):
        prepare(f"{FACE}:batch_size=12001")


@pytest.mark.parametrize("text", [None, "smoke", "operator=depthwise,batch_size=32"])
def test_embedded_runs_stay_as_they_were(text, tmp_path):
    config = face_config(text, model="mobilenetv2", width=0.1)
    said, before = [], config.to_json()
    assert small_data.prepare(config, tmp_path, said.append) is config
    assert config.to_json() == before and not said and config.train.auto == ""


@pytest.mark.parametrize("images", [small_data.SMALL, 500_000])
def test_large_sets_keep_the_papers_recipe(images):
    config = face_config("data=folder", model="mobilenetv2", width=0.1)
    assert small_data.choose(config, images) == {}
    config.finetune.checkpoint = "x"
    assert small_data.choose(config, images) == {}


@pytest.mark.parametrize(
    ("images", "batch"), [(1, 1), (3, 2), (8, 8), (60, 8), (127, 8), (128, 16), (4095, 256), (1 << 20, 512)]
)
def test_a_chosen_batch_is_a_power_of_two_that_fits(images, batch):
    assert small_data.batch_size_for(images) == batch


def test_a_run_goes_on_with_what_it_chose(tmp_path, prepare):
    flags, workdir = (FOLDER, f"--config.data.root={faces(tmp_path)}"), tmp_path / "run"
    first, _ = prepare(*flags)
    workdir.mkdir()
    (workdir / "config.json").write_text(first.to_json())
    for i in range(60):
        touch(tmp_path / "train" / "p00" / f"more{i}.jpg", b"")
    given = config_of(flags)
    saved_config.check_workdir(given, workdir)  # the values that were chosen are no difference
    again, said = prepare(*flags, workdir=workdir)
    assert again.to_json() == first.to_json() and not any(line.startswith("chosen") for line in said)
    other = config_of([*flags, "--config.data.batch_size=4"])
    with pytest.raises(UserError, match="data.batch_size: 8 there, 4 now"):
        saved_config.check_workdir(other, workdir)


def test_what_was_chosen_stays_so_if_it_is_given_in_between(tmp_path, prepare):
    flags, workdir = (FOLDER, f"--config.data.root={faces(tmp_path)}"), tmp_path / "run"
    first, _ = prepare(*flags)
    workdir.mkdir()
    (workdir / "config.json").write_text(first.to_json())
    between, _ = prepare(*flags, f"--config.data.batch_size={first.data.batch_size}", workdir=workdir)
    (workdir / "config.json").write_text(between.to_json())
    saved_config.check_workdir(config_of(flags), workdir)
    again, _ = prepare(*flags, workdir=workdir)
    assert again.to_json() == first.to_json()


def test_a_file_of_weights_that_does_not_fit_is_refused_before_data_is_read(tmp_path, prepare):
    (tmp_path / "notes.txt").write_text("no weights")
    torch.save({"state_dict": {"stem.weight": torch.zeros(3)}}, tmp_path / "alien.pth")
    small = ["--config.model.depth=0.1", "--config.model.stages=(1,)", "--config.data.root=nowhere"]
    for name, words in (
        ("notes.txt", "notes.txt is not a file of PyTorch weights"),
        ("alien.pth", "finetune.checkpoint .*alien.pth"),
    ):
        with pytest.raises(UserError, match=words):
            prepare(FOLDER, *small, f"--config.finetune.checkpoint={tmp_path / name}")


def test_a_folder_within_a_run_names_the_run(tmp_path, prepare):
    start = start_of(tmp_path / "start")
    for inner in ("checkpoints", "checkpoints/best"):
        with pytest.raises(UserError, match=f"name the workdir of a run, which is {start}"):
            prepare(FOLDER, f"--config.finetune.checkpoint={start / inner}")


def test_an_old_run_of_a_small_set_goes_on_with_its_own_numbers(tmp_path, prepare):
    text, workdir = f"{FOLDER},batch_size=8", tmp_path / "run"
    flags = (text, f"--config.data.root={faces(tmp_path)}", f"--config.finetune.checkpoint={start_of(tmp_path / 's')}")
    flags = (*flags, "--config.data.image_size=48")
    config = json.loads(config_of(flags).to_json())
    del config["train"]["auto"]
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(config))
    saved_config.check_workdir(config_of(flags), workdir)
    shutil.rmtree(tmp_path / "s")  # what it started from is needed no more
    again, _ = prepare(*flags, workdir=workdir)
    assert again.optimizer.learning_rate == 0.1 and again.optimizer.epochs == 38


def test_a_set_without_pairs_is_said_at_once(tmp_path, prepare):
    root = faces(tmp_path, pairs=False)
    _, said = prepare(FOLDER, f"--config.data.root={root}")
    note = next(line for line in said if "verification set" in line)
    assert "trains, verifies nothing, and exports a model without a threshold" in note
    assert note.endswith(f"make a list: python -m tvconv_jax.data pairs {root}")
    with pytest.raises(UserError, match="has no verification set to evaluate on; make a list: python"):
        FaceJob.prepare(config_of([FOLDER, f"--config.data.root={root}"]), tmp_path / "new", train=False)


@pytest.mark.parametrize(("identities", "images", "asked"), [(2, 60, True), (2, 5, False), (5, 50, False)])
def test_two_large_folders_may_be_classes(tmp_path, prepare, identities, images, asked):
    _, said = prepare(FOLDER, f"--config.data.root={faces(tmp_path, identities, images)}")
    notes = [line for line in said if "are they classes? This is verification" in line]
    assert bool(notes) == asked
    assert not asked or (
        "(p00, p01)" in notes[0] and "classifier of your own images is --config=configs/classification.py" in notes[0]
    )


def test_a_checkpoint_that_does_not_fit_is_refused_before_data_is_read(tmp_path, prepare):
    start = start_of(tmp_path / "start")
    (tmp_path / "empty").mkdir()
    frontal = start_of(tmp_path / "frontal", task="frontal")
    wide = start_of(tmp_path / "wide", "smoke", **{"model.hidden_channels": 4})
    root = "--config.data.root=nowhere"
    for flags, words in (
        ([f"--config.finetune.checkpoint={tmp_path}/none"], "none does not exist; name the workdir of a run"),
        ([f"--config.finetune.checkpoint={tmp_path}/empty"], "empty is a folder without checkpoints"),
        ([f"--config.finetune.checkpoint={frontal}"], "is a run of the task frontal; name one of face"),
        ([f"--config.finetune.checkpoint={start}", root], "data.root .* is not a folder"),
    ):
        with pytest.raises(UserError, match=words):
            prepare(FOLDER, *flags)
    smoke = [f"{FACE}:smoke", f"--config.finetune.checkpoint={wide}"]
    words = r"model.hidden_channels: 4 there, 8 here\); set --config.model.hidden_channels=4, or name another run"
    with pytest.raises(UserError, match=words):
        prepare(*smoke)
    with pytest.raises(UserError, match=r"data.image_size: 24 there, 32 here\); set --config.data.image_size=24"):
        prepare(*smoke, "--config.model.hidden_channels=4", "--config.data.image_size=32")
    prepare(*smoke, "--config.model.hidden_channels=4", "--config.model.remat=True")


def test_a_small_folder_is_trained_by_the_command_alone(tmp_path):
    random = np.random.default_rng(0)
    for i in range(20):
        image = encoded(random.integers(0, 255, (24, 24, 3), np.uint8))
        touch(tmp_path / "faces" / "train" / f"p{i % 4}" / f"{i}.png", image)
    small = ["model.depth=0.1", "model.stages=(1,)", "model.embedding_size=8"]
    more = ["data.image_size=24", "optimizer.epochs=1.0", "optimizer.milestones=(1.0,)", f"data.root={tmp_path}/faces"]
    flags = [
        f"{FOLDER},operator=depthwise",
        *(f"--config.{change}" for change in (*small, *more)),
        f"--workdir={tmp_path}/run",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tvconv_jax.main", *flags], env=os.environ, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["batch_size"] == 8 and "data.batch_size" in config["train"]["auto"]
    assert "Nothing was verified" in done.stdout and "chosen for 20 training images" in done.stdout
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["step"] == 2 and results["verification"] == {}
