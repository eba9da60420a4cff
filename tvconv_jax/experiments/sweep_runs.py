"""The runs of a sweep, each in its own process, one after the other or several side by side."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from tvconv_jax.experiments.sweep_file import Setting
from tvconv_jax.tasks.command import config_of
from tvconv_jax.tasks.saved_config import flat
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.progress import reporter
from tvconv_jax.utils.tether import tethered

POLL = 0.1  # seconds between two checks of the processes
# Arguments and overrides of the sweep's command for all configs, as in ("data=casia", ["--config.data.root=casia"]).
Given = tuple[str, Sequence[str]]


class Run(NamedTuple):
    """A setting with a seed."""

    setting: Setting
    seed: int
    workdir: Path

    def __str__(self) -> str:
        return f"{self.setting.folder}, seed {self.seed}"

    @property
    def key(self) -> tuple[str, int]:
        return self.setting.folder, self.seed

    def command(self, argument: str, overrides: Sequence[str]) -> list[str]:
        """Return the command that trains the run."""
        flags = self._flags(argument, overrides)
        return [sys.executable, "-m", "tvconv_jax.main", *flags, f"--workdir={self.workdir}"]

    def config(self, argument: str, overrides: Sequence[str]) -> ConfigDict:
        """Return the config of that command.

        Raises:
            UserError: If an argument, a key or a value is unknown.
        """
        return config_of(self._flags(argument, overrides))

    def _flags(self, argument: str, overrides: Sequence[str]) -> list[str]:
        arguments = ",".join(filter(None, (self.setting.argument, argument, f"seed={self.seed}")))
        changes = [f"--config.{key}={value}" for key, value in self.setting.changes.items()]
        return [f"--config={self.setting.config}:{arguments}", *changes, *overrides]


def runs_of(settings: Sequence[Setting], seeds: Sequence[int], out: Path) -> list[Run]:
    """Return the runs of settings and seeds, in the order of training."""
    return [Run(setting, seed, out / setting.folder / f"seed{seed}") for seed in seeds for setting in settings]


def share_of_array(runs: Sequence[Run], environment: Mapping[str, str]) -> list[Run]:
    """Return the runs of this job of a SLURM array; all of them without an array.

    Raises:
        UserError: If the array has gaps, in which runs would be lost.
    """
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return list(runs)
    index, first, last, jobs = (int(environment[f"SLURM_ARRAY_TASK_{name}"]) for name in ("ID", "MIN", "MAX", "COUNT"))
    if last - first + 1 != jobs:
        raise UserError(
            f"an array of {jobs} jobs from {first} to {last} has gaps; give a whole range, as in --array=0-11: runs "
            f"that ended are not repeated."
        )
    return list(runs[index - first :: jobs])


def check_overrides(settings: Sequence[Setting], argument: str, overrides: Sequence[str]) -> None:
    """Refuse arguments behind the colon, or overrides, for all runs that change what the sweep itself sets.

    Raises:
        UserError: If one is a seed, or a key that a row sets, or would make two rows the same.
    """
    given = {override: override.removeprefix("--config.").partition("=")[0] for override in overrides}
    given |= {part: part.partition("=")[0] for part in argument.split(",") if part.partition("=")[0] == "seed"}
    for text, key in given.items():
        if key == "seed":
            raise UserError(f"{text}: a sweep gives every run its seed; name them with --seeds, as in --seeds=0,1,2.")
        for setting in settings if text in overrides else ():
            if any(f"{name}.".startswith(f"{key}.") or f"{key}.".startswith(f"{name}.") for name in _keys(setting)):
                raise UserError(
                    f"{text}: the sweep sets {key} itself, for {setting.name!r}; leave it out, or choose rows with "
                    f"--settings."
                )
    if not overrides:
        return
    seen: dict[str, tuple[Setting, str]] = {}
    for setting in settings:
        run = Run(setting, 0, Path())
        plain, changed = (run.config(argument, changes).to_json(sort_keys=True) for changes in ((), overrides))
        other, before = seen.setdefault(changed, (setting, plain))
        if before != plain:
            raise UserError(
                f"{' '.join(overrides)}: {other.name!r} and {setting.name!r} would be the same run; leave out "
                f"the keys that distinguish them."
            )


def _keys(setting: Setting) -> set[str]:
    """Return the keys that a row sets, by its changes or its argument; an empty one, as data.root, is for the user."""
    default, changed = (
        flat(config_of([f"--config={setting.config}:{text}"]).to_dict()) for text in ("", setting.argument)
    )
    return {*setting.changes, *(key for key in changed if changed[key] not in ("", default.get(key)))}


def shares_of_cores(jobs: int) -> list[list[int]]:
    """Divide the cores of this process among so many simultaneous runs.

    Raises:
        UserError: If there are fewer cores than runs.
    """
    cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else list(range(os.cpu_count() or 1))
    if not 1 <= jobs <= len(cores):
        raise UserError(f"--jobs={jobs} must be 1 to {len(cores)}, the number of cores.")
    return [cores[len(cores) * job // jobs : len(cores) * (job + 1) // jobs] for job in range(jobs)]


def train_all(
    runs: Sequence[Run], commands: Sequence[Sequence[str]], jobs: int, ended: Callable[[], Any] | None = None
) -> dict[Run, str]:
    """Train runs and return the errors of those that failed.

    Ctrl-C, or SIGTERM, stops the current runs, which save their state first. ``jobs`` runs train at once; ``ended`` is
    called whenever one has ended well.
    """
    waiting = list(enumerate(zip(runs, commands, strict=True), start=1))
    free, going, failed, start = shares_of_cores(jobs), {}, {}, time.monotonic()
    with reporter.doing(lambda: _status([run for run, _ in going.values()])), _ended_with(going):
        while waiting or going:
            while waiting and free:
                number, (run, command) = waiting.pop(0)
                done, left = number - 1 - len(going), len(waiting) + 1 + len(going)
                seconds = round((time.monotonic() - start) / done * left) if done else 0
                left = f" (about {timedelta(seconds=seconds)} left)" if done else ""
                print(f"[{number}/{len(runs)}] {run}{left}", flush=True)
                cores = free.pop(0)
                going[_start(run, command, cores)] = run, cores
            done = next((process for process in going if process.poll() is not None), None)
            if done is None:
                time.sleep(POLL)
                continue
            run, cores = going.pop(done)
            free.append(cores)
            if error := _error(run, done.returncode):
                failed[run] = error
                print(f"  failed: {run}: {error}", flush=True)
            elif ended:
                ended()
    return failed


@contextmanager
def _ended_with(processes: Iterable[subprocess.Popen]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def _status(runs: Sequence[Run]) -> str:
    return "; ".join(f"{run}: {_last_line(run)}" for run in runs) or "no run is active"


def _last_line(run: Run) -> str:
    try:
        text = (run.workdir / "log.txt").read_bytes()[-4096:].decode(errors="replace")
    except OSError:
        return ""
    return (text.strip().splitlines() or [""])[-1].strip()


def _start(run: Run, command: Sequence[str], cores: Sequence[int]) -> subprocess.Popen:
    # If the sweep is killed, its runs end too, so that the same command finds their folders free. A run has as many
    # threads as cores.
    run.workdir.mkdir(parents=True, exist_ok=True)
    with (run.workdir / "log.txt").open("a") as log:
        return subprocess.Popen(tethered(command, cores=cores), stdout=log, stderr=subprocess.STDOUT)


def _error(run: Run, code: int) -> str | None:
    if code == 0 and (run.workdir / "results.json").exists():
        return None
    return f"exit code {code}: {_last_line(run).removeprefix('error: ')} ({run.workdir / 'log.txt'})"
