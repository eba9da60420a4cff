"""Threads and processes of ours end: with what opened them, and with the process that started them."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from tvconv_jax.data import fundus_batches, workers
from tvconv_jax.data.cache import cache_dir
from tvconv_jax.data.pipeline import train_batches
from tvconv_jax.data.synthetic import embedded
from tvconv_jax.data.workers import WatchedBatches
from tvconv_jax.tasks import trained
from tvconv_jax.tasks.configs import face_config
from tvconv_jax.tasks.run import run
from tvconv_jax.training import loop
from tvconv_jax.utils.errors import Interrupted, TrainingError, UserError
from tvconv_jax.utils.tether import tethered

ROOT = Path(__file__).parent.parent
SIZES = {"batch_size": 8, "image_size": 24, "seed": 0}


def opened(number, timeout=60.0):
    source, _, _ = embedded.load("smoke", cache_dir())
    return WatchedBatches(train_batches(source, **SIZES, workers=number), timeout=timeout, source="the faces")


def soon(what):
    """Whether something becomes true before long; a thread that was told to end takes a moment."""
    deadline = time.monotonic() + 10
    while not what() and time.monotonic() < deadline:
        time.sleep(0.01)
    return what()


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def shared(pid):
    """Files of shared memory that a process has before it."""
    words = Path(f"/proc/{pid}/maps").read_text().split()
    return {Path(word) for word in words if word.startswith("/dev/shm/")}


def test_ten_pipelines_that_were_closed_leave_no_thread():
    before = threading.active_count()
    for _ in range(10):
        with opened(0) as batches:
            assert next(batches)["index"].shape == (8,)
        assert soon(lambda: threading.active_count() <= before)
    with pytest.raises(ValueError, match="the batches of the faces are closed"):
        next(batches)
    batches.close()  # once more does nothing


def test_a_pipeline_that_was_forgotten_ends_too():
    before = threading.active_count()
    next(opened(0))
    assert soon(lambda: threading.active_count() <= before)


def test_a_closed_pipeline_ends_its_workers_alone_even_one_that_hangs(monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE", 0.5)
    with opened(1) as other:
        next(other)
        (busy,) = multiprocessing.active_children()
        with opened(1) as batches:
            next(batches)
            (worker,) = set(multiprocessing.active_children()) - {busy}
            os.kill(worker.pid, signal.SIGSTOP)
        assert soon(lambda: not worker.is_alive()) and worker.exitcode == -signal.SIGKILL
        for number in workers.STOP_SIGNALS:  # as they reach a whole group; what is being trained still gets its batches
            os.kill(busy.pid, number)
        before = other.get_state()
        for _ in range(6):
            next(other)
        assert other.get_state() != before
    assert soon(lambda: not multiprocessing.active_children())


class Closing(list):
    """In the place of batches; holds whether they were closed."""

    def close(self):
        self.append("closed")

    def __iter__(self):
        return iter([{"image": "one"}, {"image": "two"}])


class Job:
    config, mesh, batch_size, notes = face_config("smoke", model="mobilenetv2", width=0.1), None, 8, []

    def __init__(self, error=None):
        self.error, self.batches = error, Closing()

    def plan(self):
        return loop.Plan(1, 1, 1, 1)

    def task(self):
        return loop.Task(None, self.batches, None, None)

    def init_state(self):
        raise self.error


@pytest.mark.parametrize(
    "error", [UserError("broken"), TrainingError("nan"), Interrupted("asked"), KeyboardInterrupt()]
)
def test_a_run_closes_its_batches_however_it_ends(tmp_path, error):
    job = Job(error)
    with pytest.raises(type(error)):
        run(job, tmp_path)
    assert job.batches == ["closed"]


def test_an_export_closes_the_training_images():
    job = Job()
    with closing(trained.training_images(job)) as pictures:
        assert next(pictures) == "one" and job.batches == []
    assert job.batches == ["closed"]


PARENT = """
import multiprocessing, time
if __name__ == "__main__":
    from tvconv_jax.data import pipeline, workers
    from tvconv_jax.data.cache import cache_dir
    from tvconv_jax.data.synthetic import embedded
    source, _, _ = embedded.load("smoke", cache_dir())
    batches = pipeline.train_batches(source, batch_size=8, image_size=24, seed=0, workers=1)
    batches = workers.WatchedBatches(batches, timeout=60.0, source="the faces")
    next(batches)
    (worker,) = multiprocessing.active_children()
    print("worker", worker.pid, flush=True)
    time.sleep(60)
"""


def test_a_killed_parent_leaves_no_worker_and_no_shared_memory(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    command, environment = [sys.executable, tmp_path / "parent.py"], {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    said = next(line for line in parent.stdout if line.startswith(b"worker "))  # after a word on what is drawn
    worker = int(said.split()[1])
    assert alive(worker)
    files = shared(parent.pid) | shared(worker)
    assert any(file.exists() for file in files)
    os.kill(worker, signal.SIGSTOP)  # even one that does nothing any more
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert soon(lambda: not alive(worker))
    assert soon(lambda: not any(file.exists() for file in files))  # multiprocessing's helper ends last, and cleans up


def test_a_child_on_a_tether_ends_with_its_parent():
    sleep = [sys.executable, "-IS", str(ROOT / "tvconv_jax" / "utils" / "tether.py")]
    code = f"import os, subprocess, time; c = {sleep!r} + [str(os.getpid()), '', 'sleep', '60']; "
    code += "print(subprocess.Popen(c).pid, flush=True); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-ISc", code], stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    assert soon(lambda: command_of(child)[:1] == [b"sleep"])
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert soon(lambda: not alive(child))
    orphan = subprocess.run([*sleep, "1", "", "echo", "began"], capture_output=True, text=True)
    assert orphan.returncode == 1 and "the parent ended before its child began" in orphan.stderr + orphan.stdout
    missing = subprocess.run(tethered(["no-such-program"]), capture_output=True, text=True)
    assert missing.returncode == 1 and missing.stderr == "error: no-such-program: No such file or directory\n"


def test_shared_memory_that_is_too_small_is_reported_before_the_first_step(monkeypatch):
    """Docker gives a container 64 MB; two workers, each with four batches of 14 MB, need twice that."""
    source, _, _ = embedded.load("smoke", cache_dir())
    monkeypatch.setattr(workers, "free_shared_memory", lambda: 2**16)
    words = r"data.workers=1 need \d+,\d+ bytes of shared memory for batches of 13,888 bytes, and /dev/shm has 65,536 b"
    with pytest.raises(UserError, match=words + r".*--shm-size=2g.*--config.data.workers=0 or a smaller batch"):
        train_batches(source, **SIZES, workers=1)
    with pytest.raises(UserError, match=r"data.workers=3 need .* for batches of 9,232 bytes"):
        fundus_batches.train_batches({1: source, 2: source}, per_domain=2, image_size=24, seed=0, workers=3)
    train_batches(source, **SIZES, workers=0).close()
    monkeypatch.setattr(workers, "free_shared_memory", lambda: None)
    train_batches(source, **SIZES, workers=1).close()


class Broken:
    def __init__(self, error):
        self.error = error

    def __next__(self):
        raise self.error

    set_state = get_state = lambda self, *_: next(self)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/psm_1234"), "is full"),
        (RuntimeError("Worker process was terminated unexpectedly with exit code -7. Search the logs."), "is full"),
        (OSError(errno.EROFS, "Read-only file system"), "cannot be used: Read-only file system"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "cannot be used: No such file or directory"),
    ],
)
def test_shared_memory_that_is_full_is_named_and_not_the_disk(error, words):
    with WatchedBatches(Broken(error), timeout=0, source="faces") as batches:
        for use in (lambda: next(batches), batches.get_state, lambda: batches.set_state({})):
            with pytest.raises(TrainingError, match=rf"^shared memory, .* {words} \(/dev/shm has .*--shm-size"):
                use()


def test_workers_that_may_open_no_more_files_say_so():
    error = OSError(errno.EMFILE, "Too many open files", "/psm_1234")
    with WatchedBatches(Broken(error), timeout=0, source="faces") as batches:
        with pytest.raises(TrainingError, match="^too many open files for the data workers; raise 'ulimit -n', or "):
            next(batches)


def test_a_file_that_cannot_be_read_is_not_taken_for_shared_memory():
    for error in (FileNotFoundError(errno.ENOENT, "No such file", "a.jpg"), OSError(errno.EIO, "Input/output error")):
        with WatchedBatches(Broken(error), timeout=0, source="faces") as batches:
            with pytest.raises(OSError) as found:
                next(batches)
            assert found.value is error


def test_a_killed_launcher_takes_its_processes_along(tmp_path):
    script = [ROOT / "launch" / "local_processes.sh", "2", "--", "sleep", "60"]
    launcher = subprocess.Popen(script, env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.DEVNULL)

    def children():
        pids = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        return [pid for pid in pids if command_of(pid)[:2] == [b"sleep", b"60"]]

    assert soon(lambda: len(children()) == 2)
    pids = children()
    launcher.kill()
    launcher.wait()
    assert soon(lambda: not any(map(alive, pids)))
