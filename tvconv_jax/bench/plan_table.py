"""Plans of MobileNetV2 x0.1 and x1.0 with TVConv as one page, docs/appendix/plan.md.

    python -m tvconv_jax.bench.plan_table --out=docs/appendix/plan.md --device-kind=tpu-v5e

The paper's settings (96x96, 512 images a step in all) with 10^4 and 10^6 identities on 1, 8, 64 and 256 devices. The
head of 10^6 is sharded over all devices; that of 10^4 is replicated. Plans that are in ``--runs`` are not made again.
"""

import itertools
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tvconv_jax.bench.plan import Plan
from tvconv_jax.utils.cli import Parser, ends_in_one_line, output_file, output_folder
from tvconv_jax.utils.console import print_table
from tvconv_jax.utils.files import announce_overwrite, read_json, write_text
from tvconv_jax.utils.tether import tethered

ASSUMPTIONS = (
    "Temporaries, and bytes read and written, are of the program as XLA compiles it for a CPU. The compiler of a TPU "
    "or GPU fuses other operations and needs more or less.",
    "Images/s assume that compute, memory and links overlap fully and run at peak. Nothing is measured and latency is "
    "left out: real runs are slower.",
    "Sent, of an array, among n devices: 2 (n-1)/n of it for an all-reduce, (n-1)/n for an all-gather.",
)


def print_plan(plan: Plan) -> None:
    """Print the plan as a table, its assumptions, and a warning if it does not fit."""
    kind, mesh = plan.kind, " x ".join(f"{name} {size}" for name, size in plan.mesh.items())
    classes = "identities" if "class_weights" in plan.parameters else "classes"
    title = f"{plan.devices} x {kind.name} ({mesh}), {plan.batch_size} images a step, {plan.identities:,} {classes}"
    table = Table(title=title, show_header=False, title_justify="left")
    for row in _rows(plan):
        table.add_row(*row)
    print_table(table, width=110)
    for line in (*ASSUMPTIONS, f"Peak figures: {kind.source}"):
        print(f"- {line}")
    if not plan.fits:
        Console(highlight=False, soft_wrap=True).print(warning(plan), style="bold red")


def warning(plan: Plan) -> str:
    """Return a warning about a step that does not fit, with a hint."""
    cause, hint = "parameters and optimizer", "shard the head over more devices (mesh.model)"
    if plan.activation_bytes > plan.parameter_bytes + plan.optimizer_bytes:
        cause = "activations and other temporaries"
        hint = "use more devices, train.grad_accum_steps, model.remat, or a smaller data.batch_size"
    return (
        f"warning: does not fit: {size(plan.memory)} a device, and a {plan.kind.name} has {size(plan.kind.memory)}; "
        f"most of it are {cause}: {hint}."
    )


def _rows(plan: Plan) -> list[tuple[str, str]]:
    parameters = ", ".join(f"{name} {count:,}" for name, count in plan.parameters.items())
    shares = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in plan.seconds.items())
    generator = 100 * plan.generator_flops / plan.counted_flops
    return [
        ("parameters", f"{sum(plan.parameters.values()):,} ({parameters})"),
        ("parameters, bytes a device", size(plan.parameter_bytes)),
        ("optimizer", size(plan.optimizer_bytes)),
        ("batch and running statistics", size(plan.batch_bytes)),
        ("activations and other temporaries", size(plan.activation_bytes)),
        ("memory a device", f"{size(plan.memory)} of {size(plan.kind.memory)}"),
        ("FLOPs of a step, a device", f"{plan.flops:.3g} as XLA counts the program"),
        ("", f"{plan.counted_flops:.3g} products by our count; {generator:.0f} % of it for TVConv's kernels"),
        ("bytes read and written, a device", size(plan.accessed_bytes)),
        ("bytes sent, a device", size(plan.sent)),
        *(("", row) for row in _traffic(plan)),
        ("a step at peak figures", shares),
        ("images/s expected", f"{plan.images_per_second:,.0f}, bound by {max(plan.seconds, key=plan.seconds.get)}"),
        ("images/s at best", f"{plan.images_per_second_at_best:,.0f}, if every array is written and read only once"),
    ]


def _traffic(plan: Plan) -> list[str]:
    """Return a line for each kind of collective and number of devices in it."""
    groups = defaultdict(list)
    for collective in plan.traffic:
        groups[collective.kind, collective.group].append(collective)
    return [
        f"{sum(one.times for one in same)} {kind} among {group}: {size(sum(one.sent for one in same))} sent"
        for (kind, group), same in sorted(groups.items())
        if group > 1
    ]


def size(number: float) -> str:
    """Return a number of bytes with its unit."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:.3g} {unit}" if number < 1000 * factor else f"{number / factor:,.0f} {unit}"
    return f"{number:.0f} B"


MODELS = {"mb01": "MB x0.1", "mb10": "MB x1.0"}
IDENTITIES = (10_000, 1_000_000)
DEVICES = (1, 8, 64, 256)
SHARDED = 100_000  # identities from which the head is sharded over all devices

ROW = "model | identities | devices"
MEMORY = f"{ROW} | data x model | batch per device | parameters | parameters + optimizer | activations, temporaries"
MEMORY += " | total | fits"
TIME = f"{ROW} | GFLOPs | for kernels | read + written | sent | compute, ms | memory, ms | links, ms"
TIME += " | images/s expected | images/s at best"


def command(model: str, identities: int, devices: int, kind: str, workdir: Path) -> list[str]:
    """Return the arguments after ``python`` that make one plan."""
    config = [f"--config=configs/face_{model}.py:data=folder"]
    config.append(f"--config.mesh.model={devices if identities >= SHARDED else 1}")
    where = [f"--devices={devices}", f"--device-kind={kind}", f"--identities={identities}", f"--workdir={workdir}"]
    return ["-m", "tvconv_jax.main", "--mode=plan", *config, *where]


def make(runs: Path, kind: str) -> list[tuple[str, dict[str, Any]]]:
    """Return ``(model, plan)`` of every row; make the plans that are not in ``runs``."""
    rows = []
    for model, identities, devices in itertools.product(MODELS, IDENTITIES, DEVICES):
        workdir = runs / f"{model}_{identities}_{devices}_{kind}"
        if not (workdir / "plan.json").exists():
            print(f"planning {workdir.name}", flush=True)
            planned = [sys.executable, *command(model, identities, devices, kind, workdir)]
            done = subprocess.run(tethered(planned), check=False)
            if done.returncode:
                sys.exit(done.returncode)
        rows.append((model, read_json(workdir / "plan.json", "remove it, and it is planned again")))
    return rows


def _memory(plan: dict[str, Any]) -> list[str]:
    return [
        f"{plan['mesh']['data']} x {plan['mesh']['model']}",
        f"{plan['batch_size'] / plan['devices']:g}",
        f"{sum(plan['parameters'].values()) / 1e6:.1f} M",
        size(plan["parameter_bytes"] + plan["optimizer_bytes"]),
        size(plan["activation_bytes"]),
        size(plan["memory"]),
        "yes" if plan["fits"] else "**no**",
    ]


def _time(plan: dict[str, Any]) -> list[str]:
    seconds = {name: f"{1e3 * plan['seconds'][name]:.3g}" for name in ("compute", "memory", "links")}
    slowest = max(seconds, key=plan["seconds"].get)
    seconds[slowest] = f"**{seconds[slowest]}**"
    return [
        f"{max(plan['flops'], plan['counted_flops']) / 1e9:,.1f}",
        f"{100 * plan['generator_flops'] / plan['counted_flops']:.0f} %",
        size(plan["accessed_bytes"]),
        size(plan["sent"]),
        *seconds.values(),
        f"{plan['images_per_second']:,.0f}",
        f"{plan['images_per_second_at_best']:,.0f}",
    ]


def page(rows: Sequence[tuple[str, dict[str, Any]]], kind: str) -> str:
    """Return the page as Markdown."""
    peaks = rows[0][1]["kind"]
    names = [(MODELS[model], f"{plan['identities']:,}", str(plan["devices"])) for model, plan in rows]
    memory = [[*name, *_memory(plan)] for name, (_, plan) in zip(names, rows, strict=True)]
    time = [[*name, *_time(plan)] for name, (_, plan) in zip(names, rows, strict=True)]
    return f"""\
# A training step on 1 to 256 devices: {peaks["name"]}

TVConv at 96x96 in float32, SGD with momentum, a global batch of 512. The classification head of 10^6 identities is
sharded over all devices; that of 10^4 is replicated on each. The number of parameters and images/s are those of all
devices together; every other figure is per device. GB are 10^9 bytes.

```bash
python -m tvconv_jax.bench.plan_table --out=docs/appendix/plan.md --device-kind={kind}
```

It runs
`python {" ".join(command("mb10", 1_000_000, 64, kind, Path("DIR")))}`
for every row. Peak figures: {peaks["float32"] / 1e12:.0f} TFLOP/s, {peaks["memory"] / 1e9:.0f} GB at \
{peaks["bandwidth"] / 1e9:,.0f} GB/s, {peaks["near_links"] / 1e9:.0f} GB/s between devices
({peaks["source"]}).

**Nothing here was measured on such a device**: [what the figures are](#what-the-figures-are-and-are-not).

## Memory of a device

{_table(MEMORY, memory)}

## Time of a step

The slowest of compute, memory and links is bold.

{_table(TIME, time)}

{NOTES}"""


def _table(header: str, rows: Sequence[Sequence[str]]) -> str:
    rule = " | ".join(["---"] * len(header.split(" | ")))
    return "\n".join(f"| {line} |" for line in (header, rule, *map(" | ".join, rows)))


NOTES = """\
## What the figures are, and are not

- The training step itself was compiled, with the operators' lowering for accelerators, for as many devices, which XLA
  emulates on a CPU. Memory, FLOPs, bytes and collectives are those of the compiled program.
- A TPU's compiler fuses other operations than a CPU's. So temporaries, and bytes read and written, are estimates.
  *Expected* takes the bytes as they are. *At best* lets the step write and read its arrays once, as perfect fusion
  would.
- Both assume that compute, memory and links overlap fully and run at peak. Latency is left out: a step has over a
  hundred small all-reduces, two for each batch norm, and on many devices a real step waits for them.
- Peak FLOP/s are those of matrix units. Per-pixel kernels, batch norms and the optimizer run on vector units, and the
  head's matrix product takes several passes in float32.
- *For kernels*: TVConv's generators run once per step on every device, whatever its batch. A batch of 512 on 256
  devices is two images each. Then most products make kernels, the same ones on every device, and 256 devices are 1.2 to
  1.6 times as fast as 64. So many devices pay only with a larger `data.batch_size`.
- The all-reduce sums the gradient of the kernels, not that of the generators' parameters, which are about three times
  as many numbers. Each device computes theirs from the sum.
- 10^6 identities are 2.05 GB of class weights and as much momentum. Sharded over N devices, each holds 1/N of both and
  computes 1/N of the products. Their gradient stays on its device; only the embeddings and three numbers per image are
  sent. So 10^4 identities, replicated, send more than 10^6 that are sharded.
- *Sent* counts a ring: 2 (n-1)/n of every array that is summed among n devices, and (n-1)/n of what is gathered. It is
  read from the compiled program (`tvconv_jax/bench/collectives.py`).
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    renamed = {"--kind": "--device-kind"}
    parser = Parser(prog="python -m tvconv_jax.bench.plan_table", description=__doc__, renamed=renamed)
    parser.add_argument("--out", type=output_file, default="docs/appendix/plan.md", metavar="FILE")
    parser.add_argument("--runs", type=output_folder, default="runs/plan", metavar="DIR", help="folder of the plans")
    parser.add_argument("--device-kind", default="tpu-v5e", help="see tvconv_jax/bench/device_specs.py")
    args = parser.parse_args(argv)
    with ends_in_one_line("plans that were made are kept."):
        write_text(announce_overwrite(args.out), page(make(args.runs, args.device_kind), args.device_kind))
        print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
