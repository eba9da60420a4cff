"""Runs of the face task: with a tiny model, batches and losses recorded, for ``data.cache``; one that only began."""

import json

import jax
import numpy as np

from tests.stress.tortured import EMBEDDING_SIZE, Tiny
from tvconv_jax.tasks.configs import face_config
from tvconv_jax.tasks.face import FaceJob
from tvconv_jax.tasks.run import run
from tvconv_jax.training.checkpoint import Checkpoints


class Killed(Exception):
    """Ends a run in the middle of a step."""


class RecordedJob(FaceJob):
    """64 faces in batches of 24, so that an epoch has a remainder; three epochs of two steps."""

    def __init__(self, cache, *, kill_at=0, **changes):
        config = face_config("smoke,epochs=3", model="mobilenetv2", width=0.1)
        config.model.embedding_size, config.optimizer.learning_rate = EMBEDDING_SIZE, 0.01
        config.data.batch_size, config.train.checkpoint_every, config.data.cache = 24, 2, cache
        config.update_from_flattened_dict(changes)
        super().__init__(config)
        self.model, self.seen, self._kill_at = Tiny(), {}, kill_at

    def measure(self, _):
        return {}

    def task(self):
        task = super().task()

        def step(state, batch):
            number = int(state.step) + 1
            if number == self._kill_at:
                raise Killed
            self.seen[number] = jax.tree.map(np.asarray, batch)
            return task.train_step(state, batch)

        return task._replace(train_step=step)


def train(job, workdir):
    """Batches by step, and what was logged."""
    workdir.mkdir(exist_ok=True)
    with jax.numpy_dtype_promotion("standard"):  # optax compares a step number with a float
        try:
            run(job, workdir)
        except Killed:
            pass
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return job.seen, [{name: line[name] for name in line.keys() - {"images_per_second"}} for line in lines]


def assert_equal(found, expected):
    """Bit for bit."""
    assert found[1] == expected[1] and [line["step"] for line in found[1] if "loss" in line] == list(range(1, 7))
    for number, batch in found[0].items():
        assert batch.keys() == expected[0][number].keys() == {"image", "label", "index"}
        for name, values in batch.items():
            assert values.dtype == expected[0][number][name].dtype
            np.testing.assert_array_equal(values, expected[0][number][name], err_msg=f"{name}, step {number}")


def untrained(workdir):
    """Make a folder the workdir of a run, with a checkpoint of the state before the first step."""
    config = face_config("smoke", model="mobilenetv2", width=0.1)
    (workdir / "config.json").write_text(config.to_json())
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(FaceJob(config).init_state(), {"batches": {}, "best": {"step": 0, "score": 0.0}})
    return workdir
