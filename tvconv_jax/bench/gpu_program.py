"""Check of the training step as XLA compiles it for a GPU: bytes and kernels of a step beside their bounds.

    python -m tvconv_jax.bench.gpu_program

MobileNetV2 x0.1 at 96x96, 512 images a step, 10,000 identities, for one H200 that is described and need not be there.
Exits with code 1 if a figure is over its bound. Needs the extra ``plan-gpu``; ``make gpu-program`` makes an environment
for it. Plans of the same commit that are in ``--runs`` are not made again.
"""

import sys
from collections.abc import Sequence
from typing import Any

from tvconv_jax.bench.plan_runs import Row, plan_rows
from tvconv_jax.utils.cli import Parser, ends_in_one_line, output_folder
from tvconv_jax.utils.console import make_table, print_table
from tvconv_jax.utils.errors import print_error

MAX_GB = {"float32": 30.0, "bfloat16": 0.55 * 30}
MAX_KERNELS = {"tvconv": 800, "depthwise": 450}
ROWS = [Row("mb01", "h200", operator=operator, precision=half) for half in MAX_GB for operator in MAX_KERNELS]


def figures(plan: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Return the text, the value and the bound of a plan's gigabytes and kernels."""
    gigabytes, count = plan["accessed_bytes"] / 1e9, plan["kernels"]
    limits = MAX_GB[plan["row"]["precision"]], MAX_KERNELS[plan["row"]["operator"]]
    return [(f"{gigabytes:.1f} GB", gigabytes, limits[0]), (f"{count:,} kernels", count, limits[1])]


def over(plans: Sequence[dict[str, Any]]) -> list[str]:
    """Return a phrase for every figure that is over its bound, or missing."""
    return [
        f"{plan['row']['operator']} {plan['row']['precision']} {text}"
        for plan in plans
        for text, value, limit in figures(plan)
        if not 0 < value <= limit
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = Parser(prog="python -m tvconv_jax.bench.gpu_program", description=__doc__)
    parser.add_argument("--runs", type=output_folder, default="runs/plan", metavar="DIR", help="folder of the plans")
    args = parser.parse_args(argv)
    with ends_in_one_line("plans that were made are kept."):
        plans = plan_rows(ROWS, args.runs)
    table = make_table(("operator", "precision", "a step", "at most", "kernels", "at most"), left=("operator",))
    for plan in plans:
        (size, _, most), (count, _, most_kernels) = figures(plan)
        cells = (size, f"{most:g} GB", count.removesuffix(" kernels"), f"{most_kernels:,}")
        table.add_row(plan["row"]["operator"], plan["row"]["precision"], *cells)
    print_table(table, width=110)
    if found := over(plans):
        print_error(f"over its bound: {'; '.join(found)}")
        sys.exit(1)
    print("all within their bounds")


if __name__ == "__main__":
    main()
