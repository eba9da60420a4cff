"""A plan for a person to read."""

from collections import defaultdict

from rich.console import Console
from rich.table import Table

from tvconv_jax.bench.plan import Plan

ASSUMED = (
    "Temporaries, and bytes read and written, are of the program as XLA compiles it for a CPU: a TPU's or GPU's "
    "compiler fuses otherwise and needs more or less.",
    "Images/s is what peak figures allow if compute, memory and links each hide behind the slowest of them: nothing is "
    "measured, latency is left out, real runs stay below.",
    "Sent, of an array, among n devices: 2 (n-1)/n of it for an all-reduce, (n-1)/n for an all-gather.",
)


def print_plan(plan: Plan) -> None:
    """The plan as tables, its assumptions, and a warning if it does not fit."""
    console = Console()
    console = console if console.is_terminal else Console(width=110)
    kind, mesh = plan.kind, " x ".join(f"{name} {size}" for name, size in plan.mesh.items())
    title = f"{plan.devices} x {kind.name} ({mesh}), {plan.batch_size} pictures a step, {plan.identities:,} identities"
    table = Table(title=title, show_header=False, title_justify="left")
    for row in _rows(plan):
        table.add_row(*row)
    console.print(table)
    for line in (*ASSUMED, f"Peak figures: {kind.source}"):
        console.print(f"- {line}", highlight=False, soft_wrap=True)
    if not plan.fits:
        console.print(warning(plan), style="bold red", highlight=False, soft_wrap=True)


def warning(plan: Plan) -> str:
    """What to do about a step that does not fit."""
    what, way = "parameters and optimizer", "cut the head over more devices (mesh.model)"
    if plan.activation_bytes > plan.parameter_bytes + plan.optimizer_bytes:
        what = "activations and other temporaries"
        way = "take more devices, train.grad_accum_steps, model.remat, or a smaller data.batch_size"
    return (
        f"warning: does not fit: {size(plan.memory)} a device, and a {plan.kind.name} has {size(plan.kind.memory)}; "
        f"most of it are {what}: {way}."
    )


def _rows(plan: Plan) -> list[tuple[str, str]]:
    parameters = ", ".join(f"{name} {numbers:,}" for name, numbers in plan.parameters.items())
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
        ("", f"{plan.counted_flops:.3g} products by our count; {generator:.0f} % of it makes TVConv's kernels"),
        ("bytes read and written, a device", size(plan.accessed_bytes)),
        ("bytes sent, a device", size(plan.sent)),
        *(("", row) for row in _traffic(plan)),
        ("a step at peak figures", shares),
        ("images/s expected", f"{plan.images_per_second:,.0f}, bound by {max(plan.seconds, key=plan.seconds.get)}"),
        ("images/s at best", f"{plan.images_per_second_at_best:,.0f}, if what is held were written and read only once"),
    ]


def _traffic(plan: Plan) -> list[str]:
    """A line for each kind of collective and number of devices in it."""
    groups = defaultdict(list)
    for one in plan.traffic:
        groups[one.kind, one.group].append(one)
    return [
        f"{sum(one.times for one in same)} {kind} among {group}: {size(sum(one.sent for one in same))} sent"
        for (kind, group), same in sorted(groups.items())
        if group > 1
    ]


def size(number: float) -> str:
    """Bytes in words."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:.3g} {unit}" if number < 1000 * factor else f"{number / factor:,.0f} {unit}"
    return f"{number:.0f} B"
