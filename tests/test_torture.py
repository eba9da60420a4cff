"""The stress test of checkpoints: its verdict on made-up runs, and its short form on a real one."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stress.torture import checkpoint_errors, images, verdict
from tvconv_jax.training import checkpoint_files

ROOT = Path(__file__).parent.parent
STEPS = 8  # two epochs of four steps


def lines(steps):
    """The trace of a process that loads all images: step 1 has 0 to 15, step 2 has 16 to 31, ..."""
    return [{"step": step, "index": list(range((step - 1) % 4 * 16, (step - 1) % 4 * 16 + 16))} for step in steps]


CURVE = {step: 10.0 / step for step in range(1, STEPS + 1)}
WHOLE = images([[lines(range(1, STEPS + 1))]])


def judged(*, curve=CURVE, seen=WHOLE):
    return {name: value for name, value in verdict(CURVE, curve, WHOLE, seen, STEPS).items() if value}


def test_the_last_round_that_took_a_step_counts_and_processes_share_it():
    halves = [[{**line, "index": line["index"][part::2]} for line in lines(range(3, 9))] for part in (0, 1)]
    damaged = [{"step": 3, "index": [0] * 16}]  # this round died before it could save
    assert images([[lines([1, 2]) + damaged], halves]) == WHOLE
    assert judged(seen=images([[lines([1, 2]) + damaged], halves])) == {}


def test_the_judge_takes_a_loss_that_is_not_a_number_for_another_loss():
    found = verdict(CURVE, {**CURVE, 3: math.nan}, WHOLE, WHOLE, STEPS)
    assert found["losses_that_differ"] == 1 and math.isnan(found["largest_difference"])


def test_the_judge_finds_a_lost_image_one_seen_twice_another_loss_and_a_missing_step():
    assert judged(seen={**WHOLE, 2: [0, *WHOLE[2][1:]]}) == {
        "steps_with_other_images": 1,
        "images_seen_twice": 1,
        "images_lost": 1,
    }
    other = judged(curve={**CURVE, 5: CURVE[5] * 1.001})
    assert other == {"largest_difference": pytest.approx(1e-3), "losses_that_differ": 1}
    assert judged(curve={step: loss for step, loss in CURVE.items() if step != 7}) == {"steps_missing": 1}


def test_the_judge_finds_a_damaged_checkpoint(tmp_path):
    for item in ("state", "data"):
        folder = tmp_path / "last" / "6" / item
        folder.mkdir(parents=True)
        (folder / "numbers").write_bytes(b"123")
        checkpoint_files.write_checksums(folder)
    assert checkpoint_errors(tmp_path) == []
    (folder / "numbers").write_bytes(b"124")
    assert checkpoint_errors(tmp_path) == ["step 6, data: data/numbers was changed"]


def test_the_short_form_of_the_torture_is_survived(tmp_path):
    command = [
        sys.executable,
        "-m",
        "tests.stress.torture",
        "--rounds=3",
        "--processes=2",
        f"--out={tmp_path / 't'}",
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads((tmp_path / "t" / "torture.json").read_text())
    assert found["passed"] and found["kills"] == {"SIGKILL": 2, "SIGTERM": 1}
    assert [(one["processes"], one["devices"]) for one in found["rounds"]] == [(1, 1), (2, 2), (2, 4), (1, 1)]
