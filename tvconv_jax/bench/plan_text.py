"""A plan as the command prints it."""

from collections import defaultdict

from rich.console import Console
from rich.table import Table

from tvconv_jax.bench.kernels import PartTotal
from tvconv_jax.bench.plan import Plan
from tvconv_jax.bench.tables import format_bytes
from tvconv_jax.utils.console import make_table, print_table

ESTIMATE = (
    "Temporaries, and bytes read and written, are of the program as XLA compiles it for a CPU. The compiler of a TPU "
    "or GPU fuses other operations and needs more or less."
)
COMPILED = (
    "Temporaries, kernels and bytes are facts of the program as compiled for this device. A kernel's bytes are every "
    "operand and result once, as if no cache held them. A kernel belongs to the part of its last operation."
)
ASSUMPTIONS = (
    "Images/s assume that compute, memory and links overlap fully and run at peak. Nothing is measured; latency and "
    "launches are left out: real runs are slower.",
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
    if plan.parts:
        print_table(_parts(plan), width=110)
    for line in (COMPILED if plan.compiler else ESTIMATE, *ASSUMPTIONS, f"Peak figures: {kind.source}"):
        print(f"- {line}")
    if not plan.fits:
        Console(highlight=False, soft_wrap=True).print(warning(plan), style="bold red")


def warning(plan: Plan) -> str:
    """Return a warning about a step that does not fit, with a hint."""
    cause, hint = "parameters and optimizer", "shard the head over more devices (mesh.model)"
    if plan.activation_bytes > plan.parameter_bytes + plan.optimizer_bytes:
        cause = "activations and other temporaries"
        hint = "use more devices, train.grad_accum_steps, model.remat, or a smaller data.batch_size"
    needed, there = format_bytes(plan.memory), format_bytes(plan.kind.memory)
    return (
        f"warning: does not fit: {needed} a device, and a {plan.kind.name} has {there}; most of it are {cause}: {hint}."
    )


def _rows(plan: Plan) -> list[tuple[str, str]]:
    parameters = ", ".join(f"{name} {count:,}" for name, count in plan.parameters.items())
    fits = "fits" if plan.fits else "DOES NOT FIT"
    rows = [
        ("parameters", f"{sum(plan.parameters.values()):,} ({parameters})"),
        ("parameters, bytes a device", format_bytes(plan.parameter_bytes)),
        ("optimizer", format_bytes(plan.optimizer_bytes)),
        ("batch and running statistics", format_bytes(plan.batch_bytes)),
        ("activations and other temporaries", format_bytes(plan.activation_bytes)),
        ("memory a device", f"{format_bytes(plan.memory)} of {format_bytes(plan.kind.memory)}: {fits}"),
    ]
    if plan.compiler:
        rows.append(("compiled by", plan.compiler))
    return rows + ([("refused", plan.refusal)] if plan.refusal else _speed(plan))


def _speed(plan: Plan) -> list[tuple[str, str]]:
    shares = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in plan.seconds.items())
    generator, bandwidth = 100 * plan.generator_flops / plan.counted_flops, plan.kind.reachable_bandwidth
    rows = [
        ("FLOPs of a step, a device", f"{plan.flops:.3g} as XLA counts the program") if plan.flops else None,
        ("", f"{plan.counted_flops:.3g} in products, {generator:.0f} % of them for kernels"),
        ("kernels of a step", f"{plan.kernels:,}") if plan.compiler else None,
        ("bytes read and written, a device", format_bytes(plan.accessed_bytes)),
        ("bytes sent, a device", format_bytes(plan.sent)),
        *(("", row) for row in _traffic(plan)),
        ("a step at peak figures", f"{shares}; memory at {bandwidth / 1e12:.3g} TB/s"),
        ("images/s expected", f"{plan.images_per_second:,.0f}, bound by {max(plan.seconds, key=plan.seconds.get)}"),
        ("images/s at best", f"{plan.images_per_second_at_best:,.0f}, if every array is written and read only once"),
    ]
    return [row for row in rows if row]


def _parts(plan: Plan) -> Table:
    """Return a table of the parts of the model, forward and backward."""
    columns = ("part", "forward", "kernels", "backward", "kernels", "total", "ms")
    table = make_table(columns, left=("part",), title="Bytes read and written by part", title_justify="left")
    found = {(part.part, part.backward): part for part in plan.parts}
    totals = {name: sum(part.size for part in plan.parts if part.part == name) for name, _ in found}
    for name, total in sorted(totals.items(), key=lambda item: -item[1]):
        cells = [_part_cells(found.get((name, backward))) for backward in (False, True)]
        table.add_row(
            name, *cells[0], *cells[1], format_bytes(total), f"{1e3 * total / plan.kind.reachable_bandwidth:.3g}"
        )
    return table


def _part_cells(part: PartTotal | None) -> tuple[str, str]:
    return (format_bytes(part.size), f"{part.kernels:,}") if part else ("", "")


def _traffic(plan: Plan) -> list[str]:
    """Return a line for each kind of collective and number of devices in it."""
    groups = defaultdict(list)
    for collective in plan.traffic:
        groups[collective.kind, collective.group].append(collective)
    return [
        f"{sum(one.times for one in same)} {kind} among {group}: {format_bytes(sum(one.sent for one in same))} sent"
        for (kind, group), same in sorted(groups.items())
        if group > 1
    ]
