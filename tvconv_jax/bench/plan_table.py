"""Plans of one H200 and of 1 to 64 TPU v5e chips, compiled by XLA's own compilers, for the docs.

    python -m tvconv_jax.bench.plan_table

makes the plans that ``--runs`` lacks for the commit of the code, keeps all in ``docs/appendix/data/plan.json``, and
writes ``docs/appendix/plan.md`` and the summary in ``docs/performance.md``. Stopped, the same command goes on. It
needs the extras ``plan-gpu`` and ``plan-tpu``; ``make plans`` makes an environment for it. ``--page`` writes the pages
from the kept plans alone.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from tvconv_jax.bench.plan_page import MILLION, page, put_summary
from tvconv_jax.bench.plan_runs import Row, plan_rows
from tvconv_jax.utils.cli import Parser, ends_in_one_line, output_folder
from tvconv_jax.utils.files import announce_overwrite, as_json, parse_json, write_text

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
DATA = "appendix/data/plan.json"  # in the folder of the docs
PAGE = "appendix/plan.md"
SUMMARY = "performance.md"
# Fields of a plan that stand in the file of data.
KEPT = (
    *("row", "commit", "date", "compiler", "compile_seconds", "refusal", "mesh", "batch_size", "identities"),
    *("parameters", "parameter_bytes", "optimizer_bytes", "batch_bytes", "activation_bytes", "memory", "fits"),
    *("counted_flops", "generator_flops", "kernels", "accessed_bytes", "sent", "seconds", "images_per_second", "parts"),
)


def compact(plan: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a plan that are kept, with one entry for each kind of collective and size of its groups."""
    groups: dict[tuple[str, int], list[int]] = defaultdict(list)
    for one in plan["traffic"]:
        groups[one["kind"], one["group"]].append(one["times"])
    traffic = [{"kind": kind, "group": group, "times": sum(times)} for (kind, group), times in sorted(groups.items())]
    return {name: plan[name] for name in KEPT} | {"kind": plan["kind"]["name"], "traffic": traffic}


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = Parser(prog="python -m tvconv_jax.bench.plan_table", description=__doc__)
    add = parser.add_argument
    add("--docs", type=output_folder, default="docs", metavar="DIR", help=f"has {PAGE}, {DATA} and {SUMMARY}")
    add("--runs", type=output_folder, default="runs/plan", metavar="DIR", help="folder of plans by commit")
    add("--device-kind", default="", help="only rows of kinds that begin so, as in h200; the others stay as they are")
    add("--page", action="store_true", help="make no plan")
    args = parser.parse_args(argv)
    with ends_in_one_line("plans that were made are kept."):
        data, short = args.docs / DATA, args.docs / SUMMARY
        kept = {Row(**plan["row"]): plan for plan in parse_json(data.read_bytes())} if data.exists() else {}
        wanted = [row for row in ROWS if row.kind.startswith(args.device_kind)]
        found = [] if args.page else plan_rows(wanted, args.runs)
        made = {Row(**plan["row"]): compact(plan) for plan in found}
        plans = [plan for row in ROWS if (plan := made.get(row) or kept.get(row))]
        write_text(data, "[\n" + ",\n".join(map(as_json, plans)) + "\n]\n")
        write_text(announce_overwrite(args.docs / PAGE), page(plans))
        write_text(short, put_summary(short.read_text(), plans))
        print(f"wrote {PAGE}, {DATA} and the summary in {SUMMARY}")


if __name__ == "__main__":
    main()
