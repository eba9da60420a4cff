"""The pages of the docs that are made from compiled plans."""

import textwrap
from collections.abc import Sequence
from typing import Any

from tvconv_jax.bench import gpu_program
from tvconv_jax.bench.kernels import PARTS
from tvconv_jax.bench.plan_runs import MODELS, Row
from tvconv_jax.bench.tables import format_bytes
from tvconv_jax.utils.errors import UserError

MILLION = 1_000_000
MARKS = "<!-- made by python -m tvconv_jax.bench.plan_table -->", "<!-- end of what it makes -->"
NAME = ("model", "operator", "precision", "identities", "devices", "data x model")
SHORT = (*NAME, "memory", "fits", "kernels", "read + written", "images/s at most")
MEMORY = (*NAME, "parameters + optimizer", "temporaries", "total", "fits")
TIME = (*NAME, "kernels", "read + written", "sent", "compute, ms", "memory, ms", "links, ms", "images/s")


def page(plans: Sequence[dict[str, Any]]) -> str:
    """Return the page as Markdown.

    Args:
        plans: As :func:`compact` returns them.
    """
    gpus, tpus = ([plan for plan in plans if plan["row"]["kind"].startswith(kind)] for kind in ("h200", "v5e"))
    commits, compilers = ", ".join(_unique(plans, "commit")), " and ".join(_unique(plans, "compiler"))
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


def summary(plans: Sequence[dict[str, Any]]) -> str:
    """Return the table and the sentences for the page about performance."""
    body = []
    for plan in plans:
        known = [f"{plan['kernels']:,}", format_bytes(plan["accessed_bytes"]), f"{plan['images_per_second']:,.0f}"]
        fits = "yes" if plan["fits"] else "**no**"
        body.append([*_name(plan), format_bytes(plan["memory"]), fits, *(known if plan["parts"] else ["", "", ""])])
    checked = [plan for plan in plans if Row(**plan["row"]) in gpu_program.ROWS]
    dates = ", ".join(dict.fromkeys(f"{plan['commit']} on {plan['date']}" for plan in checked))
    found = gpu_program.over(checked)
    verdict = f"Over its bound: {'; '.join(found)}." if found else "All figures are within their bounds."
    bounds = (
        f"`make gpu-program` holds MobileNetV2 x0.1 on an H200 to {gpu_program.MAX_GB['float32']:g} GB in float32 and "
        f"{gpu_program.MAX_GB['bfloat16']:g} GB in bfloat16, and to {gpu_program.MAX_KERNELS['tvconv']} kernels with "
        f"TVConv and {gpu_program.MAX_KERNELS['depthwise']} with depthwise convolutions. Last run at commit {dates}: "
        f"{len(checked)} of {len(gpu_program.ROWS)} programs. {verdict}"
    )
    return f"""\
{_table(SHORT, body)}

*Compiled, not measured, by {" and ".join(_unique(plans, "compiler"))} at commit {", ".join(_unique(plans, "commit"))}.*

{textwrap.fill(bounds, 120, break_on_hyphens=False)}"""


def put_summary(text: str, plans: Sequence[dict[str, Any]]) -> str:
    """Return a page with a new :func:`summary` between its marks.

    Raises:
        UserError: If the marks are missing.
    """
    before, begin, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not begin or not end:
        raise UserError(
            f"the page has no lines {MARKS[0]!r} and {MARKS[1]!r}; put them round the place of the summary."
        )
    return f"{before}{begin}\n\n{summary(plans)}\n\n{end}{after}"


def _unique(plans: Sequence[dict[str, Any]], name: str) -> list[str]:
    return list(dict.fromkeys(plan[name] for plan in plans))


def _name(plan: dict[str, Any]) -> list[str]:
    row, mesh = plan["row"], plan["mesh"]
    devices = f"{mesh['data'] * mesh['model']} x {row['kind'].partition(':')[0]}"
    axes = f"{mesh['data']} x {mesh['model']}"
    return [MODELS[row["model"]], row["operator"], row["precision"], f"{plan['identities']:,}", devices, axes]


def _memory(plan: dict[str, Any]) -> list[str]:
    sizes = [plan["parameter_bytes"] + plan["optimizer_bytes"], plan["activation_bytes"], plan["memory"]]
    return [*_name(plan), *map(format_bytes, sizes), "yes" if plan["fits"] else "**no**"]


def _refusals(plans: Sequence[dict[str, Any]]) -> str:
    lines = [f"- {', '.join(_name(plan))}: `{plan['refusal']}`" for plan in plans if plan["refusal"]]
    return "\n".join(["The compiler refuses these steps, so they have no line below:\n", *lines]) if lines else ""


def _time(plan: dict[str, Any]) -> list[str]:
    seconds = {name: f"{1e3 * plan['seconds'][name]:.3g}" for name in ("compute", "memory", "links")}
    slowest = max(seconds, key=plan["seconds"].get)
    seconds[slowest] = f"**{seconds[slowest]}**"
    moved = [f"{plan['kernels']:,}", format_bytes(plan["accessed_bytes"]), format_bytes(plan["sent"])]
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
