"""The mesh: how it is asked for, and, in a process of its own, what runs on eight virtual devices."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from tvconv_jax.training.mesh import check_batch_size, eval_batch_size, make_mesh, norm_groups, norm_note
from tvconv_jax.utils.errors import UserError

HERE = Path(__file__).parent


def test_on_eight_devices():
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8"
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", str(HERE / "eight_devices.py")]
    result = subprocess.run(
        command, cwd=HERE.parent, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert "skipped" not in result.stdout


def test_one_device_is_a_mesh_of_one():
    mesh = make_mesh(devices=jax.devices()[:1])
    assert dict(mesh.shape) == {"data": 1, "model": 1}


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"data": 0}, "mesh.data 0 must be a positive number or -1; change it."),
        ({"model": -1}, "mesh.model -1 must be a positive number; change it."),
        ({"model": 3}, "mesh.model 3 does not divide the 1 devices; change it."),
        ({"data": 2, "model": 2}, "mesh.data 2 times mesh.model 2 is 4, but the number of devices is 1; set mesh.data"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(shape, words):
    with pytest.raises(UserError) as error:
        make_mesh(**shape, devices=jax.devices()[:1])
    assert words in str(error.value)


def test_parts_of_a_batch_must_fit_too():
    mesh = make_mesh(devices=jax.devices()[:1])
    check_batch_size("data.batch_size", 8, mesh, parts=4)
    with pytest.raises(
        UserError, match="8 must be a positive multiple of the 1 devices times the 3 parts of train.grad_acc"
    ):
        check_batch_size("data.batch_size", 8, mesh, parts=3)
    with pytest.raises(UserError, match="train.grad_accum_steps 0 must be a positive number"):
        check_batch_size("data.batch_size", 8, mesh, parts=0)


def test_evaluation_takes_any_batch_on_any_number_of_devices():
    mesh = jax.sharding.AbstractMesh((2, 4), ("data", "model"))
    assert [eval_batch_size(size, mesh) for size in (1, 8, 9, 200)] == [8, 8, 16, 200]
    with pytest.raises(UserError, match="eval.batch_size 0 must be a positive number"):
        eval_batch_size(0, mesh)


EIGHT = jax.sharding.AbstractMesh((8, 1), ("data", "model"))


@pytest.mark.parametrize(
    ("batch_size", "mesh", "cut", "words"),
    [
        (1, 1, {}, "data.batch_size 1 leaves batch norms 1 image"),
        (16, 1, {"parts": 16}, "16 in 16 parts of train.grad_accum_steps leaves"),
        (8, 8, {"batch_norm": "per_replica"}, "8 in 8 groups of train.batch_norm=per_replica leaves"),
        (16, 1, {"batch_norm": "16"}, "16 in 16 groups of train.batch_norm=16 leaves"),
        (16, 1, {"parts": 2, "batch_norm": 8}, "in 2 parts of train.grad_accum_steps in 8 groups of .* leaves"),
        (16, 1, {"batch_norm": "3"}, "16 in 3 groups of train.batch_norm=3 cannot be cut into equal groups"),
        (16, 1, {"batch_norm": "0"}, "train.batch_norm '0' is unknown; there are: global, per_replica, or a number"),
        (16, 1, {"batch_norm": "-2"}, "train.batch_norm '-2' is unknown"),
        (16, 1, {"batch_norm": "local"}, "train.batch_norm 'local' is unknown"),
    ],
)
def test_batch_norms_need_two_images_in_every_group(batch_size, mesh, cut, words):
    mesh = EIGHT if mesh == 8 else make_mesh(devices=jax.devices()[:1])
    with pytest.raises(UserError, match=words):
        check_batch_size("data.batch_size", batch_size, mesh, **cut)


def test_groups_of_batch_norms_are_a_number_on_any_mesh():
    one = make_mesh(devices=jax.devices()[:1])
    assert [norm_groups(how, one) for how in ("global", "per_replica", "8", 8)] == [1, 1, 8, 8]
    assert [norm_groups(how, EIGHT) for how in ("global", "per_replica", "8", 8)] == [1, 8, 8, 8]
    check_batch_size("data.batch_size", 16, EIGHT, batch_norm="per_replica")
    check_batch_size("data.batch_size", 2, one)
    assert "there is one device" in norm_note("per_replica", one)[0]
    assert norm_note("per_replica", EIGHT) == norm_note("8", one) == norm_note("global", one) == []
