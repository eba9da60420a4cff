"""Many runs as one command: every setting of a sweep with every seed, and a table of what came out.

    python -m tvconv_jax.analysis.sweep configs/sweeps/table4.py --seeds=0,1,2 --out=runs/table4
    python -m tvconv_jax.analysis.sweep configs/sweeps/table4.py:data=casia --config.data.root=casia --out=runs/paper4
    sbatch --array=0-11 --wrap "python -m tvconv_jax.analysis.sweep configs/sweeps/table4.py --out=runs/table4"

What stands behind the colon goes to every config, ``--config.key=value`` too. Runs that ended are not repeated, one
that was stopped goes on, one that fails does not keep the others from running. In an array of SLURM jobs each takes its
share. Every run is ``OUT/<setting>/seed<s>``, made by ``python -m tvconv_jax.main`` with its output in ``log.txt``.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from tvconv_jax.analysis.report.sweep import Entry, write_sweep_report
from tvconv_jax.errors import UserError

PARTS = ("sweep.json", "report.html")  # of a sweep folder, besides the settings


@dataclasses.dataclass(frozen=True, eq=False)  # by identity, for changes have no hash
class Setting:
    """A row of the table.

    Attributes:
        label: Its name, and its folder's.
        config: Config file.
        argument: Behind the colon, before what the command adds.
        changes: Values by key, as in ``{"model.hidden_channels": 8}``.
        group: Rows of one group stand together.
    """

    label: str
    config: str
    argument: str = ""
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    group: str = ""

    @property
    def folder(self) -> str:
        return re.sub(r"[^\w.-]+", "_", self.name)

    @property
    def name(self) -> str:
        return f"{self.group} {self.label}".strip()


class Sweep(NamedTuple):
    """What a file of ``configs/sweeps`` returns from ``get_sweep()``.

    Attributes:
        title: What is compared, and where in the paper.
        settings: The rows.
        note: What to know when reading the table.
    """

    title: str
    settings: Sequence[Setting]
    note: str = ""


class Run(NamedTuple):
    """One setting with one seed."""

    setting: Setting
    seed: int
    workdir: Path

    def command(self, argument: str, overrides: Sequence[str]) -> list[str]:
        """What trains it."""
        arguments = ",".join(filter(None, (self.setting.argument, argument, f"seed={self.seed}")))
        changes = [f"--config.{key}={value}" for key, value in self.setting.changes.items()]
        config = f"--config={self.setting.config}:{arguments}"
        return [sys.executable, "-m", "tvconv_jax.main", config, *changes, *overrides, f"--workdir={self.workdir}"]


def load_sweep(path: str) -> Sweep:
    """Runs a file of ``configs/sweeps`` and checks what it returns.

    Raises:
        UserError: If there is no such file, it is no sweep, it names a config that is not there, or a row twice.
    """
    if not Path(path).is_file():
        there = ", ".join(sorted(str(file) for file in Path(path).parent.glob("*.py"))) or "no sweeps"
        raise UserError(f"there is no file {path}; beside it are: {there}.")
    spec = importlib.util.spec_from_file_location("tvconv_jax_sweep", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_sweep"):
        raise UserError(f"{path} has no get_sweep(); it is a config, or another file: give it to tvconv_jax.main.")
    sweep = module.get_sweep()
    folders = [setting.folder for setting in sweep.settings]
    for setting in sweep.settings:
        if not Path(setting.config).is_file():
            raise UserError(f"{path} names the config {setting.config}, which is not there; run it from the project.")
        if folders.count(setting.folder) > 1:
            raise UserError(f"{path} has two settings that go to the folder {setting.folder}; name them apart.")
    return sweep


def check_folder(out: Path, sweep: Sweep) -> None:
    """Raises a ``UserError`` if the folder holds anything that is not of this sweep."""
    known = {setting.folder for setting in sweep.settings} | set(PARTS)
    foreign = sorted(path.name for path in out.iterdir() if path.name not in known) if out.exists() else []
    if foreign:
        raise UserError(f"{out} holds {foreign[0]}, which is not of this sweep; choose another --out, or move it away.")


def train(run: Run, command: Sequence[str]) -> str | None:
    """Trains one run in a process of its own; what went wrong, if anything did."""
    run.workdir.mkdir(parents=True, exist_ok=True)
    with (run.workdir / "log.txt").open("a") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode == 0 and (run.workdir / "results.json").exists():
        return None
    last = (run.workdir / "log.txt").read_text(errors="replace").strip().splitlines() or [""]
    return f"exit code {done.returncode}: {last[-1].removeprefix('error: ')} ({run.workdir / 'log.txt'})"


def read(runs: Sequence[Run]) -> dict[Run, dict[str, Any]]:
    """``results.json`` of every run that ended."""
    results = {}
    for run in runs:
        file = run.workdir / "results.json"
        if not file.exists():
            continue
        try:
            results[run] = json.loads(file.read_text())
            results[run]["mean_accuracy"], results[run]["complexity"]["macs"]  # what the table reads
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{file} holds no results of a face run; remove that folder, and it is run again."
            ) from None
    return results


def show(sweep: Sweep, results: Mapping[Run, dict[str, Any]]) -> Table:
    """A row a setting: cost, accuracy on every set and on average, mean ± standard deviation over seeds."""
    sets = list(dict.fromkeys(name for result in results.values() for name in result["verification"]))
    table = Table(title=sweep.title, caption=sweep.note or None)
    for column in ("setting", "seeds", "MACs M", "params K", "in training K", "img/s", *sets, "mean accuracy %"):
        table.add_column(column, justify="left" if column == "setting" else "right")
    group = None
    for setting in sweep.settings:
        found = [result for run, result in results.items() if run.setting == setting]
        if setting.group != group and table.row_count:
            table.add_section()
        group = setting.group
        name = f"{group} {setting.label}".strip()
        if not found:
            table.add_row(name, "0")
            continue
        cost = found[0]["complexity"]
        numbers = [cost["macs"] / 1e6, cost["params"] / 1e3, cost["train_params"] / 1e3]
        rate = np.median([result["images_per_second"] for result in found])
        accuracies = [[100 * r["verification"][s]["accuracy"] for r in found if s in r["verification"]] for s in sets]
        mean = [100 * result["mean_accuracy"] for result in found]
        cells = [f"{numbers[0]:.2f}", f"{numbers[1]:,.0f}", f"{numbers[2]:,.0f}", f"{rate:.0f}"]
        table.add_row(name, str(len(found)), *cells, *map(_spread, accuracies), _spread(mean))
    return table


def _line(run: Run, result: dict[str, Any]) -> dict[str, Any]:
    """A run in ``sweep.json``, which says of what setting it is: figures are drawn from this file alone."""
    setting = run.setting
    about = {"setting": setting.folder, "group": setting.group, "label": setting.label, "seed": run.seed}
    return about | result


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{np.mean(values):.2f}" + (f" ± {np.std(values):.2f}" if len(values) > 1 else "")


def share_of_array(runs: Sequence[Run], environment: Mapping[str, str]) -> list[Run]:
    """The runs of this job of a SLURM array; all of them where there is none."""
    index, first = environment.get("SLURM_ARRAY_TASK_ID"), environment.get("SLURM_ARRAY_TASK_MIN", "0")
    if index is None:
        return list(runs)
    return list(runs[int(index) - int(first) :: int(environment["SLURM_ARRAY_TASK_COUNT"])])


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m tvconv_jax.analysis.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("sweep", help="a file of configs/sweeps, with arguments for all its configs behind a colon")
    add("--out", type=Path, default=None, help="folder of the runs; default: runs/<name of the file>")
    add("--seeds", type=_integers, default=[0, 1, 2], help="default: 0,1,2")
    add("--show", action="store_true", help="trains nothing, prints the table of what is there")
    add("--dry-run", action="store_true", help="prints the commands that would run")
    args, overrides = parser.parse_known_args(argv)
    for text in overrides:
        if not text.startswith("--config."):
            parser.error(f"unrecognized argument: {text}; what goes to the configs starts with --config.")
    return args, overrides


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    args, overrides = _parse(argv)
    path, _, argument = args.sweep.partition(":")
    out = (args.out or Path("runs", Path(path).stem)).expanduser().absolute()
    try:
        sweep = load_sweep(path)
        check_folder(out, sweep)
        failed = _run_all(args, sweep, out, argument, overrides)
    except UserError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on.", file=sys.stderr)
        sys.exit(130)
    if failed:
        sys.exit(1)


def _run_all(
    args: argparse.Namespace, sweep: Sweep, out: Path, argument: str, overrides: Sequence[str]
) -> dict[Run, str]:
    """Trains what is missing and prints the table; what went wrong, run by run."""
    runs = [Run(s, seed, out / s.folder / f"seed{seed}") for seed in args.seeds for s in sweep.settings]
    mine = [run for run in share_of_array(runs, os.environ) if not (run.workdir / "results.json").exists()]
    if args.dry_run:
        for run in mine:
            print(shlex.join(run.command(argument, overrides)))
        return {}
    failed = {}
    for number, run in enumerate([] if args.show else mine, start=1):
        print(f"[{number}/{len(mine)}] {run.setting.folder}, seed {run.seed}", flush=True)
        if error := train(run, run.command(argument, overrides)):
            failed[run] = error
            print(f"  failed: {error}", flush=True)
    results = read(runs)
    if results:
        out.mkdir(parents=True, exist_ok=True)
        (out / "sweep.json").write_text(json.dumps([_line(*item) for item in results.items()], indent=1) + "\n")
        console = Console()
        (console if console.is_terminal else Console(width=160)).print(show(sweep, results))
    if results or failed:
        entries = [Entry(r.setting.name, r.seed, r.workdir, results.get(r), failed.get(r)) for r in runs]
        write_sweep_report(out, sweep.title, sweep.note, entries)
        print(f"Report: {out / 'report.html'}")
    for run, error in failed.items():
        print(f"failed: {run.setting.folder}, seed {run.seed}: {error}")
    return failed


if __name__ == "__main__":
    main()
