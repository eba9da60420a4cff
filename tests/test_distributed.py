"""Several processes as one run: their place, the same losses, resuming, stopping together, batches that do not come."""

import errno
import fcntl
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import train_together

from tvconv_jax.data.cache import cache_dir
from tvconv_jax.data.pipeline import train_batches
from tvconv_jax.data.records import one_writer
from tvconv_jax.data.synthetic import embedded
from tvconv_jax.data.workers import WatchedBatches
from tvconv_jax.training.distributed import ProcessInfo, find_process
from tvconv_jax.utils.errors import TrainingError, UserError
from tvconv_jax.utils.storage import locked

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "launch" / "local_processes.sh"
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
}


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        ((None, None, None), {}, None),
        (("h:1", 2, 1), {}, ProcessInfo("h:1", 2, 1)),
        ((None, None, 1), {"TVCONV_JAX_COORDINATOR": "h:1", "TVCONV_JAX_PROCESSES": "2"}, ProcessInfo("h:1", 2, 1)),
        (("auto", None, None), {}, ProcessInfo("auto")),
        ((None, None, None), SLURM, ProcessInfo("auto")),
        ((None, 1, None), SLURM, None),  # tasks of a sweep, each a run of its own
        ((None, None, None), SLURM | {"SLURM_NTASKS": "1"}, None),
        ((None, None, None), {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, None),  # a batch script, not under srun
        ((None, None, None), {"TPU_WORKER_HOSTNAMES": "a,b"}, ProcessInfo("auto")),
        ((None, None, None), {"TPU_WORKER_HOSTNAMES": "localhost"}, None),
    ],
)
def test_the_place_comes_from_flags_environment_or_cluster(flags, environment, expected):
    assert find_process(*flags, environment) == expected


@pytest.mark.parametrize(
    ("flags", "environment", "words"),
    [
        (("h:1", 2, None), {}, "--process=None: a run of several processes needs all three"),
        (("h:1", 2, 2), {}, "--process=2 must lie between 0 and --processes=2 less one"),
        ((None, 1, 1), {}, "needs all three"),
        (("h", 2, 0), {}, "--coordinator=h must be HOST:PORT of process 0"),
        (("h:1", None, 0), {"TVCONV_JAX_PROCESSES": "two"}, "TVCONV_JAX_PROCESSES=two must be a whole number"),
        ((None, None, None), {"TVCONV_JAX_PROCESSES": "²"}, "TVCONV_JAX_PROCESSES=² must be a whole number"),
        (("h:²", 2, 0), {}, "--coordinator=h:² must be HOST:PORT of process 0"),
        ((None, None, None), {**SLURM, "SLURM_NTASKS": "4(x2)"}, "SLURM_NTASKS=4(x2) must be a whole number"),
    ],
)
def test_a_place_that_cannot_be_is_one_line(flags, environment, words):
    with pytest.raises(UserError, match=re.escape(words)):
        find_process(*flags, environment)


def test_a_process_that_nobody_meets_ends_with_one_line():
    code = "from tvconv_jax.training.distributed import *; connect(ProcessInfo('127.0.0.1:9', 2, 1), timeout=1)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "error: process 1 of 2 at 127.0.0.1:9: not all processes met within 1 s" in done.stderr


def together(number, *command, **environment):
    """Runs a command in as many processes."""
    return subprocess.run(
        [SCRIPT, str(number), "--", sys.executable, *map(str, command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )


def logged(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {(line["step"], name): v for line in lines for name, v in line.items() if name != "images_per_second"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Twenty steps in this process, uninterrupted."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    assert train_together.train(workdir, total=20) == "done"
    lines = logged(workdir)
    assert lines[20, "pictures"] == 64 and lines[20, "loss"] < 0.9 * lines[1, "loss"]
    return lines


def check_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for (step, name), value in theirs.items():
        # Sums in another order, of twenty steps; the score is a sum of terms of both signs.
        np.testing.assert_allclose(ours[step, name], value, rtol=5e-4 if name == "score" else 5e-5, err_msg=f"{step}")


PROGRAM_OF_LAYERS = ROOT / "tests" / "train_together.py"


def test_two_processes_stop_together_and_one_goes_on(whole, tmp_path):
    done = together(2, PROGRAM_OF_LAYERS, tmp_path / "run", 20, 10, 1)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()[-1]
    step = int(re.search(r"process of 2: stopped after step (\d+) of 20, and saved", said)[1])
    assert 10 < step <= 12  # the last process was asked in step 10; both know it two steps later
    assert train_together.train(tmp_path / "run", total=20) == "done"
    check_equal(logged(tmp_path / "run"), whole)


def test_one_process_begins_and_two_go_on_with_the_classes_cut_in_two(whole, tmp_path):
    assert train_together.train(tmp_path / "run", total=5) == "done"
    done = together(2, PROGRAM_OF_LAYERS, tmp_path / "run", 20, 0, 2)
    assert done.returncode == 0, done.stderr
    assert "process of 2: done" in done.stdout
    check_equal(logged(tmp_path / "run"), whole)


def test_processes_take_the_pipelines_batches_from_their_devices_and_decode_their_own_shares():
    done = together(2, ROOT / "tests" / "take_together.py")
    assert done.returncode == 0, done.stderr
    assert "process of 2: equal, 31 images decoded" in done.stdout  # half of 61 and one of padding


def test_records_are_written_by_one_process_at_a_time(tmp_path):
    order, path = [], tmp_path / "cache" / "records"

    def other():
        with one_writer(path):
            order.append("other")

    with one_writer(path):
        waiting = threading.Thread(target=other)
        waiting.start()
        waiting.join(0.2)
        order.append("first")
    waiting.join()
    assert order == ["first", "other"]
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_keeps_nobody_from_writing(tmp_path, monkeypatch, number):
    def no_locks(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with one_writer(tmp_path / "records"):
        pass
    said = []
    with locked(tmp_path / "run", said.append):
        assert said == [f"{tmp_path / 'run'} is on a file system without locks: nothing keeps a second run out of it."]


class Broken:
    """Batches of a source whose disk does not answer, or that cannot be decoded."""

    def __init__(self, error=None):
        self.error = error

    def __next__(self):
        if self.error:
            raise self.error
        threading.Event().wait()


def test_a_batch_that_does_not_come_is_noticed_and_errors_pass():
    with pytest.raises(TrainingError, match=r"no batch came from faces on a disk within 0.05 s; .*data.timeout"):
        next(WatchedBatches(Broken(), timeout=0.05, source="faces on a disk"))
    with pytest.raises(UserError, match="picture 7"):
        next(WatchedBatches(Broken(UserError("picture 7 cannot be decoded")), timeout=0, source="faces"))


def test_a_data_worker_that_hangs_or_dies_is_one_clear_line():
    source, _, _ = embedded.load("smoke", cache_dir())
    batches = train_batches(source, batch_size=8, image_size=24, seed=0, workers=1)
    watched = WatchedBatches(batches, timeout=60.0, source="the faces")
    assert next(watched)["index"].shape == (8,)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGSTOP)
    watched.timeout = 0.5
    with pytest.raises(TrainingError, match="no batch came from the faces within 0.5 s"):
        for _ in range(1000):  # those that it had ready come first
            next(watched)
    # By now it was killed, lest it hold up the end of this process.
    watched.timeout = 60.0
    with pytest.raises(
        TrainingError, match=r"worker that reads the faces died \(exit code -9; .*data.workers need a new --workdir"
    ):
        next(watched)


def test_local_processes_dry_run_only_prints(tmp_path):
    done = subprocess.run(
        [SCRIPT, "2", "--dry-run", "--", "python", "-m", "x", f"--workdir={tmp_path}/a b"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    place = r"JAX_PLATFORMS=cpu TVCONV_JAX_COORDINATOR=127\.0\.0\.1:\d+ TVCONV_JAX_PROCESSES=2 TVCONV_JAX_PROCESS="
    command = re.escape(f"python -m x --workdir={tmp_path}/a\\ b")
    assert re.fullmatch(rf"{place}0 {command} &", first)
    assert re.fullmatch(rf"{place}1 {command} >{tmp_path}/a b/processes/1.txt 2>&1 &", second)
    assert not list(tmp_path.iterdir())


# In the place of training: fails in process 1, or waits to be asked to stop.
PROGRAM = """
import os, signal, sys, time
i = os.environ["TVCONV_JAX_PROCESS"]
print("process", i, "of", os.environ["TVCONV_JAX_PROCESSES"], flush=True)
if sys.argv[1] == "fail" and i == "1":
    while not os.path.exists(f"{sys.argv[2]}/2"):  # until the other one has said its line too
        time.sleep(0.01)
    sys.exit(7)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
signal.signal(signal.SIGHUP, lambda *_: sys.exit(75))
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
open(f"{sys.argv[2]}/{i}", "w").close()
time.sleep(60)
"""


# Tests that run in the background ignore Ctrl-C, and a shell cannot trap what was ignored before it.
HEARING = "import os, signal as s, sys; [s.signal(n, s.SIG_DFL) for n in (1, 2)]; os.execv(sys.argv[1], sys.argv[1:])"


def test_local_processes_ends_all_if_one_fails_with_its_code(tmp_path):
    done = together(3, "-c", PROGRAM, "fail", tmp_path, f"--workdir={tmp_path}")
    assert done.returncode == 7
    assert done.stdout == "process 0 of 3\n"
    assert f"process 1 ended with exit code 7, see {tmp_path}/processes/1.txt: process 1 of 3" in done.stderr
    assert (tmp_path / "processes" / "2.txt").read_text() == "process 2 of 3\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGHUP, 75)])
def test_local_processes_hands_a_signal_to_all(tmp_path, number, code):
    command = [sys.executable, "-c", HEARING, SCRIPT, "2", "--", sys.executable, "-c", PROGRAM, "wait", tmp_path]
    script = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    script.send_signal(number)
    assert script.wait(30) == code


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "N is ''"),
        (["2"], "no command"),
        (["x", "--"], "N is 'x'"),
        (["2", "3", "--", "x"], "3 is one word too many"),
        (["2", "--fast"], "--fast is unknown"),
    ],
)
def test_local_processes_mistakes_are_one_line(arguments, words):
    done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and words in done.stderr
