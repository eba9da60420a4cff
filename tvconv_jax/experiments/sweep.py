"""Many runs as one command: every setting of a sweep with every seed, and a table of what came out.

    python -m tvconv_jax.experiments.sweep configs/sweeps/table4.py --seeds=0,1,2 --out=runs/table4
    python -m tvconv_jax.experiments.sweep configs/sweeps/figure10.py --settings="none *,rotation tvconv *" --jobs=2
    python -m tvconv_jax.experiments.sweep configs/sweeps/table4.py:data=casia --config.data.root=casia --out=runs/p4
    sbatch --array=0-9 --wrap "python -m tvconv_jax.experiments.sweep configs/sweeps/table4.py --out=runs/table4"

What stands behind the colon goes to every config, ``--config.key=value`` too. Runs that ended are not repeated, one
that was stopped goes on, one that fails does not keep the others from running. In an array of SLURM jobs each takes its
share; with ``--jobs=N`` N runs train side by side, each on cores of its own, which small models share badly. Every run
is ``OUT/<setting>/seed<s>``, made by ``python -m tvconv_jax.main`` with its output in ``log.txt``. ``OUT/sweep.json``
holds a line for each that ended, and is enough: their folders may go, and with ``--known=FILE`` a sweep goes on in
another place, or takes from another sweep the runs of a config that both have. To repeat a run, remove its folder and
its line.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from tvconv_jax.experiments.sweep_file import Setting, Sweep, chosen, load_sweep
from tvconv_jax.experiments.sweep_results import check_result, read_lines
from tvconv_jax.experiments.sweep_runs import Run, check_overrides, train_all
from tvconv_jax.experiments.sweep_table import cells_of, markdown, show
from tvconv_jax.report.sweep import Entry, write_sweep_report
from tvconv_jax.tasks.configs.renamed import rename_arguments
from tvconv_jax.tasks.saved_config import differences
from tvconv_jax.training.checkpoint_files import check_reachable
from tvconv_jax.utils.cli import Parser, ends_in_one_line, output_folder, path_argument, seed_argument
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import as_json, is_left_over, user_path, write_text
from tvconv_jax.utils.plain_files import parse_json
from tvconv_jax.utils.storage import lock

__all__ = ["Run", "Setting", "Sweep", "main"]

WRITTEN = ("sweep.json", "report.html", "operator_table.json")
PARTS = (*WRITTEN, *(f"{name}.part" for name in WRITTEN), ".lock")  # of OUT, besides settings; .part of older versions
LENGTHY = ("folds", "thresholds", "layers", "notes", "command")  # of results.json, left out of sweep.json


def check_folder(out: Path, sweep: Sweep) -> None:
    """Raises a ``UserError`` if the folder holds anything that is not of this sweep."""
    for path in (out, *(out / setting.folder for setting in sweep.settings)):
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is no folder; choose another --out, or move it away.")
    known = {setting.folder for setting in sweep.settings} | set(PARTS)
    there = {path.name for path in out.iterdir()} if out.exists() else set()
    foreign = sorted(name for name in there - known if not is_left_over(name))
    if not there & {"sweep.json", *(setting.folder.split("/")[0] for setting in sweep.settings)}:
        foreign += sorted(there & set(WRITTEN))  # of no call of this sweep
    if foreign:
        raise UserError(f"{out} holds {foreign[0]}, which is not of this sweep; choose another --out, or move it away.")


def _runs(settings: Sequence[Setting], seeds: Sequence[int], out: Path) -> list[Run]:
    return [Run(setting, seed, out / setting.folder / f"seed{seed}") for seed in seeds for setting in settings]


def read(runs: Sequence[Run]) -> dict[Run, dict[str, Any]]:
    """``results.json`` of every run that ended."""
    results = {}
    for run in runs:
        file = run.workdir / "results.json"
        if not file.exists():
            continue
        try:
            config = parse_json((run.workdir / "config.json").read_text())
            results[run] = parse_json(file.read_text()) | {"config": config}
            check_result(results[run], file)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{file} holds no results of a face run; remove that folder, and it is run again."
            ) from None
    return results


def _line(run: Run, result: dict[str, Any]) -> dict[str, Any]:
    """A run in ``sweep.json``, from which figures are drawn: of what setting it is, and its results in brief."""
    setting = run.setting
    about = {"setting": setting.folder, "group": setting.group, "label": setting.label, "seed": run.seed}
    return about | _brief(result) | about  # a run of another sweep has names of its own


def _brief(results: Any) -> Any:
    if not isinstance(results, dict):
        return results
    kept = {name: value for name, value in results.items() if name not in LENGTHY}
    return {name: value if name == "config" else _brief(value) for name, value in kept.items()}


def _own_lines(record: Path, sweep: Sweep) -> dict[tuple[str, int], dict[str, Any]]:
    lines = read_lines(record, "remove it, and it is written anew from the folders beside it")
    if foreign := sorted({name for name, _ in lines} - {setting.folder for setting in sweep.settings}):
        raise UserError(f"{record} has the setting {foreign[0]}, which is not of this sweep.")
    return lines


def _write_record(
    record: Path,
    sweep: Sweep,
    known: Mapping[tuple[str, int], dict[str, Any]],
    found: Mapping[tuple[str, int], dict[str, Any]],
) -> None:
    """Writes what was known at the beginning, what others have written since, and what is found in the folders."""
    if not known and not found:
        return
    record.parent.mkdir(parents=True, exist_ok=True)
    file, _ = lock(record.parent / ".lock", wait=True)
    with file:  # another command may train other seeds or settings in the same folder
        there = _own_lines(record, sweep) if record.exists() else {}
        _write_lines(record, sweep, {**known, **there, **found})


def _write_lines(record: Path, sweep: Sweep, lines: Mapping[tuple[str, int], dict[str, Any]]) -> None:
    places = {(s.folder, seed): (place, seed) for place, s in enumerate(sweep.settings) for _, seed in lines}
    ordered = (lines[key] for key in sorted(lines, key=places.__getitem__))
    write_text(record, "[\n" + ",\n".join(map(as_json, ordered)) + "\n]\n")


def check_configs(results: Mapping[Run, dict[str, Any]], argument: str, overrides: Sequence[str]) -> None:
    """Raises a ``UserError`` if a run that ended is of another config than this command would train."""
    for run, result in results.items():
        if other := differences(result["config"], run.config(argument, overrides)):
            raise UserError(f"{run.workdir} is of another config ({other}); ask for that, or choose another --out.")


def read_known(
    file: Path, settings: Sequence[Setting], out: Path, argument: str, overrides: Sequence[str]
) -> dict[Run, dict[str, Any]]:
    """The runs of a ``sweep.json``, of this sweep or another, that these settings would repeat.

    Raises:
        UserError: If there is none, or the file is no ``sweep.json``.
    """
    lines, known, others = read_lines(file, "name the one of a sweep"), {}, []
    for run in _runs(settings, sorted({seed for _, seed in lines}), out):
        config = run.config(argument, overrides)
        for line in (line for (_, seed), line in lines.items() if seed == run.seed):
            if other := differences(line["config"], config):
                others.append(other)
            else:
                known[run] = line
    if not known:
        nearest = min(others, key=len, default="it is empty")
        raise UserError(f"{file} holds no run of this sweep, nor one of the same config (the nearest: {nearest}).")
    return known


def _check_settings(runs: Sequence[Run], argument: str, overrides: Sequence[str]) -> None:
    """What is wrong with a key, a value, an operator or a stage of any run is told before one trains."""
    from tvconv_jax.tasks.limits import check_values  # late, so that a table is shown at once
    from tvconv_jax.tasks.parts import model_of

    for run in runs:
        config = run.config(argument, overrides)
        check_values(config)
        model_of(config)


def share_of_array(runs: Sequence[Run], environment: Mapping[str, str]) -> list[Run]:
    """The runs of this job of a SLURM array; all of them where there is none.

    Raises:
        UserError: If the array has gaps, in which runs would be lost.
    """
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return list(runs)
    index, first, last, jobs = (int(environment[f"SLURM_ARRAY_TASK_{name}"]) for name in ("ID", "MIN", "MAX", "COUNT"))
    if last - first + 1 != jobs:
        raise UserError(
            f"an array of {jobs} jobs from {first} to {last} has gaps; give a whole range, as in --array=0-11: what "
            f"ended is not repeated."
        )
    return list(runs[index - first :: jobs])


def _seeds(text: str) -> list[int]:
    return list(dict.fromkeys(seed_argument(part.strip()) for part in text.split(",")))


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser(
        prog="python -m tvconv_jax.experiments.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("sweep", help="a file of configs/sweeps, with arguments for all its configs behind a colon")
    add("--out", type=output_folder, default=None, help="folder of the runs; default: runs/<name of the file>")
    add("--seeds", type=_seeds, default=[0, 1, 2], help="default: 0,1,2")
    add("--settings", type=_names, default=[], help="names of settings to run, globs, with commas; default: all")
    add("--jobs", type=int, default=1, help="runs at a time, each on cores of its own; default: 1")
    add(
        "--known",
        type=path_argument,
        action="append",
        default=[],
        help="sweep.json of runs that ended elsewhere; repeatable",
    )
    add("--show", action="store_true", help="trains nothing, prints the table of what is there")
    add("--markdown", action="store_true", help="prints the table as Markdown")
    add("--dry-run", action="store_true", help="prints the commands that would run")
    args, overrides = parser.parse_known_args(argv)
    for text in overrides:
        if not text.startswith("--config."):
            parser.error(f"unrecognized argument: {text}; what goes to the configs starts with --config.")
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
        failed = _run_all(args, sweep, out, argument, overrides)
    if failed:
        sys.exit(1)


def _run_all(
    args: argparse.Namespace, sweep: Sweep, out: Path, argument: str, overrides: Sequence[str]
) -> dict[Run, str]:
    """Trains what is missing and prints the table; what went wrong, run by run."""
    runs = _runs(sweep.settings, args.seeds, out)
    wanted = chosen(sweep, args.settings)
    check_overrides(wanted, argument, overrides)
    mine = share_of_array([run for run in runs if run.setting in wanted], os.environ)
    record = out / "sweep.json"
    lines = {}
    for file in args.known:
        known = read_known(file, sweep.settings, out, argument, overrides)
        lines |= {(run.setting.folder, run.seed): _line(run, result) for run, result in known.items()}
    if record.exists():
        lines |= _own_lines(record, sweep)
    known = {run: lines[key] for run in runs if (key := (run.setting.folder, run.seed)) in lines}
    if not args.show:
        check_configs(known | read(runs), argument, overrides)
    mine = [run for run in mine if run not in known and not (run.workdir / "results.json").exists()]
    if not args.show:
        _check_settings(mine, argument, overrides)
    if args.dry_run:
        print(*(shlex.join(run.command(argument, overrides)) for run in mine), sep="\n")
        return {}
    commands = [run.command(argument, overrides) for run in mine]

    def recorded() -> dict[Run, dict[str, Any]]:
        """Results of all runs that ended, and their lines in the record."""
        results = known | read(runs)
        found = {(run.setting.folder, run.seed): _line(run, result) for run, result in results.items()}
        _write_record(record, sweep, lines, found)
        return results

    # Jobs of an array would write it at once, so each does when it ends; until then the folders say what ended.
    alone = "SLURM_ARRAY_TASK_ID" not in os.environ
    failed = {} if args.show else train_all(mine, commands, args.jobs, recorded if alone else None)
    results = recorded()
    by_setting = {s: [result for run, result in results.items() if run.setting is s] for s in sweep.settings}
    if results:
        console = Console()
        if args.markdown:
            print(markdown(sweep, by_setting))
        else:
            (console if console.is_terminal else Console(width=160)).print(show(sweep, by_setting))
    if results or failed:
        entries = [Entry(r.setting.name, r.seed, r.workdir, results.get(r), failed.get(r)) for r in runs]
        write_sweep_report(out, sweep.title, sweep.note, entries, cells_of(sweep, by_setting))
        print(f"Report: {out / 'report.html'}")
    for run, error in failed.items():
        print(f"failed: {run.setting.folder}, seed {run.seed}: {error}")
    return failed


if __name__ == "__main__":
    main()
