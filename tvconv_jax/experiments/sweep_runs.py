"""The runs of a sweep, each in a process of its own, one after the other or several side by side."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
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

POLL = 0.1  # seconds between two looks at the processes


class Run(NamedTuple):
    """One setting with one seed."""

    setting: Setting
    seed: int
    workdir: Path

    def command(self, argument: str, overrides: Sequence[str]) -> list[str]:
        """What trains it."""
        asked = self._asked(argument, overrides)
        return [sys.executable, "-m", "tvconv_jax.main", *asked, f"--workdir={self.workdir}"]

    def config(self, argument: str, overrides: Sequence[str]) -> ConfigDict:
        """What that command trains.

        Raises:
            UserError: If an argument, a key or a value is none.
        """
        return config_of(self._asked(argument, overrides))

    def _asked(self, argument: str, overrides: Sequence[str]) -> list[str]:
        arguments = ",".join(filter(None, (self.setting.argument, argument, f"seed={self.seed}")))
        changes = [f"--config.{key}={value}" for key, value in self.setting.changes.items()]
        return [f"--config={self.setting.config}:{arguments}", *changes, *overrides]


def check_overrides(settings: Sequence[Setting], argument: str, overrides: Sequence[str]) -> None:
    """Check that what is given for all runs leaves alone what the sweep sets run by run.

    Args:
        settings: The rows.
        argument: What stands behind the colon of the sweep.
        overrides: As in ``--config.optimizer.momentum=0.8``.

    Raises:
        UserError: If a seed is among it, a key that a row sets, or two rows would become the same.
    """
    given = {override: override.removeprefix("--config.").partition("=")[0] for override in overrides}
    given |= {part: part.partition("=")[0] for part in argument.split(",") if part.partition("=")[0] == "seed"}
    for text, key in given.items():
        if key == "seed":
            raise UserError(f"{text}: a sweep gives every run its seed; name them with --seeds, as in --seeds=0,1,2.")
        for setting in settings if text in overrides else ():
            if any(f"{own}.".startswith(f"{key}.") or f"{key}.".startswith(f"{own}.") for own in _own_keys(setting)):
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
                f"{' '.join(overrides)}: {other.name!r} and {setting.name!r} would be the same run; leave out what "
                f"tells them apart."
            )


def _own_keys(setting: Setting) -> set[str]:
    """Keys that the row sets: by its changes, and by what stands behind the colon."""
    plain, own = (flat(config_of([f"--config={setting.config}:{text}"]).to_dict()) for text in ("", setting.argument))
    return {*setting.changes, *(key for key in own if own[key] != plain.get(key))}


def shares_of_cores(jobs: int) -> list[list[int]]:
    """The cores that this process may use, dealt out to so many runs at a time.

    Raises:
        UserError: If there are fewer cores than runs.
    """
    cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else list(range(os.cpu_count() or 1))
    if not 1 <= jobs <= len(cores):
        raise UserError(f"--jobs={jobs} must be 1 to {len(cores)}, the cores that are there.")
    return [cores[len(cores) * job // jobs : len(cores) * (job + 1) // jobs] for job in range(jobs)]


def train_all(
    runs: Sequence[Run], commands: Sequence[Sequence[str]], jobs: int, ended: Callable[[], Any] | None = None
) -> dict[Run, str]:
    """Trains runs, ``jobs`` at a time; what went wrong, run by run.

    Ctrl-C, or SIGTERM, stops those that are going on, which save their state first.

    Args:
        runs: Which.
        commands: What trains each.
        jobs: How many at a time.
        ended: Called whenever one has ended well.
    """
    activity = reporter.start(lambda: _going_on([run for run, _ in going.values()]))
    waiting = list(enumerate(zip(runs, commands, strict=True), start=1))
    free, going, failed, start = shares_of_cores(jobs), {}, {}, time.monotonic()
    try:
        while waiting or going:
            while waiting and free:
                number, (run, command) = waiting.pop(0)
                left = _time_left(number - 1 - len(going), len(waiting) + 1 + len(going), time.monotonic() - start)
                print(f"[{number}/{len(runs)}] {run.setting.folder}, seed {run.seed}{left}", flush=True)
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
                print(f"  failed: {run.setting.folder}, seed {run.seed}: {error}", flush=True)
            elif ended:
                ended()
    finally:
        reporter.stop(activity)
        _end(going)
    return failed


def _end(processes: Iterable[subprocess.Popen]) -> None:
    """Asks processes to save and end, and waits for them."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()


def _going_on(runs: Sequence[Run]) -> str:
    """The last line of every run that is going on."""
    return "; ".join(f"{run.setting.folder}, seed {run.seed}: {_last_line(run)}" for run in runs) or "no run goes on"


def _last_line(run: Run) -> str:
    try:
        text = (run.workdir / "log.txt").read_bytes()[-4096:].decode(errors="replace")
    except OSError:
        return ""
    return (text.strip().splitlines() or [""])[-1].strip()


def _time_left(ended: int, left: int, seconds: float) -> str:
    """What the runs that ended let expect of the others."""
    return f" (about {timedelta(seconds=round(seconds / ended * left))} left)" if ended else ""


def _start(run: Run, command: Sequence[str], cores: Sequence[int]) -> subprocess.Popen:
    # A sweep that is killed takes its runs along, so that the same command finds their folders free. A run on cores of
    # its own computes with as many threads.
    run.workdir.mkdir(parents=True, exist_ok=True)
    with (run.workdir / "log.txt").open("a") as log:
        return subprocess.Popen(tethered(command, cores=cores), stdout=log, stderr=subprocess.STDOUT)


def _error(run: Run, code: int) -> str | None:
    """What the end of a run says, if it failed."""
    if code == 0 and (run.workdir / "results.json").exists():
        return None
    return f"exit code {code}: {_last_line(run).removeprefix('error: ')} ({run.workdir / 'log.txt'})"
