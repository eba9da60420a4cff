"""Programs of a GPU or TPU that is described: parsing, kernels and bytes by part, plugins, the tables of plans."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tvconv_jax.bench import gpu_program, plan, plan_runs, plan_table, plan_text, targets
from tvconv_jax.bench.collectives import Collective, collectives
from tvconv_jax.bench.device_specs import KINDS
from tvconv_jax.bench.hlo import memory_bytes, parse, tuple_elements
from tvconv_jax.bench.kernels import PartTotal, by_part, kernels, part_of
from tvconv_jax.bench.plan import Plan
from tvconv_jax.bench.plan_page import MARKS, page, put_summary
from tvconv_jax.bench.plan_runs import Row
from tvconv_jax.utils.errors import UserError

ROOT = Path(__file__).parent.parent

# As XLA writes a program for a GPU: a loop of three, fusions, calls of libraries, collectives that start and end.
GPU = """
HloModule jit_step, is_scheduled=true, num_partitions=4

%fused_add (p: f32[8,4]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %add.9 = f32[8,4]{1,0} add(%p, %p), metadata={op_name="jit(step)/jvp(MobileNetV2)/block_1/norm/add"}
}

%body (t: (f32[8,4], s32[])) -> (f32[8,4], s32[]) {
  %t = (f32[8,4]{1,0}, s32[]) parameter(0)
  %x = f32[8,4]{1,0} get-tuple-element(%t), index=0
  %y = f32[8,4]{1,0} fusion(%x), kind=kLoop, calls=%fused_add
  ROOT %out = (f32[8,4]{1,0}, s32[]) tuple(%y, %i)
}

%condition (t: (f32[8,4], s32[])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main.1 (a: f32[8,4], b: bf16[4,2]) -> f32[8,4] {
  %a = f32[8,4]{1,0} parameter(0)
  %b = bf16[4,2]{1,0} parameter(1), metadata={op_name="state.params"}
  %init = (f32[8,4]{1,0}, s32[]) tuple(%a, %zero)
  %loop = (f32[8,4]{1,0}, s32[]) while(%init), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  %z = f32[8,4]{1,0} get-tuple-element(%loop), index=0
  %dot = (f32[8,2]{1,0}, s8[16]{0}) custom-call(%z, %b, /*index=2*/%z), custom_call_target="__cublas", \
metadata={op_name="jit(step)/transpose(jvp(MobileNetV2))/block_1/project/conv/dot_general"}
  %sum = f32[8,4]{1,0} all-reduce-start(%z), replica_groups={{0,1,2,3}}, to_apply=%add
  %summed = f32[8,4]{1,0} all-reduce-done(%sum), metadata={op_name="jit(step)/transpose(jvp(M))/stem/norm/add"}
  %moved = f32[8,4]{0,1} copy(%summed)
  %gather = (f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%part), replica_groups=[1,4]<=[4]
  ROOT %gathered = f32[8,4]{1,0} all-gather-done(%gather)
}
"""


def test_kernels_of_a_program_read_and_write_every_array_once():
    found = kernels(parse(GPU))
    matrix = 8 * 4 * 4
    assert [(kernel.opcode, kernel.size, kernel.times) for kernel in found] == [
        ("custom-call", matrix + 4 * 2 * 2 + 8 * 2 * 4 + 16, 1),  # an operand that is named twice is read once
        ("all-reduce-start", 2 * matrix, 1),
        ("copy", 2 * matrix, 1),
        ("all-gather-start", matrix // 4 + matrix, 1),
        ("fusion", 2 * matrix, 3),
    ]
    assert by_part(found) == [
        PartTotal("norm and activation", False, 3, 3 * 2 * matrix),  # by the fusion's last operation
        PartTotal("other", False, 2, 2 * matrix + matrix // 4 + matrix),
        PartTotal("norm and activation", True, 1, 2 * matrix),  # a copy belongs to what it copies
        PartTotal("1x1 and stem", True, 1, matrix + 16 + 64 + 16),
    ]


# As XLA writes it for a GPU: one fusion slices an array, another reads it too.
SLICES = """
%sliced (p: f32[8,4], q: f32[4]) -> f32[4] {
  %p = f32[8,4]{1,0} parameter(0)
  %row = f32[1,4]{1,0} slice(%p), slice={[0:1], [0:4]}
  %flat = f32[4]{0} bitcast(%row)
  %q = f32[4]{0} parameter(1)
  ROOT %add = f32[4]{0} add(%flat, %q)
}

%both (p: f32[8,4]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  %row = f32[1,4]{1,0} slice(%p), slice={[0:1], [0:4]}
  ROOT %sum = f32[8,4]{1,0} add(%p, %row)
}

ENTRY %main (a: f32[8,4], b: f32[4]) -> f32[4] {
  %a = f32[8,4]{1,0} parameter(0)
  %b = f32[4]{0} parameter(1)
  %x = f32[8,4]{1,0} fusion(%a), kind=kLoop, calls=%both
  ROOT %y = f32[4]{0} fusion(%x, %b), kind=kLoop, calls=%sliced
}
"""


def test_of_an_array_that_a_kernel_only_slices_the_slice_is_read():
    assert [kernel.size for kernel in kernels(parse(SLICES))] == [2 * 8 * 4 * 4, 3 * 4 * 4]


# As XLA writes one for a TPU: copies between memory and the chip, and calls that do nothing.
TPU = """
ENTRY %main (w: f32[48,8,128]) -> f32[16,128] {
  %w = f32[48,8,128]{2,1,0:T(8,128)} parameter(0), metadata={op_name="state.params"}
  %start = ((f32[48,8,128]{2,1,0:T(8,128)}), f32[12,8,128]{2,1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%w)
  %part = f32[12,8,128]{2,1,0:T(8,128)S(1)} slice-done(%start)
  %call = f32[48,8,128]{2,1,0:T(8,128)S(1)} custom-call(%part), custom_call_target="ConcatBitcast"
  %sum = f32[16,128]{1,0:T(8,128)S(1)} fusion(%call, %w), kind=kLoop, calls=%f
  %back = (f32[16,128]{1,0:T(8,128)}, f32[16,128]{1,0:T(8,128)S(1)}, u32[]{:S(2)}) copy-start(%sum)
  ROOT %out = f32[16,128]{1,0:T(8,128)} copy-done(%back)
}
"""


def test_a_tpus_memory_is_read_once_and_its_own_is_free():
    found = kernels(parse(TPU))
    assert [(kernel.opcode, kernel.size) for kernel in found] == [
        ("slice-start", 12 * 8 * 128 * 4),
        ("fusion", 48 * 8 * 128 * 4),
        ("copy-start", 16 * 128 * 4),
    ]
    assert [kernel.launches for kernel in found] == [0, 1, 0]


def test_collectives_that_start_are_counted_once():
    assert collectives(parse(GPU)) == [Collective("all-reduce", 128, 4, 1), Collective("all-gather", 128, 4, 1)]


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[8,4]{1,0}", 128),
        ("f32[512,96,96,8]{3,2,1,0:T(8,128)}", 512 * 96 * 96 * 128 * 4),  # eight channels fill a tile of 128
        ("f32[512,96,96,8]{0,3,2,1:T(8,128)}", 512 * 96 * 96 * 8 * 4),  # images innermost: nothing is padded
        ("bf16[3,100]{1,0:T(8,128)(2,1)}", 8 * 128 * 2),
        ("f32[8,128]{1,0:T(8,128)S(1)}", 0),  # on the chip
        ("f32[]{:T(128)}", 128 * 4),
        ("(f32[8,4]{1,0:T(8,128)}, /*index=1*/u8[5]{0})", 8 * 128 * 4 + 5),
    ],
)
def test_bytes_in_memory_are_those_of_the_layout(shape, size):
    assert memory_bytes(shape) == size


def test_elements_of_a_tuple():
    assert tuple_elements("((f32[2,3]{1,0}, s32[]), u8[3]{0:T(8,128)})") == [
        "(f32[2,3]{1,0}, s32[])",
        "u8[3]{0:T(8,128)}",
    ]
    assert tuple_elements("f32[2,3]{1,0}") == ["f32[2,3]{1,0}"]


MODEL = "jit(step)/transpose(jvp(MobileNetV2))/MobileNetV2.run"


@pytest.mark.parametrize(
    ("op_name", "part"),
    [
        (f"{MODEL}/block_2/conv/cond/branch_0_fun/reduce_sum", "spatial operator"),
        (f"{MODEL}/block_2/conv/conv.values/generator/dot_general", "weight generator"),
        (f"{MODEL}/block_2/expand/norm/jit(_where)/select_n", "norm and activation"),
        (f"{MODEL}/block_2/norm/add", "norm and activation"),
        (f"{MODEL}/block_2/expand/conv/dot_general", "1x1 and stem"),
        (f"{MODEL}/stem/conv/conv_general_dilated", "1x1 and stem"),
        (f"{MODEL}/stage2_0/branch/conv/add", "spatial operator"),
        (f"{MODEL}/stage2_0/shortcut/project/conv/dot_general", "1x1 and stem"),
        (f"{MODEL}/block_2/add", "other"),
        ("jit(step)/transpose(jvp(MobileNetV2))/head/norm_in/reduce_sum", "head and loss"),
        ("jit(step)/jvp()/dot_general", "head and loss"),
        ("jit(step)/transpose(jvp(jit(take_along_axis)))/scatter-add", "head and loss"),
        ("jit(step)/optimizer/add", "optimizer"),
        ("", "other"),
        ("jit(step)/transpose(jvp(generator))/vmap/dot_general", "weight generator"),
    ],
)
def test_parts_are_known_by_the_modules_in_the_name_of_an_operation(op_name, part):
    assert part_of(op_name) == part


def test_the_step_names_its_generators_and_its_optimizer():
    import jax
    import jax.numpy as jnp

    from tvconv_jax.nn.layers import TVConv
    from tvconv_jax.training.mesh import make_mesh
    from tvconv_jax.training.optimizer import sgd
    from tvconv_jax.training.state import create_state
    from tvconv_jax.training.step import make_train_step

    layer, mesh = TVConv(hidden_channels=2, hidden_layers=0, name="conv"), make_mesh(devices=jax.devices()[:1])
    x, optimizer = jnp.ones((2, 4, 4, 3)), sgd(lambda step: 0.1, momentum=0.9, weight_decay=0.0)
    params = layer.init(jax.random.key(0), x)["params"]

    def loss(params, stats, batch, key):
        return jnp.sum(layer.apply({"params": params}, batch)), (stats, {})

    state = create_state(params, {}, optimizer, 0, mesh)
    text = make_train_step(loss, optimizer, mesh).lower(state, x).as_text(debug_info=True)
    assert "/generator/dot_general" in text and "/optimizer/" in text


def test_an_unknown_number_of_devices_is_one_line():
    assert targets.find_target("tpu-v5e", 64) is None
    assert targets.find_target("v5e:8x8") == targets.Target("v5e:8x8", "tpu", (8, 8))
    assert targets.find_target("h200").devices == 1 and targets.find_target("h200", 16).axes == (1, 2, 8)
    for arguments, words in (
        (("v5e:8x8", 32), "--devices=32 is not the size of v5e:8x8, which has 64; leave it out."),
        (("h200", 12), "--devices=12 must be 1 to 8 GPUs of a host, or a multiple of 8."),
        (("h200", 0), "--devices=0 must be 1 to 8"),
        (
            ("v9:2x2",),
            "--device-kind=v9:2x2 is unknown; there are: tpu-v5e, tpu-v5p, tpu-v6e, h200, h100, a100, cpu, and",
        ),
        (("v5e",), "--device-kind=v5e is unknown"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            targets.find_target(*arguments)


def install(monkeypatch, **packages):
    """Let metadata name these versions, and no other plugin's."""

    def version(name):
        if name not in packages:
            raise importlib.metadata.PackageNotFoundError(name)
        return packages[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    needed = ['libtpu==0.0.42.*; extra == "tpu"', "numpy>=2.0"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needed)


def test_a_plugin_that_is_missing_or_of_another_version(monkeypatch):
    h200, v5e = targets.find_target("h200"), targets.find_target("v5e:2x4")
    install(monkeypatch, jax="0.10.2")
    assert not targets.is_installed(h200) and not targets.is_installed(v5e)
    with pytest.raises(UserError, match=r"libtpu is not installed: pip install 'tvconv_jax\[plan-tpu\]'\."):
        targets.require_plugin(v5e)
    plugin = {"jax": "0.10.2", "jax-cuda13-plugin": "0.10.2", "jax-cuda13-pjrt": "0.10.2", "libtpu": "0.0.42.1"}
    install(monkeypatch, **plugin)
    assert targets.is_installed(h200) and targets.is_installed(v5e)
    assert h200.compiler == "jax-cuda13-pjrt 0.10.2" and v5e.compiler == "libtpu 0.0.42.1"
    install(monkeypatch, **plugin | {"jax-cuda13-pjrt": "0.10.1"})
    with pytest.raises(
        UserError, match=r"jax-cuda13-pjrt 0.10.1 does not belong to jax 0.10.2, which needs 0.10.2: pip"
    ):
        targets.is_installed(h200)
    install(monkeypatch, **plugin | {"libtpu": "0.0.421"})
    with pytest.raises(
        UserError, match=r"libtpu 0.0.421 does not belong to jax 0.10.2, which needs 0.0.42: pip install"
    ):
        targets.is_installed(v5e)


@pytest.mark.skipif(targets.is_installed(targets.find_target("v5e:2x2")), reason="the plugin is here")
def test_without_the_plugin_the_command_says_so_and_estimates(tmp_path):
    env = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    config = "--config=configs/face_mixer.py:smoke"
    command = [sys.executable, "-m", "tvconv_jax.main", "--mode=plan", config, "--device-kind=v5e:2x2"]
    done = subprocess.run([*command, f"--workdir={tmp_path}"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "note: libtpu is not installed, so this is an estimate from the program as compiled for a CPU; "
        "pip install 'tvconv_jax[plan-tpu]' lets XLA compile for v5e:2x2.\n"
    )
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["devices"] == 4 and found["kind"]["name"] == "TPU v5e chip"
    assert found["compiler"] == "" and found["kernels"] == 0 and found["accessed_bytes"] > 0


def example(**fields):
    usual = {
        "kind": KINDS["h200"],
        "mesh": {"data": 1, "model": 1},
        "batch_size": 512,
        "identities": 10_000,
        "parameters": {"model": 10, "class_weights": 20},
        "parameter_bytes": 120,
        "optimizer_bytes": 120,
        "batch_bytes": 10,
        "activation_bytes": 5_000_000_000,
        "flops": 0.0,
        "counted_flops": 1e9,
        "generator_flops": 1e8,
        "float32_share": 1.0,
        "accessed_bytes": 20.5e9,
        "traffic": [],
        "compiler": "jax-cuda13-pjrt 0.10.2",
        "parts": [
            PartTotal("norm and activation", True, 100, 12_000_000_000),
            PartTotal("norm and activation", False, 50, 8_000_000_000),
            PartTotal("weight generator", True, 20, 500_000_000),
        ],
    }
    return Plan(**usual | fields)


def test_a_compiled_plan_prints_kernels_and_bytes_by_part(capsys):
    plan_text.print_plan(example())
    lines = [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]
    assert "kernels of a step 170" in lines and "bytes read and written, a device 20.5 GB" in lines
    assert "norm and activation 8 GB 50 12 GB 100 20 GB 4.88" in lines  # at the 4.1 TB/s of a copy
    assert "weight generator 500 MB 20 500 MB 0.122" in lines
    assert "compiled by jax-cuda13-pjrt 0.10.2" in lines


def test_a_step_that_the_compiler_refuses_does_not_fit(capsys):
    texts = {
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (64.00G) exceeds "
        "available HBM (15.75G).": 64 * 2**30,
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm.": 20.5 * 2**30 - 130,
    }
    for message, temporaries in texts.items():
        found = plan._refused(message, arguments=130, fixed=100)
        assert found["activation_bytes"] == temporaries and found["batch_bytes"] == 30
        refused = example(kind=KINDS["tpu-v5e"], **found)
        assert not refused.fits and refused.kernels == 0
        plan_text.print_plan(refused)
        text = capsys.readouterr().out
        assert "DOES NOT FIT" in text and "RESOURCE_EXHAUSTED" in text and "images/s expected" not in text
        assert "warning: does not fit" in text


def test_a_call_in_a_thread_returns_and_raises():
    assert plan._in_thread(lambda: 3) == 3
    with pytest.raises(UserError, match="odd"):
        plan._in_thread(lambda: (_ for _ in ()).throw(UserError("odd")))


def as_plan(row, **fields):
    return {"row": row._asdict(), "commit": "abc", "date": "2026-01-02"} | example(**fields).as_dict()


def test_the_check_of_the_gpus_program_names_what_is_over(monkeypatch, capsys, tmp_path):
    within = [as_plan(row, accessed_bytes=16e9) for row in gpu_program.ROWS]
    monkeypatch.setattr(gpu_program, "plan_rows", lambda rows, runs: within)
    gpu_program.main([f"--runs={tmp_path}"])
    assert capsys.readouterr().out.endswith("all within their bounds\n")
    over = [as_plan(row, accessed_bytes=29e9) for row in gpu_program.ROWS]
    over[1] = as_plan(gpu_program.ROWS[1], accessed_bytes=29e9, parts=[PartTotal("other", False, 451, 1)])
    monkeypatch.setattr(gpu_program, "plan_rows", lambda rows, runs: over)
    with pytest.raises(SystemExit) as stopped:
        gpu_program.main([f"--runs={tmp_path}"])
    assert stopped.value.code == 1
    words = "depthwise float32 451 kernels; tvconv bfloat16 29.0 GB; depthwise bfloat16 29.0 GB"
    assert capsys.readouterr().err == f"over its bound: {words}\n"


def test_plans_are_made_once_for_a_commit(tmp_path, monkeypatch, capsys):
    made = []

    def run(arguments, cwd, stdout, check):
        made.append(arguments[arguments.index("-m") :])
        workdir = Path(arguments[-1].removeprefix("--workdir="))
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "plan.json").write_text(json.dumps(example().as_dict()))
        return subprocess.CompletedProcess(arguments, 0)

    rows = [Row("mb01", "h200"), Row("mb10", "v5e:8x8", 1_000_000, 8, "depthwise", "bfloat16")]
    monkeypatch.setattr(plan_runs, "require_plugin", lambda target: None)
    monkeypatch.setattr(plan_runs, "code_commit", lambda: "abc")
    monkeypatch.setattr(plan_runs.subprocess, "run", run)
    for _ in range(2):
        plans = plan_runs.plan_rows(rows, tmp_path)
    assert len(made) == 2 and [plan["row"]["model"] for plan in plans] == ["mb01", "mb10"]
    assert "--config=configs/face_mb10.py:data=folder,operator=depthwise" in made[1]
    assert {"--config.mesh.model=8", "--device-kind=v5e:8x8", "--identities=1000000"} < set(made[1])
    assert "--config.train.precision=bfloat16" in made[1]
    assert "2 plans of abc, 0 of them made now in 0:00" in capsys.readouterr().out
    monkeypatch.setattr(plan_runs, "code_commit", lambda: "abc-dirty")
    for _ in range(2):
        plan_runs.plan_rows(rows, tmp_path)
    assert len(made) == 6  # changed code is planned each time


@pytest.fixture
def docs(tmp_path):
    (tmp_path / "appendix" / "data").mkdir(parents=True)
    (tmp_path / "performance.md").write_text(f"before\n\n{MARKS[0]}\nof an earlier run\n{MARKS[1]}\n\nafter\n")
    return tmp_path


def test_pages_keep_the_plans_that_are_not_made_again(docs, monkeypatch):
    monkeypatch.setattr(plan_table, "plan_rows", lambda rows, runs: [as_plan(row) for row in rows])
    plan_table.main([f"--docs={docs}", "--device-kind=h200"])
    refused = {"kind": KINDS["tpu-v5e"], "refusal": "too large", "parts": []}
    monkeypatch.setattr(plan_table, "plan_rows", lambda rows, runs: [as_plan(row, **refused) for row in rows])
    plan_table.main([f"--docs={docs}", "--device-kind=v5e"])
    long, short = ((docs / name).read_text() for name in ("appendix/plan.md", "performance.md"))
    assert len(json.loads((docs / "appendix" / "data" / "plan.json").read_text())) == len(plan_table.ROWS)
    name = "| MB x0.1 | tvconv | float32 | 10,000 | 1 x h200 | 1 x 1 |"
    assert f"{name} 170 | 20.5 GB | 0 B | 0.00202 | **5** | 0 | 102,400 |" in long
    assert "| 8.00 (50) + 12.00 (100) |" in long and "`too large`" in long and "**no**" in long
    assert f"{name} 5 GB | yes | 170 | 20.5 GB | 102,400 |" in short
    assert short.startswith("before\n") and short.endswith("\nafter\n") and "earlier" not in short
    words = " ".join(short.split())
    assert "Over its bound: tvconv bfloat16 20.5 GB; depthwise bfloat16 20.5 GB." in words
    assert "Last run at commit abc on 2026-01-02: 4 of 4 programs." in words


def test_the_pages_in_the_docs_are_made_from_the_plans_in_the_docs():
    docs = ROOT / "docs"
    plans = json.loads((docs / plan_table.DATA).read_text())
    assert page(plans) == (docs / plan_table.PAGE).read_text()
    short = (docs / plan_table.SUMMARY).read_text()
    assert put_summary(short, plans) == short
