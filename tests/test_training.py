"""Optimizer, checkpoints and the loop, on a model of two numbers."""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from tvconv_jax.tasks.configs import face_config
from tvconv_jax.tasks.parts import MIN_TIMED_STEPS, find_speed, plan_of
from tvconv_jax.tasks.run import run as start
from tvconv_jax.training import loop
from tvconv_jax.training.checkpoint import Checkpoints
from tvconv_jax.training.logging import MetricsLog
from tvconv_jax.training.mesh import check_batch_size, make_mesh
from tvconv_jax.training.optimizer import sgd, step_schedule
from tvconv_jax.training.state import create_state
from tvconv_jax.training.step import make_train_step
from tvconv_jax.utils.errors import Interrupted, TrainingError, UserError
from tvconv_jax.utils.files import write_json
from tvconv_jax.utils.progress import ProgressLine, Reporter


def test_sgd_is_pytorchs_with_decay_on_everything():
    optimizer = sgd(lambda _: 0.1, momentum=0.9, weight_decay=0.01)
    params = {"kernel": jnp.array([1.0, -2.0]), "scale": jnp.array([3.0])}
    state, expected, velocity = optimizer.init(params), jax.tree.map(np.array, params), None
    for step in range(4):
        grads = jax.tree.map(lambda p, step=step: jnp.cos(p + step), params)
        updates, state = optimizer.update(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        g = jax.tree.map(lambda p, step=step: np.cos(p + np.float32(step)) + np.float32(0.01) * p, expected)
        velocity = g if velocity is None else jax.tree.map(lambda v, g: np.float32(0.9) * v + g, velocity, g)
        expected = jax.tree.map(lambda p, v: p - np.float32(0.1) * v, expected, velocity)
        for name, value in expected.items():
            np.testing.assert_allclose(params[name], value, rtol=1e-6)


def test_the_rate_falls_at_each_milestone():
    schedule = step_schedule(0.1, milestones=(2, 3.5), factor=0.1, steps_per_epoch=10)
    rates = [float(schedule(step)) for step in (0, 19, 20, 34, 35, 99)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)
    both = step_schedule(0.1, milestones=(2, 2.04), factor=0.1, steps_per_epoch=10)  # they fall on one step
    np.testing.assert_allclose([float(both(19)), float(both(20))], [0.1, 0.001], rtol=1e-6)


def test_a_run_of_no_step_is_refused():
    config = face_config("epochs=0.1", model="mobilenetv2", width=0.1)
    with pytest.raises(UserError, match=r"optimizer.epochs 0.1 of 4 steps each are no step; take at least 0.25\."):
        plan_of(config, 4)


def test_what_ends_a_run_before_its_first_step_gives_the_terminal_back(tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(ProgressLine, "close", lambda line: closed.append(line))
    (tmp_path / "file").write_text("")
    plan = loop.Plan(total=1, log_every=1, checkpoint_every=1, eval_every=1)
    with pytest.raises(UserError, match="cannot be written"):
        start(SimpleNamespace(plan=lambda: plan, batch_size=4), tmp_path / "file")
    assert len(closed) == 1


def test_a_batch_that_devices_cannot_share_is_refused():
    mesh = make_mesh()
    check_batch_size("data.batch_size", 8 * mesh.shape["data"], mesh)
    with pytest.raises(UserError, match="data.batch_size 0 must be a positive multiple"):
        check_batch_size("data.batch_size", 0, mesh)


class Batches:
    """Numbers 0, 1, 2, ... in batches of four; one of them is bad."""

    def __init__(self, bad=None):
        self.at, self.bad = 0, bad

    def __next__(self):
        index = np.arange(4, dtype=np.int32) + 4 * self.at
        self.at += 1
        x = np.sin(index, dtype=np.float32)
        return {"x": np.where(index == self.bad, np.float32(np.nan), x), "index": index}

    def get_state(self):
        return {"at": self.at}

    def set_state(self, state):
        self.at = state["at"]


def run(workdir, *, total=12, bad=None, on_step=None, width=2, on_nonfinite="stop", scored=True, steep=-1, data=None):
    """A whole run in a workdir; returns its parameters and what was logged."""
    workdir.mkdir(exist_ok=True)
    mesh, optimizer = make_mesh(), sgd(lambda _: 0.1, momentum=0.9, weight_decay=0.01)
    state = create_state({"w": jnp.ones((width,))}, {"seen": jnp.zeros(())}, optimizer, 0, mesh)

    def loss(params, stats, batch, key):
        noise = jax.random.uniform(key)  # a resumed run draws the same
        # Of no slope but where the picture `steep` is: there it has none that is a number.
        corner = jnp.sqrt(jnp.where(jnp.any(batch["index"] == steep), 0 * params["w"][0], 1.0))
        value = corner - corner + jnp.mean(jnp.square(batch["x"] - jnp.sum(params["w"]))) + noise * params["w"][0]
        return value, ({"seen": stats["seen"] + 1}, {"noise": noise})

    batches = Batches(bad)

    def evaluate(state):
        if on_step:
            on_step(int(state.step))
        return {"score": float(-state.params["w"][0])} if scored else {}

    step = make_train_step(loss, optimizer, mesh, on_nonfinite=on_nonfinite)
    task = loop.Task(step, batches, evaluate, lambda i: f"picture {i}", data or {})
    plan = loop.Plan(total=total, log_every=1, checkpoint_every=3, eval_every=4)
    line = ProgressLine(total, 4)
    with Checkpoints(workdir) as checkpoints:
        state, progress = loop.resume(state, task, checkpoints)
        log = MetricsLog(workdir, int(state.step))
        try:
            state, progress = loop.fit(state, progress, task, plan, mesh, checkpoints, log, line)
        finally:
            log.close()
            line.close()
    return np.asarray(state.params["w"]), progress, logged(workdir)


def logged(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("images_per_second", None)  # the only number that may differ
    return lines


def test_a_run_in_two_parts_equals_one_in_one_piece(tmp_path):
    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", total=7)
    parts = run(tmp_path / "parts")
    np.testing.assert_array_equal(parts[0], whole[0])
    assert parts[1] == whole[1]
    # a first part of 7 steps ends with an evaluation of its own
    assert [line for line in parts[2] if line["step"] != 7] == [line for line in whole[2] if line["step"] != 7]


def test_tensorboard_is_given_the_numbers_without_pytorch(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tvconv_jax.training.logging import Events;"
        "events = Events(Path(sys.argv[1]), 5); events.write(5, 'loss', 2.5); events.close();"
        "assert not any(name.startswith('torch') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "tensorboard"], check=True)
    (file,) = (tmp_path / "tensorboard").iterdir()
    data, events = file.read_bytes(), []
    while data:  # length and its checksum, the event and its checksum
        length = int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    assert events[1].step == 5 and events[1].session_log.status == SessionLog.START
    assert [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value] == [(5, "loss", 2.5)]


def test_where_nothing_is_verified_the_newest_state_is_the_best(tmp_path):
    _, progress, lines = run(tmp_path, scored=False)
    assert progress.best == loop.Best(12, None) and all("loss" in line for line in lines)
    assert [path.name for path in (tmp_path / "checkpoints" / "best").glob("[0-9]*")] == ["12"]


def test_a_command_that_takes_few_steps_keeps_the_speed_that_was_measured(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr("tvconv_jax.utils.progress.time", SimpleNamespace(monotonic=lambda: now))
    line, results = ProgressLine(12, 4), tmp_path / "results.json"
    assert find_speed(line, results) is None
    results.write_text("{")
    with pytest.raises(UserError, match="results.json is damaged or cannot be read; remove it"):
        find_speed(line, results)
    write_json(results, {"images_per_second": 50.0})
    for step in range(1, MIN_TIMED_STEPS + 1):  # the first one starts the clock
        line.update(step, 1.0)
    assert find_speed(line, results) == 50.0
    line.update(MIN_TIMED_STEPS + 1, 1.0)
    now = 2.0
    assert find_speed(line, results) == MIN_TIMED_STEPS * 4 / 2
    line.close()


def test_without_a_terminal_a_run_says_where_it_is(capsys, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    reporter = Reporter(clock=lambda: clock.now, threaded=False)
    monkeypatch.setattr("tvconv_jax.utils.progress.time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr("tvconv_jax.utils.progress.reporter", reporter)

    def said(now):
        clock.now = now
        reporter.poll()
        return capsys.readouterr().out

    with closing(ProgressLine(100, 4)) as line:
        assert said(45) == "compiling the training step, 0:45 so far\n" and said(60) == ""
        line.update(1, 9.0)
        clock.now = 70
        line.update(11, 2.5)
        assert said(80) == "step 11/100  loss 2.500  0 images/s  29:40 left\n"
        for now in range(90, 111, 10):  # other lines do not replace it
            line.print("step 12 skipped")
            assert ("step 11/100" in said(now)) == (now == 110)
        line.update(100, 2.0)
        assert said(140) == "step 100/100  loss 2.000  0 images/s\n"
    assert said(999) == ""


def test_a_line_is_printed_as_it_is(capsys):
    with closing(ProgressLine(12, 4)) as line:
        line.print("/data/[casia]/img[a].jpg cannot be decoded")
    assert capsys.readouterr().out == "/data/[casia]/img[a].jpg cannot be decoded\n"


def test_lines_after_the_checkpoint_are_dropped_on_resume(tmp_path):
    run(tmp_path / "run", total=4)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 1.0}\n{"step": 6, "lo')  # a killed run got this far
    _, _, lines = run(tmp_path / "run")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGHUP, 75)])
def test_asked_to_stop_it_saves_and_goes_on_later(tmp_path, number, code):
    assert threading.current_thread() is threading.main_thread()

    def interrupt(step):
        if step == 4:
            os.kill(os.getpid(), number)

    before = signal.signal(number, signal.default_int_handler)  # not ignored, whatever started the tests
    try:
        with pytest.raises(Interrupted, match="after step 4 of 12, and saved; the same command goes on") as stopped:
            run(tmp_path / "run", on_step=interrupt)
    finally:
        signal.signal(number, before)
    assert stopped.value.code == code
    np.testing.assert_array_equal(run(tmp_path / "run")[0], run(tmp_path / "whole")[0])


def test_a_loss_that_is_not_finite_stops_with_step_and_names_and_keeps_what_was_saved(tmp_path):
    with pytest.raises(TrainingError, match=r"loss of step 9 is nan; its images: picture 32, picture 33, .*35\. Look"):
        run(tmp_path / "run", bad=34)
    with Checkpoints(tmp_path / "run") as checkpoints:
        optimizer = sgd(lambda _: 0.1, momentum=0.9, weight_decay=0.01)
        like = create_state({"w": jnp.ones((2,))}, {"seen": jnp.zeros(())}, optimizer, 0, make_mesh())
        state, _ = checkpoints.restore(like)
    assert int(state.step) == 8 and np.isfinite(state.params["w"]).all()


def test_parameters_that_are_not_finite_are_not_saved_though_the_loss_was(tmp_path):
    with pytest.raises(TrainingError, match="after step 6 parameters are not finite, and are not saved. Leave such"):
        run(tmp_path, steep=4 * 6 - 1)
    assert {path.name for path in (tmp_path / "checkpoints" / "last").glob("[0-9]*")} == {"3", "4"}


def test_a_run_goes_on_with_its_own_data_alone(tmp_path):
    run(tmp_path, total=4, data={"pictures": 9, "identities": 2})
    words = "the training data changed: 9 pictures, 2 identities when the run was stopped, 8 pictures, 2 identities now"
    with pytest.raises(UserError, match=words):
        run(tmp_path, data={"pictures": 8, "identities": 2})


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    run(tmp_path / "run", total=4)
    with pytest.raises(UserError, match=r"another model's: .* first .*saved \(2,\), wanted \(3,\)"):
        run(tmp_path / "run", width=3)
