"""The plans of MobileNetV2 x0.1 and x1.0 with TVConv as one page, docs/plan.md.

    python -m tvconv_jax.bench.plan_table --out=docs/plan.md --runs=runs/plan --kind=tpu-v5e

The paper's recipe (96x96, 512 pictures a step in all), 10^4 and 10^6 identities, on 1, 8, 64 and 256 devices; the head
of 10^6 is cut over all of them, that of 10^4 lies on each. Plans that lie in ``--runs`` are not made again.
"""

import itertools
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tvconv_jax.bench.plan_report import size
from tvconv_jax.utils.cli import Parser, ends_in_one_line, output_file, output_folder
from tvconv_jax.utils.files import read_json, write_text
from tvconv_jax.utils.outputs import announce_overwrite
from tvconv_jax.utils.tether import tethered

MODELS = {"mb01": "MB x0.1", "mb10": "MB x1.0"}
IDENTITIES = (10_000, 1_000_000)
DEVICES = (1, 8, 64, 256)
CUT = 100_000  # identities from which the head is cut over all devices

# Beside model, identities, devices: what a device holds, and what a step takes.
HELD = ("data x model", "pictures", "parameters", "parameters + optimizer", "activations, temporaries", "all", "fits")
TAKEN = (
    "GFLOPs", "of it kernels", "read + written", "sent", "compute, ms", "memory, ms", "links, ms", "images/s expected",
    "at best",
)  # fmt: skip


def command(model: str, identities: int, devices: int, kind: str, workdir: Path) -> list[str]:
    """The arguments after ``python`` that make one plan."""
    return [
        "-m",
        "tvconv_jax.main",
        "--mode=plan",
        f"--config=configs/face_{model}.py:data=folder",
        f"--config.mesh.model={devices if identities >= CUT else 1}",
        f"--devices={devices}",
        f"--kind={kind}",
        f"--identities={identities}",
        f"--workdir={workdir}",
    ]


def make(runs: Path, kind: str) -> list[tuple[str, dict[str, Any]]]:
    """``(model, plan)`` of every row, one after the other."""
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


def held(plan: dict[str, Any]) -> list[str]:
    """The cells of ``HELD``."""
    return [
        f"{plan['mesh']['data']} x {plan['mesh']['model']}",
        f"{plan['batch_size'] / plan['devices']:g}",
        f"{sum(plan['parameters'].values()) / 1e6:.1f} M",
        size(plan["parameter_bytes"] + plan["optimizer_bytes"]),
        size(plan["activation_bytes"]),
        size(plan["memory"]),
        "yes" if plan["fits"] else "**no**",
    ]


def taken(plan: dict[str, Any]) -> list[str]:
    """The cells of ``TAKEN``."""
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
    """The page as Markdown."""
    peaks = rows[0][1]["kind"]
    return f"""\
# A training step on 1 to 256 devices: {peaks["name"]}

`python -m tvconv_jax.bench.plan_table --out=docs/plan.md --kind={kind}`, which runs
`python {" ".join(command("mb10", 1_000_000, 64, kind, Path("DIR")))}` and the like.

TVConv, 96x96, float32, 512 pictures a step in all, SGD with momentum; a head of 10^6 identities is cut over all
devices, one of 10^4 lies on each. All figures are those of one device, but images/s, which is that of all; GB are
10^9 bytes. Peak figures: {peaks["float32"] / 1e12:.0f} TFLOP/s, {peaks["memory"] / 1e9:.0f} GB at \
{peaks["bandwidth"] / 1e9:,.0f} GB/s, {peaks["near_links"] / 1e9:.0f} GB/s to the others ({peaks["source"]}).

## What a device holds

{_table(rows, HELD, held)}

## What a step takes

The slowest of the three is bold.

{_table(rows, TAKEN, taken)}

{NOTES}"""


def _table(rows: Sequence[tuple[str, dict]], columns: Sequence[str], cells: Callable[[dict], list[str]]) -> str:
    columns = ("model", "identities", "devices", *columns)
    lines = [columns, ("---",) * len(columns)]
    for model, plan in rows:
        lines.append((MODELS[model], f"{plan['identities']:,}", str(plan["devices"]), *cells(plan)))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


NOTES = """\
## What the figures are, and are not

- Nothing here was measured on such a device. The very step that training runs was compiled, for as many devices as
  XLA's CPU plays, with the operators' lowering for accelerators; memory, FLOPs, bytes and collectives are that
  program's.
- A TPU's compiler fuses otherwise than a CPU's: temporaries, and bytes read and written, are estimates. *Expected*
  takes the bytes as they are; *at best* lets the step write and read only once what it holds, as perfect fusion would.
- Both let compute, memory and links hide behind the slowest of them, at peak rates. Latency is left out: a step has
  over a hundred small all-reduces, two for each batch norm, and on many devices a real step waits for these.
- Peak FLOP/s are those of matrix units. Per-pixel kernels, batch norms and the optimizer run on vector units, and the
  head's product takes several passes in float32.
- *Of it kernels*: TVConv's generators run once a step on every device, however few pictures it has. 512 pictures on 256
  devices are two each: then most products make kernels, on every device the same ones, and 256 devices are 1.2 to 1.6
  times as fast as 64. So many pay only with a larger `data.batch_size`.
- What is summed over the devices is the gradient of the kernels, not that of the generators' parameters, about
  three times as many numbers: each device takes that from the sum.
- 10^6 identities are 2.05 GB of class weights and as much momentum. Cut over N devices each holds 1/N of both and takes
  1/N of the products; their gradient stays where it is, and what travels for it are the embeddings and three numbers a
  picture. On each device whole, 10^4 identities send more than 10^6 that are cut.
- *Sent* is a ring's count, 2 (n-1)/n of every array that is summed among n devices, (n-1)/n of what is gathered, parsed
  from the compiled program (`tvconv_jax/bench/collectives.py`).
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = Parser(prog="python -m tvconv_jax.bench.plan_table", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=output_file, default="docs/plan.md", metavar="FILE")
    parser.add_argument("--runs", type=output_folder, default="runs/plan", metavar="DIR", help="where plans are kept")
    parser.add_argument("--kind", default="tpu-v5e", help="see tvconv_jax/bench/device_specs.py")
    args = parser.parse_args(argv)
    with ends_in_one_line("plans that were made are kept."):
        write_text(announce_overwrite(args.out), page(make(args.runs, args.kind), args.kind))
        print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
