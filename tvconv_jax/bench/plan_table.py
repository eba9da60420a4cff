"""Plans of one H200 and of 1 to 64 TPU v5e chips, compiled by XLA's own compilers, as one page.

    python -m tvconv_jax.bench.plan_table

makes the plans that are missing for the commit of the code in ``--runs``, keeps all in ``docs/appendix/data/plan.json``
and writes ``docs/appendix/plan.md``. Stopped, the same command goes on. It needs the extras ``plan-gpu`` and
``plan-tpu``; ``make plans`` makes an environment for it. ``--page`` writes the page from the kept plans alone.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from tvconv_jax.bench.kernels import PARTS
from tvconv_jax.bench.plan_runs import MODELS, Row, plan_rows
from tvconv_jax.bench.plan_text import size
from tvconv_jax.utils.cli import Parser, ends_in_one_line, output_file, output_folder
from tvconv_jax.utils.files import announce_overwrite, as_json, parse_json, write_text

MILLION = 1_000_000
SLICES = {1: "v5e:1x1", 8: "v5e:2x4", 64: "v5e:8x8"}
# Most wanted first: the step on a GPU, the same on TPUs, then other models.
ROWS = (
    Row("mb01", "h200"),
    Row("mb01", "h200", operator="depthwise"),
    Row("mb01", "h200", precision="bfloat16"),
    Row("mb01", "h200", operator="depthwise", precision="bfloat16"),
    *(Row("mb01", name) for name in SLICES.values()),
    *(Row("mb01", SLICES[chips], MILLION, sharded) for chips, sharded in ((1, 1), (8, 8), (64, 8), (64, 1))),
    Row("mb01", "h200", MILLION),
    *(Row("mb10", "h200", identities) for identities in (10_000, MILLION)),
    Row("mb10", "h200", operator="depthwise"),
    *(Row("sf05", "h200", operator=operator) for operator in ("tvconv", "depthwise")),
    *(Row("mb10", name) for name in SLICES.values()),
    *(Row("mb10", SLICES[chips], MILLION, min(chips, 8)) for chips in SLICES),
)
DATA = "docs/appendix/data/plan.json"
# Fields of a plan that stand in the file of data.
KEPT = (
    *("row", "commit", "compiler", "compile_seconds", "refusal", "mesh", "batch_size", "identities", "parameters"),
    *("parameter_bytes", "optimizer_bytes", "batch_bytes", "activation_bytes", "memory", "fits", "counted_flops"),
    *("generator_flops", "kernels", "accessed_bytes", "sent", "seconds", "images_per_second", "parts"),
)
NAME = ("model", "operator", "precision", "identities", "devices", "data x model")
MEMORY = (*NAME, "parameters + optimizer", "temporaries", "total", "fits")
TIME = (*NAME, "kernels", "read + written", "sent", "compute, ms", "memory, ms", "links, ms", "images/s")


def compact(plan: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a plan that are kept, with one entry for each kind of collective and size of its groups."""
    groups: dict[tuple[str, int], list[int]] = defaultdict(list)
    for one in plan["traffic"]:
        groups[one["kind"], one["group"]].append(one["times"])
    traffic = [{"kind": kind, "group": group, "times": sum(times)} for (kind, group), times in sorted(groups.items())]
    return {name: plan[name] for name in KEPT} | {"kind": plan["kind"]["name"], "traffic": traffic}


def page(plans: Sequence[dict[str, Any]]) -> str:
    """Return the page as Markdown.

    Args:
        plans: As :func:`compact` returns them.
    """
    gpus, tpus = ([plan for plan in plans if plan["row"]["kind"].startswith(kind)] for kind in ("h200", "v5e"))
    commits = ", ".join(dict.fromkeys(plan["commit"] for plan in plans))
    compilers = " and ".join(dict.fromkeys(plan["compiler"] for plan in plans))
    return f"""\
# A training step as XLA compiles it for GPUs and TPUs

The paper's settings: 96x96, SGD with momentum, 512 images a step on all devices together. Every figure is per device,
but images/s are those of all devices. *data x model* are the axes of the mesh: class weights are sharded along *model*,
images along both. GB are 10^9 bytes.

```bash
make plans
```

*Compiled at commit {commits} by {compilers}, on a machine without such a device.*

**Nothing here was timed**: [what the figures are](#what-the-figures-are-and-are-not).

## Memory of a device

{_table(MEMORY, [_memory(plan) for plan in plans])}

{_refusals(plans)}

## Time of a step on one H200

The slowest of compute, memory and links is bold. Memory is at the 4.1 TB/s that a copy reached.

{_table(TIME, [_time(plan) for plan in gpus if plan["parts"]])}

## Time of a step on TPU v5e

Memory is at its peak of 819 GB/s.

{_table(TIME, [_time(plan) for plan in tpus if plan["parts"]])}

## Bytes by part of the model

GB read and written, with the number of kernels, forward and backward, 10,000 identities.

{_parts_table([plan for plan in plans if plan["parts"] and plan["identities"] < MILLION])}

{NOTES}"""


def _name(plan: dict[str, Any]) -> list[str]:
    row, mesh = plan["row"], plan["mesh"]
    devices = f"{mesh['data'] * mesh['model']} x {row['kind'].partition(':')[0]}"
    axes = f"{mesh['data']} x {mesh['model']}"
    return [MODELS[row["model"]], row["operator"], row["precision"], f"{plan['identities']:,}", devices, axes]


def _memory(plan: dict[str, Any]) -> list[str]:
    sizes = [plan["parameter_bytes"] + plan["optimizer_bytes"], plan["activation_bytes"], plan["memory"]]
    return [*_name(plan), *map(size, sizes), "yes" if plan["fits"] else "**no**"]


def _refusals(plans: Sequence[dict[str, Any]]) -> str:
    lines = [f"- {', '.join(_name(plan))}: `{plan['refusal']}`" for plan in plans if plan["refusal"]]
    return "\n".join(["The compiler refuses these steps, so they have no line below:\n", *lines]) if lines else ""


def _time(plan: dict[str, Any]) -> list[str]:
    seconds = {name: f"{1e3 * plan['seconds'][name]:.3g}" for name in ("compute", "memory", "links")}
    slowest = max(seconds, key=plan["seconds"].get)
    seconds[slowest] = f"**{seconds[slowest]}**"
    moved = [f"{plan['kernels']:,}", size(plan["accessed_bytes"]), size(plan["sent"])]
    return [*_name(plan), *moved, *seconds.values(), f"{plan['images_per_second']:,.0f}"]


def _parts_table(plans: Sequence[dict[str, Any]]) -> str:
    body = []
    for plan in plans:
        found = {(part["part"], part["backward"]): part for part in plan["parts"]}
        cells = [" + ".join(_part(found.get((part, backward))) for backward in (False, True)) for part in PARTS]
        body.append([*_name(plan)[:3], _name(plan)[4], *cells])
    return _table((*NAME[:3], NAME[4], *PARTS), body)


def _part(part: dict[str, Any] | None) -> str:
    return f"{part['size'] / 1e9:.2f} ({part['kernels']})" if part else "0"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


NOTES = """\
## What the figures are, and are not

- XLA's own compilers made the program of the training step from a description of the device. Memory, kernels, bytes and
  collectives are facts of that program. Times are these figures over peak rates, and assume that compute, memory and
  links overlap fully. No device ran it. Launches and latency are left out.
- Bytes are every operand and result of a kernel once, as if no cache held them. On a TPU they include the padding of
  its tiles, and leave out what lies in the chip's own memory. A kernel belongs to the part of its last operation.
- A GPU's compiler chooses between candidates of a kernel by trying them. Without the device it takes its default.
- Peak FLOP/s are those of matrix units. Per-pixel kernels, batch norms and the optimizer run on vector units.
- TVConv's generators run once per step on every device, whatever its batch: 512 images on 64 devices are 8 images each,
  and most products then make kernels. So many devices pay only with a larger `data.batch_size`.
- The all-reduce sums the gradient of the kernels, not that of the generators' parameters, which are about three times
  as many numbers. Each device computes theirs from the sum.
- 10^6 identities are 2.05 GB of class weights and as much momentum. Sharded over N devices, each holds 1/N of both and
  computes 1/N of the products. Their gradient stays within its part of the mesh.
- *Sent* counts a ring: 2 (n-1)/n of every array that is summed among n devices, and (n-1)/n of what is gathered. It is
  read from the compiled program (`tvconv_jax/bench/collectives.py`).
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = Parser(prog="python -m tvconv_jax.bench.plan_table", description=__doc__)
    add = parser.add_argument
    add("--out", type=output_file, default="docs/appendix/plan.md", metavar="FILE")
    add("--data", type=output_file, default=DATA, metavar="FILE", help="keeps the plans")
    add(
        "--runs", type=output_folder, default="runs/plan", metavar="DIR", help="folder of the plans while they are made"
    )
    add("--kind", help="only rows of device kinds that begin so, as in h200; the others stay as they are kept")
    add("--page", action="store_true", help="make no plan")
    args = parser.parse_args(argv)
    with ends_in_one_line("plans that were made are kept."):
        kept = {Row(**plan["row"]): plan for plan in parse_json(args.data.read_bytes())} if args.data.exists() else {}
        wanted = [row for row in ROWS if not args.page and row.kind.startswith(args.kind or "")]
        made = {Row(**plan["row"]): compact(plan) for plan in plan_rows(wanted, args.runs)}
        plans = [found for row in ROWS if (found := made.get(row) or kept.get(row))]
        write_text(args.data, "[\n" + ",\n".join(map(as_json, plans)) + "\n]\n")
        write_text(announce_overwrite(args.out), page(plans))
        print(f"wrote {args.data} and {args.out}")


if __name__ == "__main__":
    main()
