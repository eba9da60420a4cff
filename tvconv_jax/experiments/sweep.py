"""Many runs as one command: every setting of a sweep with every seed, and a table of the results.

    python -m tvconv_jax.experiments.sweep configs/sweeps/table4.py --seeds=0,1,2 --out=runs/table4
    python -m tvconv_jax.experiments.sweep configs/sweeps/figure10.py --settings="none *,rotation tvconv *" --jobs=2
    python -m tvconv_jax.experiments.sweep configs/sweeps/table4.py:data=casia --config.data.root=casia --out=runs/p4
    sbatch --array=0-9 --wrap "python -m tvconv_jax.experiments.sweep configs/sweeps/table4.py --out=runs/table4"

Arguments behind the colon, and --config.key=value, go to every config. To resume, rerun the same command: runs that
ended are not repeated, stopped and failed ones are tried again, and a failure does not stop the others. In an array of
SLURM jobs each job takes its share. With --jobs=N, N runs train side by side, each on its own cores; small models share
cores badly.

A run is OUT/<setting>/seed<s>, made by python -m tvconv_jax.main with its output in log.txt. OUT/sweep.json holds a
line for each run that ended, which replaces its folder. With --reuse-results=FILE a sweep takes runs of the same config
from another sweep.json. To repeat a run, remove its folder and its line.
"""

import argparse
import functools
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from tvconv_jax.experiments.sweep_file import Setting, Sweep, check_folder, chosen, load_sweep
from tvconv_jax.experiments.sweep_record import Record, Results, check_configs, read_reused
from tvconv_jax.experiments.sweep_runs import Given, Run, check_overrides, runs_of, share_of_array, train_all
from tvconv_jax.report.sweep import MEAN, Cells, Entry, cost_cells, several_devices, spread, write_sweep_report
from tvconv_jax.tasks.configs.renamed import rename_arguments
from tvconv_jax.tasks.small_data import check_verified
from tvconv_jax.training.checkpoint_files import check_reachable
from tvconv_jax.utils.cli import Parser, ends_in_one_line, output_folder, path_argument, seed_argument
from tvconv_jax.utils.console import make_table, print_table
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import user_path


def show(sweep: Sweep, results: Mapping[Setting, Sequence[Any]]) -> Table:
    """Return a table of cost, accuracy on every set and on average, mean ± standard deviation over seeds."""
    head, *rows = _rows(sweep, results)
    devices = several_devices(result for found in results.values() for result in found)
    caption = "\n".join(filter(None, (sweep.note, devices))) or None
    table = make_table(head, left=["setting"], title=sweep.title, caption=caption)
    group = None
    for setting, (name, *cells) in zip(sweep.settings, rows, strict=True):
        if setting.group != group and table.row_count:
            table.add_section()
        group = setting.group
        table.add_row(escape(name), *cells)
    return table


def markdown(sweep: Sweep, results: Mapping[Setting, Sequence[Any]]) -> str:
    """Return the same as Markdown."""
    head, *rows = _rows(sweep, results)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def _rows(sweep: Sweep, results: Mapping[Setting, Sequence[Any]]) -> list[list[str]]:
    columns, cells = cells_of(sweep, results)
    rows = [[s.name, str(len(results.get(s, []))), *cells[s.name]] for s in sweep.settings]
    return [["setting", "seeds", *columns], *rows]


def cells_of(sweep: Sweep, results: Mapping[Setting, Sequence[Any]]) -> Cells:
    """Return the columns of the table, besides setting and seeds, and their cells."""
    every = [result for found in results.values() for result in found]
    sets = {name: f"verification.{name}.accuracy" for result in every for name in result.get("verification", {})}
    if any("balanced_accuracy" in result.get("test", {}) for result in every):  # of classification
        sets |= {"balanced accuracy %": "test.balanced_accuracy", "macro F1 %": "test.macro_f1"}
    columns = ["MACs M", "params K", "in training K", "img/s", *sets, MEAN, *sweep.columns]
    published = [column for column in columns if any(column in setting.paper for setting in sweep.settings)]
    paths = [*sets.values(), "mean_accuracy", *sweep.columns.values()]
    rows = {}
    for setting in sweep.settings:
        found = results.get(setting, [])
        cells = [*_cost(found), *(_accuracy(found, path) for path in paths)] if found else [""] * len(columns)
        paper = [f"{setting.paper[column]:.2f}" if column in setting.paper else "-" for column in published]
        rows[setting.name] = [*cells, *paper]
    return Cells([*columns, *(f"paper: {column}" for column in published)], rows)


def _cost(found: Sequence[Any]) -> list[str]:
    speeds = [result["images_per_second"] for result in found if result["images_per_second"]]
    return [*cost_cells(found[0]["complexity"]), f"{np.median(speeds):.0f}" if speeds else "-"]


def _accuracy(found: Sequence[Any], path: str) -> str:
    """Return the spread of the values at ``a.b.c``, which results of older versions may lack."""
    values = [functools.reduce(lambda part, key: (part or {}).get(key), path.split("."), result) for result in found]
    return spread([100 * value for value in values if value is not None])


__all__ = ["Run", "Setting", "Sweep", "main"]


def _check_settings(runs: Sequence[Run], given: Given) -> None:
    """Check keys, values, operators and stages of all runs before the first one trains."""
    from tvconv_jax.tasks.limits import check_values  # late, so that a table is shown at once
    from tvconv_jax.tasks.parts import model_of

    for run in runs:
        config = run.config(*given)
        check_values(config)
        model_of(config)


def _seeds(text: str) -> list[int]:
    return list(dict.fromkeys(seed_argument(part.strip()) for part in text.split(",")))


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    renamed = {"--known": "--reuse-results"}
    parser = Parser(prog="python -m tvconv_jax.experiments.sweep", description=__doc__, renamed=renamed)
    add = parser.add_argument
    add("sweep", help="a file of configs/sweeps; arguments for all its configs follow a colon")
    add("--out", type=output_folder, help="folder of the runs; default: runs/<name of the file>")
    add("--seeds", type=_seeds, default=[0, 1, 2], help="default: 0,1,2")
    add("--settings", type=_names, default=[], help="names of settings to run, globs, with commas; default: all")
    add("--jobs", type=int, default=1, help="simultaneous runs, each on its own cores; default: 1")
    results = "sweep.json with runs to reuse; repeatable"
    add("--reuse-results", type=path_argument, action="append", default=[], metavar="FILE", help=results)
    add("--show", action="store_true", help="train nothing, print the table of the runs that ended")
    add("--markdown", action="store_true", help="print the table as Markdown")
    add("--dry-run", action="store_true", help="print the commands that would run")
    args, overrides = parser.parse_known_args(argv)
    for text in overrides:
        if not text.startswith("--config."):
            parser.error(f"unrecognized argument: {text}; arguments for the configs start with --config.")
    return args, rename_arguments(overrides)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    args, overrides = _parse(argv)
    name, _, argument = args.sweep.partition(":")
    with ends_in_one_line("nothing was trained." if args.show or args.dry_run else "the same command goes on."):
        path = user_path(name)
        out = (args.out or Path("runs", path.stem)).absolute()
        check_reachable(out, "--out")
        sweep = load_sweep(str(path))
        check_folder(out, sweep)
        failed = _run_all(args, sweep, out, (argument, overrides))
    if failed:
        sys.exit(1)


def _run_all(args: argparse.Namespace, sweep: Sweep, out: Path, given: Given) -> dict[Run, str]:
    """Train the missing runs and print the table; return the errors of the runs that failed."""
    runs, wanted = runs_of(sweep.settings, args.seeds, out), chosen(sweep, args.settings)
    check_overrides(wanted, *given)
    share = share_of_array([run for run in runs if run.setting in wanted], os.environ)
    reused: Results = {}
    for file in args.reuse_results:
        reused |= read_reused(file, sweep.settings, out, given)
    record = Record(out / "sweep.json", sweep, reused)
    results = record.results(runs)
    missing = [run for run in share if run not in results]
    if not args.show:
        check_configs(results, given)
        _check_settings(missing, given)
    commands = [run.command(*given) for run in missing]
    if args.dry_run:
        print(*map(shlex.join, commands), sep="\n")
        return {}

    if not args.show:
        _check_verified(missing, given)

    def save() -> Results:
        results = record.results(runs)
        record.write(results)
        return results

    # Jobs of an array would all write the record, so each writes it at its end; until then folders hold the results.
    ended = save if "SLURM_ARRAY_TASK_ID" not in os.environ else None
    failed = {} if args.show else train_all(missing, commands, args.jobs, ended)
    _show(args, sweep, out, runs, save(), failed)
    return failed


def _check_verified(runs: Sequence[Run], given: Given) -> None:
    """Raise a ``UserError`` if runs that verify would train and have no result."""
    configs = [run.config(*given) for run in runs]
    verifying = (config for config in configs if config.task in ("face", "verification"))
    for config in {config.data.to_json(): config for config in verifying}.values():
        check_verified(config)


def _show(
    args: argparse.Namespace,
    sweep: Sweep,
    out: Path,
    runs: Sequence[Run],
    results: Results,
    failed: Mapping[Run, str],
) -> None:
    """Print the table and the errors, and write the report.

    Raises:
        UserError: If there is nothing to show.
    """
    if args.show and not results:
        raise UserError(f"{out} holds no run that ended; without --show the same command trains them.")
    by_setting = {s: [result for run, result in results.items() if run.setting is s] for s in sweep.settings}
    if results and args.markdown:
        print(markdown(sweep, by_setting))
    elif results:
        print_table(show(sweep, by_setting))
    if results or failed:
        entries = [Entry(r.setting.name, r.seed, r.workdir, results.get(r), failed.get(r)) for r in runs]
        write_sweep_report(out, sweep.title, sweep.note, entries, cells_of(sweep, by_setting))
        print(f"Report: {out / 'report.html'}")
    for run, error in failed.items():
        print(f"failed: {run}: {error}")


if __name__ == "__main__":
    main()
