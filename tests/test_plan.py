"""Plans of a training step: collectives of a compiled program, and the command as users call it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tvconv_jax.bench import virtual_devices
from tvconv_jax.bench.collectives import Collective, collectives
from tvconv_jax.bench.device_specs import KINDS
from tvconv_jax.bench.hlo import parse, shape_bytes
from tvconv_jax.bench.plan import Plan, make_plan
from tvconv_jax.bench.plan_text import warning
from tvconv_jax.bench.planned_job import generator_macs
from tvconv_jax.nn.layers import DepthwiseConv, TVConv
from tvconv_jax.tasks.configs import face_config, odoc_config
from tvconv_jax.utils.errors import UserError

ROOT = Path(__file__).parent.parent
CONFIG = "--config=configs/face_mixer.py:smoke"  # soon compiled

# On a mesh of 2 x 2: a gradient summed over `data` in a loop of three, `x` gathered over `model`, and a shift.
PROGRAM = """
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
def local(w, x):
    w = jax.lax.fori_loop(0, 3, lambda i, w: w - jax.lax.psum(w * i, "data"), w)
    x = jax.lax.all_gather(x, "model", axis=1, tiled=True)
    part = jax.lax.psum_scatter(x, "data", tiled=True)
    return w, part, jax.lax.ppermute(x, "data", [(0, 1), (1, 0)])
specs = (P(), P("data", "model"))
step = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=(P(), P("data"), P("data")), check_vma=False)
shapes = jax.ShapeDtypeStruct((16,), jnp.float32), jax.ShapeDtypeStruct((8, 6), jnp.float32)
print(jax.jit(step).lower(*shapes).compile().as_text())
"""


def run(*arguments, **environment):
    env = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, env=env | environment, capture_output=True, text=True
    )


def plan(*arguments):
    return run("-m", "tvconv_jax.main", "--mode=plan", *arguments)


def test_collectives_of_a_compiled_program():
    flags = "--xla_force_host_platform_device_count=4"
    done = run("-c", PROGRAM, XLA_FLAGS=flags, JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr
    found = {one.kind: one for one in collectives(parse(done.stdout))}
    # A device holds 16 numbers of w, and of x 4 x 3, which become 4 x 6, of which it keeps 2 x 6.
    assert found == {
        "all-reduce": Collective("all-reduce", size=16 * 4, group=2, times=3),
        "all-gather": Collective("all-gather", size=4 * 6 * 4, group=2, times=1),
        "reduce-scatter": Collective("reduce-scatter", size=2 * 6 * 4, group=2, times=1),
        "collective-permute": Collective("collective-permute", size=4 * 6 * 4, group=4, times=1),
    }
    # Two devices that sum 64 bytes: each sends half and gets a half, sends a sum and gets a sum; three times.
    assert found["all-reduce"].sent == 3 * (32 + 32)
    assert [found[kind].sent for kind in ("all-gather", "reduce-scatter", "collective-permute")] == [48, 48, 96]


@pytest.mark.parametrize(
    ("groups", "devices"),
    [
        ("{{0,2,4,6},{1,3,5,7}}", 4),
        ("[4,2]<=[8]", 2),
        ("[2,4]<=[4,2]T(1,0)", 4),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_1'}", 2),
        ("mesh['a'=2,'b'=1,'c'=4], device_ids=([4,2]T(1,0)) {'a','c'}", 8),
        ("{}", 8),
    ],
)
def test_groups_of_devices_as_xla_writes_them(groups, devices):
    head = "HloModule m, num_partitions=8\nENTRY %main (p: f32[2]) -> f32[2] {\n"
    (one,) = collectives(
        parse(f"{head}  %r = (f32[2]{{0}}, bf16[4,2]) all-reduce(%p), replica_groups={groups}, x=1\n}}")
    )
    assert one == Collective("all-reduce", 8 + 16, devices, 1)
    with pytest.raises(ValueError, match="an unknown way"):
        collectives(parse(f"{head}  %r = f32[2] all-reduce(%p), replica_groups=?\n}}"))


def test_bytes_of_shapes():
    assert shape_bytes("(f32[8,4]{1,0}, pred[3], s64[], u8[0], bf16[5]{0})") == 8 * 4 * 4 + 3 + 8 + 0 + 10


def test_generators_are_counted_as_their_products():
    # 24 x 24 positions of 3 channels: 4 maps to 8, 8 to 8, 8 to 9 taps of 3 channels, each over 3 x 3 neighbors.
    assert generator_macs(TVConv(hidden_channels=8, hidden_layers=1), 24) == 24 * 24 * 9 * (4 * 8 + 8 * 8 + 8 * 27)
    assert generator_macs(TVConv(hidden_channels=8, hidden_layers=1), (24, 10)) == 24 * 10 * 9 * (32 + 64 + 8 * 27)
    assert generator_macs(DepthwiseConv(), 24) == 0


def example(**fields):
    usual = {
        "kind": KINDS["h100"],
        "mesh": {"data": 2, "model": 4},
        "batch_size": 64,
        "identities": 100,
        "parameters": {"model": 10},
        "parameter_bytes": 40,
        "optimizer_bytes": 40,
        "batch_bytes": 10,
        "activation_bytes": 1000,
        "flops": 494e9,
        "counted_flops": 1.0,
        "generator_flops": 0.0,
        "float32_share": 1.0,
        "accessed_bytes": 335e6,
        "traffic": [Collective("all-reduce", 45_000_000, 2, 1)],
    }
    return Plan(**usual | fields)


def test_the_slowest_bounds_images_per_second():
    plan = example()
    np.testing.assert_allclose([plan.seconds[name] for name in ("compute", "memory", "links")], [1e-3, 1e-4, 1e-4])
    assert plan.memory == 1090 and plan.fits
    np.testing.assert_allclose(plan.images_per_second, 64 / 1e-3)
    half = example(float32_share=0.5).seconds["compute"]  # the other half twice as fast in bfloat16
    np.testing.assert_allclose(half, 494e9 * (0.5 / 494e12 + 0.5 / 989e12))
    np.testing.assert_allclose(example(mesh={"data": 16, "model": 1}).seconds["links"], 9e-4)  # beyond a machine
    assert example(accessed_bytes=335e9).images_per_second == 64 / 0.1  # read and written many times
    np.testing.assert_allclose(example(accessed_bytes=335e9).images_per_second_at_best, 64 / 1e-3)
    np.testing.assert_allclose(example(accessed_bytes=10.0, flops=0).images_per_second_at_best, 64 / 1e-4)
    np.testing.assert_allclose(example(counted_flops=988e9).images_per_second, 64 / 2e-3)


def test_a_plan_that_does_not_fit_says_what_to_do():
    assert "80 GB; most of it are parameters and optimizer: shard the head" in warning(example(parameter_bytes=10**11))
    assert "a smaller data.batch_size" in warning(example(activation_bytes=10**11))
    assert not example(activation_bytes=10**11).fits


def test_plans_of_one_and_of_four_devices(tmp_path):
    """Two million identities: 4 GB of class weights, as much momentum, as much gradient."""
    plans = []
    for devices, kind in ((1, "tpu-v5e"), (4, "h100")):
        workdir = tmp_path / str(devices)
        done = plan(CONFIG, f"--devices={devices}", f"--kind={kind}", "--identities=2000000", f"--workdir={workdir}")
        assert done.returncode == 0, done.stderr
        assert f"{devices} x {KINDS[kind].name}" in done.stdout and "images/s at best" in done.stdout
        assert "fuses other operations" in done.stdout
        assert ("warning: does not fit" in done.stdout) == (kind == "tpu-v5e")  # 16 GB
        assert [path.name for path in workdir.iterdir()] == ["plan.json"]
        plans.append(json.loads((workdir / "plan.json").read_text()))
    one, four = plans
    assert one["parameters"]["class_weights"] == 512 * 2_000_000 and one["parameters"] == four["parameters"]
    assert one["optimizer_bytes"] == one["parameter_bytes"] + 4  # momentum, and the schedule's count of steps
    assert one["sent"] == 0 and not one["traffic"] and not one["fits"] and four["fits"]
    # Each gradient is summed among the four, and little else: batch statistics, the loss.
    gradients = 2 * 3 / 4 * four["parameter_bytes"]
    assert gradients <= four["sent"] < 1.1 * gradients
    assert four["counted_flops"] == one["counted_flops"] / 4  # depthwise: nothing is done on every device
    assert four["flops"] < one["flops"] / 2 and four["activation_bytes"] <= one["activation_bytes"]


def test_a_mesh_that_does_not_divide_is_one_line():
    done = plan(CONFIG, "--devices=3")
    assert done.returncode == 2
    assert done.stderr == "error: data.batch_size 16 must be a positive multiple of the 3 devices; change it.\n"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "tpu-v9"}, "--device-kind=tpu-v9 is unknown; there are: tpu-v5e, tpu-v5p"),
        ({"identities": 1}, "--identities=1 must be 2 at least, and at most"),
        ({"identities": 10**20}, "--identities=100000000000000000000 must be 2 at least, and at most 1000000000."),
        (
            {"config": odoc_config(None)},
            "--mode=plan knows configs of the tasks face, verification, classification, segmentation; "
            "this one is of odoc",
        ),
    ],
)
def test_what_cannot_be_planned(fields, words):
    config = face_config("smoke", model="mobilenetv2", width=0.1)
    with pytest.raises(UserError) as error:
        make_plan(**{"config": config, "kind": "h100", "identities": 100} | fields)
    assert words in str(error.value)


def test_the_process_starts_again_with_the_devices(monkeypatch):
    started = []
    monkeypatch.setattr(os, "execve", lambda program, arguments, environment: started.append((arguments, environment)))
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2 --xla_dump_to=x")
    virtual_devices.ensure(8, ["-m", "this"])
    ((arguments, environment),) = started
    assert arguments == [sys.executable, "-m", "this"] and environment["JAX_PLATFORMS"] == "cpu"
    assert environment["XLA_FLAGS"].split() == ["--xla_dump_to=x", virtual_devices.QUICK, f"{virtual_devices.COUNT}=8"]
    monkeypatch.setenv("XLA_FLAGS", environment["XLA_FLAGS"])
    virtual_devices.ensure(8, ["-m", "this"])  # it has them now
    assert len(started) == 1
    with pytest.raises(UserError, match="--devices=0 must be between 1 and 4096."):
        virtual_devices.ensure(0, [])
