"""Figures of runs and sweeps: the numbers that are drawn, the files, and mistakes."""

import json

import jax
import numpy as np
import pytest

from tvconv_jax.recipes import face_config
from tvconv_jax.tasks import face
from tvconv_jax.tasks.run import restore_last
from tvconv_jax.training.maps import map_files, read_maps


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Eight steps of TVConv in the first stage, looked at after four and eight; its config and its workdir."""
    workdir = tmp_path_factory.mktemp("figures") / "run"
    config = face_config("smoke", model="mobilenetv2", width=0.1)
    config.train.eval_every = 1.0
    with jax.numpy_dtype_promotion("standard"):  # optax compares a step number with a float
        face.train(config, workdir)
    return config, workdir


def test_a_run_leaves_the_maps_of_every_evaluation_and_of_the_start(trained):
    config, workdir = trained
    files = map_files(workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    evaluated = [line["step"] for line in lines if "score" in line]
    assert len(evaluated) == 2 and list(files) == [0, *evaluated]
    assert files[0].name == "step_00000000.npz" and not list(workdir.rglob("*.part"))
    start, end = read_maps(files[0]), read_maps(files[evaluated[-1]])
    assert list(start) == list(end) == ["block_1/conv"]  # the one stage that :smoke gives to TVConv
    np.testing.assert_array_equal(start["block_1/conv"], np.ones((24, 24, 4), np.float32))
    saved = restore_last(face.FaceJob(config), workdir).params["model"]["block_1"]["conv"]["affinity"]
    np.testing.assert_array_equal(end["block_1/conv"], saved)
    assert np.std(saved) > 0
