"""Several processes as one run: their place, the same losses, resuming, stopping together, batches that do not come."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import train_together

from tvconv_jax.errors import UserError
from tvconv_jax.training.distributed import Place, find_place

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
        (("h:1", 2, 1), {}, Place("h:1", 2, 1)),
        ((None, None, 1), {"TVCONV_JAX_COORDINATOR": "h:1", "TVCONV_JAX_PROCESSES": "2"}, Place("h:1", 2, 1)),
        (("auto", None, None), {}, Place("auto")),
        ((None, None, None), SLURM, Place("auto")),
        ((None, 1, None), SLURM, None),  # tasks of a sweep, each a run of its own
        ((None, None, None), SLURM | {"SLURM_NTASKS": "1"}, None),
        ((None, None, None), {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, None),  # a batch script, not under srun
        ((None, None, None), {"TPU_WORKER_HOSTNAMES": "a,b"}, Place("auto")),
        ((None, None, None), {"TPU_WORKER_HOSTNAMES": "localhost"}, None),
    ],
)
def test_the_place_comes_from_flags_environment_or_cluster(flags, environment, expected):
    assert find_place(*flags, environment) == expected


@pytest.mark.parametrize(
    ("flags", "environment", "words"),
    [
        (("h:1", 2, None), {}, "--process=None: a run of several processes needs all three"),
        (("h:1", 2, 2), {}, "--process=2 must lie between 0 and --processes=2 less one"),
        ((None, 1, 1), {}, "needs all three"),
        (("h", 2, 0), {}, "--coordinator=h must be HOST:PORT of process 0"),
        (("h:1", None, 0), {"TVCONV_JAX_PROCESSES": "two"}, "TVCONV_JAX_PROCESSES=two must be a whole number"),
    ],
)
def test_a_place_that_cannot_be_is_one_line(flags, environment, words):
    with pytest.raises(UserError, match=re.escape(words)):
        find_place(*flags, environment)


def test_a_process_that_nobody_meets_ends_with_one_line():
    code = "from tvconv_jax.training.distributed import Place, connect; connect(Place('127.0.0.1:9', 2, 1), timeout=1)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "error: process 1 of 2 at 127.0.0.1:9: not all processes met within 1 s" in done.stderr


def together(number, *command, **environment):
    """Runs a command in as many processes, on four devices altogether at most."""
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
    """Twelve steps in this process, uninterrupted."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    assert train_together.train(workdir, total=12) == "done"
    lines = logged(workdir)
    assert lines[12, "pictures"] == 64
    return lines


def check_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose([ours[key] for key in theirs], list(theirs.values()), rtol=1e-5)


def test_two_processes_stop_together_and_one_goes_on(whole, tmp_path):
    done = together(2, ROOT / "tests/train_together.py", tmp_path / "run", 12, 4, LOGS=str(tmp_path))
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()[-1]
    step = int(re.search(r"process of 2: stopped after step (\d+) of 12, and saved", said)[1])
    assert 4 < step <= 7  # the last process was asked in step 4, and both know it two steps later
    assert train_together.train(tmp_path / "run", total=12) == "done"
    check_equal(logged(tmp_path / "run"), whole)


def test_one_process_begins_and_two_go_on(whole, tmp_path):
    assert "done" in train_together.train(tmp_path / "run", total=4)
    done = together(2, ROOT / "tests/train_together.py", tmp_path / "run", 12, 0)
    assert done.returncode == 0, done.stderr
    assert "process of 2: done" in done.stdout
    check_equal(logged(tmp_path / "run"), whole)
