"""What can happen to a run: damaged checkpoints, a full disk, a second run, numbers that are not finite."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_training import run

from tvconv_jax.report.plots import read_metrics
from tvconv_jax.tasks.configs import face_config
from tvconv_jax.tasks.saved_config import check_workdir
from tvconv_jax.training import nonfinite
from tvconv_jax.training.checkpoint import Checkpoints
from tvconv_jax.training.logging import MetricsLog
from tvconv_jax.training.mesh import make_mesh
from tvconv_jax.training.optimizer import sgd
from tvconv_jax.training.state import create_state
from tvconv_jax.utils.errors import TrainingError, UserError
from tvconv_jax.utils.storage import locked

SIZE = 20_000  # numbers of a state, twice: 160 kB that do not compress much


def state_of(step):
    params = {"w": jnp.sin(jnp.arange(SIZE, dtype=jnp.float32) * 12.9898)}
    state = create_state(
        params, {"seen": jnp.zeros(())}, sgd(lambda _: 0.1, momentum=0.9, weight_decay=0.0), 0, make_mesh()
    )
    return state.replace(step=jnp.int32(step))


def save(workdir, *steps):
    with Checkpoints(workdir) as checkpoints:
        for step in steps:
            checkpoints.save(state_of(step), {"at": step})


def restore(workdir, **options):
    said = []
    with Checkpoints(workdir, said.append) as checkpoints:
        state, data = checkpoints.restore(state_of(0), **options)
    assert int(state.step) == data["at"]
    np.testing.assert_array_equal(state.params["w"], state_of(0).params["w"])
    return data["at"], said


def largest(folder):
    return max((path for path in (folder / "state").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def truncate(folder):
    path = largest(folder)
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(folder):
    content = bytearray(largest(folder).read_bytes())
    content[len(content) // 2] ^= 1
    largest(folder).write_bytes(content)


def lose_a_file(folder):
    largest(folder).unlink()


def lose_the_position(folder):
    shutil.rmtree(folder / "data")


def change_the_position(folder):
    path = folder / "data" / "metadata"
    path.write_text(path.read_text().replace("6", "7"))


def put_something_else_there(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "holiday.jpg").write_bytes(b"sea")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, "bytes of"),
        (flip_a_bit, "was changed"),
        (lose_a_file, "is missing"),
        (lose_the_position, "data is missing"),
        (change_the_position, "data/metadata was changed"),
        (put_something_else_there, "state is missing"),
    ],
)
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before_and_is_kept(tmp_path, damage, words):
    save(tmp_path, 2, 4, 6)
    damage(tmp_path / "checkpoints" / "last" / "6")
    before = sorted(path.name for path in (tmp_path / "checkpoints" / "last" / "6").rglob("*"))
    at, said = restore(tmp_path, set_aside=True)
    assert at == 4 and len(said) == 1
    assert said[0].startswith("damaged checkpoint (step 6: ") and words in said[0] and "step 4 is whole" in said[0]
    (moved,) = (tmp_path / "checkpoints" / "damaged").iterdir()
    assert sorted(path.name for path in moved.rglob("*")) == before
    save(tmp_path, 6)  # its step can be saved anew
    assert restore(tmp_path, set_aside=True) == (6, [])


def test_when_none_is_whole_one_line_says_so_and_nothing_is_touched(tmp_path):
    save(tmp_path, 4, 6)
    for step in ("4", "6"):
        flip_a_bit(tmp_path / "checkpoints" / "last" / step)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        UserError, match=r"no checkpoint in .* is whole \(step 6: .* was changed; step 4: .* nothing was deleted"
    ):
        restore(tmp_path, set_aside=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_checkpoints_of_a_version_without_checksums_are_read(tmp_path):
    save(tmp_path, 4, 6)
    for path in tmp_path.rglob("checksums.json"):
        path.unlink()
    assert restore(tmp_path) == (6, [])
    (tmp_path / "checkpoints" / "last" / "6" / "state" / "manifest.ocdbt").write_bytes(b"\0" * 8)
    at, (said,) = restore(tmp_path)
    assert at == 4 and "step 6: it cannot be read" in said and "moved" not in said
    assert (tmp_path / "checkpoints" / "last" / "6").exists()


@pytest.fixture
def full_disk():
    """The kernel refuses every file of more than 50 kB, as a full disk refuses every byte."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what Orbax's threads leave behind
def test_a_full_disk_is_one_line_and_leaves_what_was_saved(tmp_path, request):
    save(tmp_path, 2, 4)
    request.getfixturevalue("full_disk")
    with pytest.raises(
        TrainingError, match=r"no space left in .*checkpoints \([\d,]+ bytes free\).* whole one is of step 4"
    ):
        save(tmp_path, 6, 8)
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    assert sorted(path.name for path in (tmp_path / "checkpoints" / "last").iterdir()) == ["2", "4"]
    assert restore(tmp_path) == (4, [])


def test_a_log_on_a_full_disk_is_one_line_too(tmp_path, full_disk):
    log = MetricsLog(tmp_path, 0)
    with pytest.raises(TrainingError, match=r"no space left in .* for metrics.jsonl and TensorBoard's events"):
        for step in range(10_000):
            log.write(step, loss=1.0)


HOLD = """
import sys, time
from pathlib import Path
from tvconv_jax.utils.storage import locked
with locked(Path(sys.argv[1]), print):
    print("locked", flush=True)
    time.sleep(100)
"""


def test_a_workdir_has_one_run_and_a_dead_one_does_not_count(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "locked\n"
    with (
        pytest.raises(UserError, match=rf"is in use by process {holder.pid} on \S+; wait for it"),
        locked(tmp_path, print),
    ):
        raise AssertionError("locked twice")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path, print):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_a_workdir_that_takes_no_files_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="cannot be written .*choose another --workdir"),
        locked(tmp_path / "file", print),
    ):
        raise AssertionError("locked a file")


def test_a_step_that_is_not_finite_is_skipped_counted_and_named(tmp_path, capsys):
    whole, progress, lines = run(tmp_path / "run", bad=34, on_nonfinite="skip")
    assert np.isfinite(whole).all() and progress.skipped == (1, 0)
    assert "step 9 skipped, not finite (1 so far): picture 32, picture 33" in capsys.readouterr().out
    assert {"step": 9, "skipped": 1} in lines
    by_step = {line["step"]: line for line in lines if "loss" in line}
    assert 9 not in by_step and by_step[8]["skipped"] == 0 and by_step[12]["skipped"] == 1
    # nothing of the step is left in the state: a run that stops before it and after it holds the same numbers
    before, after = (
        run(tmp_path / "before", total=8)[0],
        run(tmp_path / "after", total=9, bad=34, on_nonfinite="skip")[0],
    )
    np.testing.assert_array_equal(before, after)
    # the count survives a resumption
    assert run(tmp_path / "after", bad=34, on_nonfinite="skip")[1].skipped == (1, 0)


def test_a_run_that_stopped_at_such_a_step_goes_on_past_it(tmp_path):
    with pytest.raises(TrainingError, match="or leave such steps out with --config.train.on_nonfinite=skip"):
        run(tmp_path / "run", bad=34)
    one, other = run(tmp_path / "run", bad=34, on_nonfinite="skip"), run(tmp_path / "skip", bad=34, on_nonfinite="skip")
    np.testing.assert_array_equal(one[0], other[0])
    assert one[1] == other[1]


def test_where_all_is_finite_skipping_changes_no_number(tmp_path):
    one, other = run(tmp_path / "stop"), run(tmp_path / "skip", on_nonfinite="skip")
    np.testing.assert_array_equal(one[0], other[0])


@pytest.mark.parametrize("where", ["small", "large", "scale", "mean"])
def test_one_number_that_is_not_finite_is_found_wherever_it_is(where):
    arrays = {
        "small": np.ones((2, 3), np.float32),
        "large": np.ones((nonfinite.SMALL + 1,), np.float32),
        "scale": np.ones((), np.float32),
    }
    state = create_state(
        arrays, {"mean": np.zeros(5, np.float32)}, sgd(lambda _: 0.1, momentum=0.9, weight_decay=0.0), 0, make_mesh()
    )
    nonfinite.check_finite(state)
    spoil = lambda path, leaf: leaf.at[(-1,) * leaf.ndim].set(np.inf) if path[-1].key == where else leaf  # noqa: E731
    params, stats = jax.tree_util.tree_map_with_path(spoil, (state.params, state.batch_stats))
    with pytest.raises(TrainingError, match="after step 0 parameters are not finite, and are not saved"):
        nonfinite.check_finite(state.replace(params=params, batch_stats=stats))


def test_too_many_in_a_row_stop_the_run():
    skipped = nonfinite.Skipped()
    for step in range(1, nonfinite.MAX_IN_A_ROW):
        skipped = nonfinite.count(skipped, step, ["a"])
    with pytest.raises(TrainingError, match=r"10 steps in a row, up to step 10, .* images of the last: a, b\. A lower"):
        nonfinite.count(skipped, 10, ["a", "b"])


def test_a_workdir_older_than_a_key_goes_on_with_what_was_so_before(tmp_path):
    config = face_config("smoke", model="mobilenetv2", width=0.1)
    old = json.loads(config.to_json())
    del old["train"]["on_nonfinite"], old["finetune"]
    (tmp_path / "config.json").write_text(json.dumps(old))
    check_workdir(config, tmp_path)
    config.train.on_nonfinite = "skip"  # what the error of a loss that is not finite advises
    check_workdir(config, tmp_path)
    config.train.log_every, config.finetune.freeze = 7, "model/stem/*"
    with pytest.raises(UserError, match=r"2 keys differ: finetune.freeze:  there, .*; train.log_every: 1 there, 7 now"):
        check_workdir(config, tmp_path)


def test_checkpoints_of_nobody_knows_what_are_not_gone_on_from(tmp_path):
    (tmp_path / "checkpoints" / "last").mkdir(parents=True)
    check_workdir(face_config("smoke", model="mobilenetv2", width=0.1), tmp_path)  # a start that was cut short
    (tmp_path / "checkpoints" / "last" / "12").mkdir()
    with pytest.raises(UserError, match="holds checkpoints, but no config.json names their run; choose another"):
        check_workdir(face_config("smoke", model="mobilenetv2", width=0.1), tmp_path)


UP = """
import signal, time
from tvconv_jax.tasks import command
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the shell made of it
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Short sleeps: a signal that another thread is given ends no long one.
command.run(lambda _: (print("up", flush=True), [time.sleep(0.1) for _ in range(1000)]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGHUP, 75), (signal.SIGINT, 130)])
def test_asked_to_stop_before_training_it_says_so_in_a_line(number, code):
    command = [sys.executable, "-c", UP, "--config=configs/face_mb01.py"]
    root = Path(__file__).parent.parent
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code and error == "stopped; the same command goes on.\n"


@pytest.mark.parametrize(
    "line", [b"[1]", b"\xff\xfe", b'{"loss": 2}', b'{"step": "3"}', b"\0\0", b"null", b'{"step": 9']
)
def test_a_line_of_the_log_that_is_not_ours_ends_no_run_and_no_report(tmp_path, line):
    (log := tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "loss": 2.0}\n' + line + b"\n")
    MetricsLog(tmp_path, 4).close()
    assert log.read_bytes() == b'{"step": 1, "loss": 2.0}\n'
    with pytest.raises(ValueError):  # which a report says in a line
        read_metrics([line.decode(errors="replace")])
