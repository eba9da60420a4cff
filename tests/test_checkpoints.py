"""Checkpoints and what lies around them: names of workdirs, others' files, steps that come twice, proof of reading."""

import os
import shutil
from pathlib import Path

import jax.numpy as jnp
import pytest

from tvconv_jax.experiments import sweep
from tvconv_jax.report.__main__ import remake
from tvconv_jax.tasks.configs import face_config
from tvconv_jax.tasks.finetune import read_checkpoint
from tvconv_jax.tasks.saved_config import check_workdir
from tvconv_jax.training import checkpoint_files
from tvconv_jax.training.checkpoint import Checkpoints
from tvconv_jax.training.mesh import make_mesh
from tvconv_jax.training.optimizer import sgd
from tvconv_jax.training.state import create_state
from tvconv_jax.utils.errors import TrainingError, UserError

OPTIMIZER = sgd(lambda _: 0.1, momentum=0.9, weight_decay=0.0)


def state_of(step, value=0.0):
    state = create_state({"w": jnp.full(6, value)}, {"m": jnp.ones(2)}, OPTIMIZER, 0, make_mesh(data=1, model=1))
    return state.replace(step=jnp.int32(step))


def save(workdir, *steps, value=0.0):
    with Checkpoints(workdir) as checkpoints:
        for step in steps:
            checkpoints.save(state_of(step, value), {"at": step})


def save_best(workdir, *steps, value=0.0):
    with Checkpoints(workdir) as checkpoints:
        for step in steps:
            checkpoints.save(state_of(step, value), {}, best=True)


def restore(workdir, **options):
    """Step, value and what was said."""
    said = []
    with Checkpoints(workdir, said.append) as checkpoints:
        state, _ = checkpoints.restore(state_of(0), **options)
    return int(state.step), float(state.params["w"][0]), said


def names(folder):
    return {path.name for path in folder.iterdir()}


NAMES = ["job[3]/[v2]", "[!a]", "a*b/**", "a?b", " a%20#b\n", "a:b@c,d=e", "s3:/x", "x.orbax-checkpoint-tmp", "n" * 255]


def test_a_workdir_has_any_name(tmp_path):
    (tmp_path / "axb" / "checkpoints").mkdir(parents=True)  # which `a*b` and `a?b` match too
    for name in NAMES:
        workdir = tmp_path / name
        save(workdir, 4, value=2.0)
        assert restore(workdir) == (4, 2.0, []), name
        assert read_checkpoint(workdir)[1]["params/w"][0] == 2.0, name


def test_a_workdir_is_reached_by_a_link_and_past_it(tmp_path, monkeypatch):
    (tmp_path / "disk" / "runs").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "runs")
    save(tmp_path / "link", 4)
    save(tmp_path / "link" / ".." / "beside", 6)  # which is not tmp_path / "beside"
    assert restore(tmp_path / "disk" / "runs")[0] == 4 and restore(tmp_path / "disk" / "beside")[0] == 6
    monkeypatch.chdir(tmp_path / "disk")
    assert restore(Path("runs"))[0] == 4 and read_checkpoint(Path("runs"))[0].startswith("checkpoint of step 4 in /")


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("a\\b", "a backslash"),
        ("gs:/bucket/run", "a part that ends in 'gs:'"),
        ("logs:", "a part that ends in 'gs:'"),
        (os.fsdecode(b"caf\xe9"), "bytes that are not UTF-8"),
    ],
)
def test_a_name_under_which_nothing_can_be_read_is_refused_before_the_first_step(tmp_path, name, fault, refusal):
    workdir, config = tmp_path / name, face_config("smoke", model="mobilenetv2", width=0.1)
    for use in (Checkpoints, read_checkpoint, remake, lambda workdir: check_workdir(config, workdir)):
        with pytest.raises(UserError, match=f"this path has {fault}, .* rename that folder, or choose another"):
            use(workdir)
    assert f"error: --out {tmp_path}" in refusal(sweep.main, "configs/sweeps/operators.py", f"--out={workdir}")
    assert not list(tmp_path.iterdir())


def never_merge(monkeypatch, workdir):
    monkeypatch.setattr(checkpoint_files.LiteralPath, "glob", lambda *_: iter(()))


def spoil(change):
    def after_checksums(monkeypatch, workdir):
        write = checkpoint_files.write_checksums
        monkeypatch.setattr(checkpoint_files, "write_checksums", lambda folder: (write(folder), change(folder)))

    return after_checksums


def flip(folder):
    if folder.name == "state":
        path = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
        path.write_bytes(path.read_bytes()[:-1] + b"\0")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what Orbax's threads leave behind
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (never_merge, "arrays .* cannot be reached"),
        (spoil(flip), "was changed"),
        (spoil(lambda folder: (folder / "_METADATA").unlink(missing_ok=True)), "state/_METADATA is missing"),
        (
            spoil(lambda folder: (folder.parent / checkpoint_files.MANIFEST).unlink(missing_ok=True)),
            f"{checkpoint_files.MANIFEST} is missing",
        ),
    ],
)
def test_what_cannot_be_read_back_takes_no_older_ones_place(tmp_path, monkeypatch, damage, words):
    save(tmp_path, 2, 4)
    damage(monkeypatch, tmp_path)
    with pytest.raises(
        TrainingError, match=rf"the checkpoint of step 6 .* cannot be read back \(.*{words}.* before it stay"
    ):
        save(tmp_path, 6, 8)
    monkeypatch.undo()
    assert names(tmp_path / "checkpoints" / "last") == {"2", "4"} and restore(tmp_path)[0] == 4


FOREIGN = ["6 (1)", "6.bak", "6_conflict", "6~", ".stfolder", ".sync", "@eaDir", "06", "٣", "²", "9", "1", "-1", "1e3"]


def litter(folder):
    """What sync tools, backups and people leave; also empty folders that are named as steps are."""
    for name in FOREIGN:
        (folder / name).mkdir(parents=True)
    for name in (".DS_Store", "Thumbs.db", "7"):
        (folder / name).write_text("of another program")
    (folder / "8").symlink_to(folder / "nowhere")
    return {*FOREIGN, ".DS_Store", "Thumbs.db", "7", "8"}


def test_others_files_beside_checkpoints_never_end_a_run_and_stay(tmp_path):
    for kind in checkpoint_files.KINDS:
        left = litter(tmp_path / "checkpoints" / kind)
    check_workdir_of(tmp_path / "none")
    save(tmp_path, 2, 4, 6)
    save_best(tmp_path, 4)
    for kind, kept in zip(checkpoint_files.KINDS, ({"4", "6"}, {"4"}), strict=True):
        assert names(tmp_path / "checkpoints" / kind) == left | kept
    step, _, said = restore(tmp_path)
    assert step == 6 and said == [
        "damaged checkpoint (step 9: state is missing); the one of step 6 is whole and taken instead."
    ]
    assert restore(tmp_path, best=True)[0] == 4
    assert "step 6" in (what := read_checkpoint(tmp_path, kinds=["last"])[0]) and "9: state is missing: skipped" in what
    restore(tmp_path, set_aside=True)
    assert names(tmp_path / "checkpoints" / "last") == left - {"9"} | {"4", "6"}
    assert names(tmp_path / "checkpoints" / "damaged") == {"last-9-0"}


def test_a_copy_of_a_checkpoint_under_the_name_of_another_step_is_not_that_steps(tmp_path):
    save(tmp_path, 2, 4)
    last = tmp_path / "checkpoints" / "last"
    shutil.copytree(last / "2", last / "9")
    assert "last (last/9: it is a copy of the checkpoint of step 2: skipped)" in read_checkpoint(tmp_path)[0]
    step, _, said = restore(tmp_path, set_aside=True)
    assert step == 4 and "damaged checkpoint (step 9: it is a copy of the checkpoint of step 2), moved to" in said[0]
    assert names(last) == {"2", "4"}


def test_a_path_that_the_system_does_not_take_is_refused_before_the_first_step(tmp_path):
    (loop := tmp_path / "loop").symlink_to(loop)
    for name, reason in (("n" * 256, "File name too long"), ("loop/run", "Too many levels of symbolic links")):
        with pytest.raises(UserError, match=rf"^--workdir .* cannot be reached \({reason}\); choose another.$"):
            check_workdir(face_config("smoke", model="mobilenetv2", width=0.1), tmp_path / name)


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/last", "checkpoints/best"])
@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("/a/disk/that/is/gone")])
def test_what_is_in_the_way_of_checkpoints_is_told_before_the_first_step(tmp_path, name, make):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    make(tmp_path / name)
    with pytest.raises(UserError, match=f"{name} is not a folder, and checkpoints go there; move it away"):
        check_workdir(face_config("smoke", model="mobilenetv2", width=0.1), tmp_path)


def check_workdir_of(workdir):
    """Nothing that others left makes a folder one with checkpoints."""
    for kind in checkpoint_files.KINDS:
        (workdir / "checkpoints" / kind / "6 (1)").mkdir(parents=True)
        (workdir / "checkpoints" / kind / "7").touch()
    check_workdir(face_config("smoke", model="mobilenetv2", width=0.1), workdir)


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_what_is_in_the_way_of_a_step_is_moved_and_told(tmp_path, make):
    save(tmp_path, 4)
    make(tmp_path / "checkpoints" / "last" / "6")
    said = []
    with Checkpoints(tmp_path, said.append) as checkpoints:
        checkpoints.save(state_of(6), {})
    assert restore(tmp_path)[0] == 6
    assert len(said) == 1 and "last/6 is in the way of a checkpoint (state is missing); moved to" in said[0]
    assert os.path.lexists(tmp_path / "checkpoints" / "damaged" / "last-6-0")


def test_a_step_that_comes_again_takes_the_place_of_the_abandoned_one(tmp_path):
    save_best(tmp_path, 4, value=1.0)  # killed before it was saved as the last one too
    save_best(tmp_path, 4, value=2.0)
    assert restore(tmp_path, best=True) == (4, 2.0, [])
    assert names(tmp_path / "checkpoints" / "best") == {"4"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_abandoned_one_is_there_until_the_new_one_is(tmp_path, monkeypatch):
    save_best(tmp_path, 4, value=1.0)
    never_merge(monkeypatch, tmp_path)
    with pytest.raises(TrainingError, match="cannot be read back"):
        save_best(tmp_path, 4, value=2.0)
    monkeypatch.undo()
    assert restore(tmp_path, best=True) == (4, 1.0, []) and read_checkpoint(tmp_path)[1]["params/w"][0] == 1.0
    best = tmp_path / "checkpoints" / "best"
    assert names(best) == {"4.replaced"}
    shutil.copytree(best / "4.replaced", best / "4")  # killed between the new one's name and the old one's end
    (best / "6.orbax-checkpoint-tmp").mkdir()
    save(tmp_path, 4)
    restore(tmp_path, set_aside=True)
    assert names(best) == {"4"}


def test_the_best_one_before_stays_until_the_run_goes_on_from_behind_the_new_one(tmp_path):
    best = tmp_path / "checkpoints" / "best"
    save(tmp_path, 4)
    save_best(tmp_path, 4, 8)
    assert names(best) == {"4", "8"}  # killed here, it goes on from step 4, whose best is that of step 4
    assert restore(tmp_path, best=True)[0] == 8
    assert restore(tmp_path)[0] == 4 and names(best) == {"4", "8"}  # who only reads deletes nothing
    assert restore(tmp_path, set_aside=True)[0] == 4 and names(best) == {"4"}
    save_best(tmp_path, 8)
    save(tmp_path, 8)
    assert names(best) == {"8"}


def test_a_folder_goes_though_threads_still_write_into_it(tmp_path, monkeypatch):
    folder, real, late = tmp_path / "6.orbax-checkpoint-tmp", shutil.rmtree, iter(range(2))

    def rmtree(path, **kwargs):
        real(path, **kwargs)
        for number in [*late][:1]:  # a thread that had not heard of it yet
            (folder / "d").mkdir(parents=True)
            (folder / "d" / str(number)).touch()

    monkeypatch.setattr(checkpoint_files.shutil, "rmtree", rmtree)
    (folder / "d").mkdir(parents=True)
    checkpoint_files.remove(folder)
    assert not folder.exists()
