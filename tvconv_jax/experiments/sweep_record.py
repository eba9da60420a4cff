"""The record of a sweep, ``OUT/sweep.json``: results of runs that ended, of which some were reused or removed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tvconv_jax.experiments.sweep_file import Setting, Sweep
from tvconv_jax.experiments.sweep_results import Lines, check_result, read_lines
from tvconv_jax.experiments.sweep_runs import Given, Run, runs_of
from tvconv_jax.tasks.saved_config import differences
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import as_json, parse_json, write_text
from tvconv_jax.utils.storage import lock

Results = dict[Run, dict[str, Any]]
# Keys of results.json that sweep.json leaves out.
LENGTHY = ("folds", "thresholds", "layers", "notes", "command", "confusion", "per_class")


class Record:
    """The lines of ``OUT/sweep.json``, which may be missing, and results from other sweeps.

    Raises:
        UserError: If the file is damaged, or of another sweep.
    """

    def __init__(self, file: Path, sweep: Sweep, reused: Mapping[Run, dict[str, Any]]) -> None:
        self._file, self._sweep = file, sweep
        self._lines = _lines(reused) | self._read()

    def results(self, runs: Sequence[Run]) -> Results:
        """Return ``results.json`` of the runs that ended, from the record and from their folders."""
        return {run: self._lines[run.key] for run in runs if run.key in self._lines} | read_results(runs)

    def write(self, results: Results) -> None:
        """Write the lines known at first, those that other commands have written since, and those of results."""
        if not self._lines and not results:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        held, _ = lock(self._file.parent / ".lock", wait=True)
        with held:  # another command may train other seeds or settings in the same folder
            lines = self._lines | self._read() | _lines(results)
            folders = [setting.folder for setting in self._sweep.settings]
            ordered = sorted(lines, key=lambda key: (folders.index(key[0]), key[1]))
            write_text(self._file, "[\n" + ",\n".join(as_json(lines[key]) for key in ordered) + "\n]\n")

    def _read(self) -> Lines:
        if not self._file.exists():
            return {}
        lines = read_lines(self._file, "remove it, and it is written again from the folders beside it")
        if foreign := sorted({name for name, _ in lines} - {setting.folder for setting in self._sweep.settings}):
            raise UserError(f"{self._file} has the setting {foreign[0]}, which is not of this sweep.")
        return lines


def _lines(results: Mapping[Run, dict[str, Any]]) -> Lines:
    lines = {}
    for run, result in results.items():
        setting = run.setting
        names = {"setting": setting.folder, "group": setting.group, "label": setting.label, "seed": run.seed}
        lines[run.key] = names | _brief(result) | names  # a run of another sweep has other names
    return lines


def _brief(results: Any) -> Any:
    if not isinstance(results, dict):
        return results
    kept = {name: value for name, value in results.items() if name not in LENGTHY}
    return {name: value if name == "config" else _brief(value) for name, value in kept.items()}


def read_results(runs: Sequence[Run]) -> Results:
    """Read ``results.json`` of every run that ended, with its config.

    Raises:
        UserError: If one is damaged, or of a task without an accuracy.
    """
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
                f"{file} holds no results with an accuracy and a cost; remove that folder, and it is run again."
            ) from None
    return results


def read_reused(file: Path, settings: Sequence[Setting], out: Path, given: Given) -> Results:
    """Return the runs of a ``sweep.json``, of this sweep or another, that these settings would repeat.

    Raises:
        UserError: If there is none, or the file is not a ``sweep.json``.
    """
    lines, found, others = read_lines(file, "name the one of a sweep"), {}, []
    for run in runs_of(settings, sorted({seed for _, seed in lines}), out):
        config = run.config(*given)
        for line in (line for (_, seed), line in lines.items() if seed == run.seed):
            if other := differences(line["config"], config):
                others.append(other)
            else:
                found[run] = line
    if not found:
        nearest = min(others, key=len, default="it is empty")
        raise UserError(f"{file} holds no run of this sweep, nor one of the same config (the nearest: {nearest}).")
    return found


def check_configs(results: Mapping[Run, dict[str, Any]], given: Given) -> None:
    """Raise a ``UserError`` if a run that ended has another config than this command would train."""
    for run, result in results.items():
        if other := differences(result["config"], run.config(*given)):
            raise UserError(f"{run.workdir} is of another config ({other}); ask for that, or choose another --out.")
