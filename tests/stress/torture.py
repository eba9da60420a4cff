"""Stress test of checkpoints: kill a training run many times at random moments and check that nothing is lost.

    python -m tests.stress.torture --rounds=25 --processes=2 --seed=0 --out=DIR

A run of one process on one device goes undisturbed. The same run is then started many times, on 1, 2 and 4 virtual
devices alternately, in ``--processes`` processes where there are as many devices. It is killed at a random moment, with
SIGKILL to all processes one shortly after the other, or with SIGTERM to one of them, alternately. The last round is not
killed. Then the losses of all steps must equal those of the undisturbed run, every step must have seen the same images,
every epoch every image once, and no checkpoint may be damaged. The results are in ``torture.json`` in DIR.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from tvconv_jax.training import checkpoint_files
from tvconv_jax.utils.cli import Parser, ends_in_one_line, integer, output_folder
from tvconv_jax.utils.console import print_table
from tvconv_jax.utils.files import write_json
from tvconv_jax.utils.tether import tethered

PAUSE = 0.1  # minimum seconds of a step; a checkpoint, every second step, takes about as long
STEPS = 8  # of the run, per round
MAX_STEPS = 12  # of a round before it is killed; half of it on average, so that the run outlives all rounds
IMAGES, BATCH = 64, 16  # of the embedded faces of size `smoke`
PATIENCE = 60.0  # seconds for a run to save and end
STARTS = 300.0  # seconds for a run to begin and to take its steps
EARLY = 0.15  # of the rounds are killed while they start or restore
# Several devices sum in another order: float32 rounding of 6e-8 a sum, which momentum accumulates over steps.
TOLERANCE = 1e-5
DEVICES = (1, 2, 4)


class Round(NamedTuple):
    """One start of the run and its end.

    Attributes:
        processes: Their number.
        devices: Of all processes.
        signal: Name of the signal, or ``""`` if it was not killed.
        first: The first step it took, 0 if it took none.
        last: The last step it began.
        saving: Whether a checkpoint was being written when it died.
        codes: Exit codes of the processes.
        errors: Damages of the checkpoints it left.
    """

    processes: int
    devices: int
    signal: str
    first: int
    last: int
    saving: bool
    codes: tuple[int, ...]
    errors: tuple[str, ...]


class Running(NamedTuple):
    """Processes of one start, and the files of their traces."""

    processes: list[subprocess.Popen]
    traces: list[Path]

    def taken(self) -> int:
        """Return the number of steps that every process has begun."""
        return min(len(traced(trace)) for trace in self.traces)

    def ended(self) -> bool:
        """Return whether any process has ended."""
        return any(process.poll() is not None for process in self.processes)


def start(out: Path, name: str, *, index: int, steps: int, processes: int, devices: int, pause: float) -> Running:
    """Start the run ``out/name`` for the ``index``-th time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = f"--xla_force_host_platform_device_count={devices // processes} --xla_backend_optimization_level=1"
    traces = [out / f"{name}-{index}-{process}.jsonl" for process in range(processes)]
    started = []
    for process in range(processes):
        place = {"COORDINATOR": f"127.0.0.1:{port}", "PROCESSES": processes, "PROCESS": process}
        place = {f"TVCONV_JAX_{key}": str(value) for key, value in place.items()} if processes > 1 else {}
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, **place}
        arguments = {
            "workdir": out / name,
            "trace": traces[process],
            "steps": steps,
            "model_axis": 2 if devices == 4 else 1,
            "pause": pause,
        }
        command = [sys.executable, "-m", "tests.stress.tortured", *(f"--{k}={v}" for k, v in arguments.items())]
        with traces[process].with_suffix(".txt").open("w") as log:
            started.append(subprocess.Popen(tethered(command), env=environment, stdout=log, stderr=subprocess.STDOUT))
    return Running(started, traces)


def traced(file: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a trace; a process may have been killed in the middle of one."""
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def kill(running: list[subprocess.Popen], number: int, chance: random.Random) -> None:
    """Send SIGKILL to all, one shortly after the other, or SIGTERM to one; SIGKILL ends what is left."""
    order = chance.sample(running, len(running))
    if number == signal.SIGKILL:
        for process in order:
            process.kill()
            time.sleep(chance.uniform(0, 0.3))
    else:
        order[0].send_signal(number)
    deadline = time.monotonic() + PATIENCE
    while any(process.poll() is None for process in running) and time.monotonic() < deadline:
        time.sleep(0.02)
        died = any(process.poll() not in (None, 0, os.EX_TEMPFAIL) for process in running)
        if died:  # one that had not begun dies at once; the others would wait for it
            deadline = min(deadline, time.monotonic() + 3)
    for process in running:
        process.kill()
        process.wait()


def torture(out: Path, index: int, *, steps: int, processes: int, killed: bool, chance: random.Random) -> Round:
    """Start the run and kill it unless it is the last round."""
    devices = DEVICES[index % len(DEVICES)]
    layout = {"processes": min(processes, devices), "devices": devices}
    running = start(out, "tortured", index=index, steps=steps, pause=PAUSE, **layout)
    number = signal.SIGTERM if index % 2 else signal.SIGKILL
    if killed:
        early, steps_left = chance.random() < EARLY, chance.randint(1, MAX_STEPS)
        deadline = time.monotonic() + (chance.uniform(1, 15) if early else STARTS)
        while running.taken() < steps_left and not running.ended() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 3 * PAUSE))
        kill(running.processes, number, chance)
    codes = tuple(process.wait() for process in running.processes)
    taken = [line["step"] for trace in running.traces for line in traced(trace)]
    folder = out / "tortured" / "checkpoints"
    return Round(
        **layout,
        signal=signal.Signals(number).name if killed else "",
        first=min(taken, default=0),
        last=max(taken, default=0),
        saving=any(folder.glob("*/*.orbax-checkpoint-tmp*")),
        codes=codes,
        errors=tuple(checkpoint_errors(folder)),
    )


def checkpoint_errors(folder: Path) -> list[str]:
    """Return the damages of the finished checkpoints of a run."""
    errors = [f"set aside: {path.name}" for path in folder.glob("damaged/*")]
    found = [pair for kind in checkpoint_files.KINDS for pair in checkpoint_files.found(folder / kind).items()]
    for step, path in found:
        for item in checkpoint_files.ITEMS:
            whole = (path / item / checkpoint_files.CHECKSUMS).exists()
            error = checkpoint_files.find_change(path / item) if whole else "without checksums"
            errors += [f"step {step}, {item}: {error}"] if error else []
    return errors


def losses(workdir: Path) -> dict[int, float]:
    """Return the loss of every step."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def images(traces: list[list[list[dict[str, Any]]]]) -> dict[int, list[int]]:
    """Return the sorted images of every step from the last round that took it; ``traces[round][process]``."""
    found: dict[int, list[int]] = {}
    for processes in traces:
        taken: dict[int, list[int]] = {}
        for lines in processes:
            for line in lines:
                taken.setdefault(line["step"], []).extend(line["index"])
        found |= taken
    return {step: sorted(index) for step, index in found.items()}


def verdict(whole: dict[int, float], tortured: dict[int, float], ours: dict, theirs: dict, steps: int) -> dict:
    """Return counts of errors, which must all be 0, and ``largest_difference``."""
    numbers = range(1, steps + 1)
    missing = [step for step in numbers if step not in tortured or step not in theirs]
    both = [step for step in numbers if step in tortured and step in whole]
    differences = [abs(tortured[s] - whole[s]) / abs(whole[s]) for s in both]
    epoch, twice, lost = IMAGES // BATCH, 0, 0
    for first in range(1, steps + 1, epoch):
        seen = [index for step in range(first, first + epoch) for index in theirs.get(step, [])]
        twice += len(seen) - len(set(seen))
        lost += min(epoch, steps + 1 - first) * BATCH - len(set(seen))
    return {
        "steps_missing": len(missing),
        "steps_with_other_images": sum(ours.get(step) != theirs.get(step) for step in numbers),
        "images_seen_twice": twice,
        "images_lost": lost,
        "largest_difference": float(np.max(differences)) if both else np.inf,  # nan stays nan
        "losses_that_differ": sum(not difference <= TOLERANCE for difference in differences),
    }


def run(out: Path, *, rounds: int, processes: int, seed: int) -> dict[str, Any]:
    """Run the stress test; return its results, as in ``torture.json``."""
    steps, chance, begin, done = rounds * STEPS, random.Random(seed), time.monotonic(), []
    whole = start(out, "whole", index=0, steps=steps, processes=1, devices=1, pause=0.0)
    if whole.processes[0].wait():
        raise SystemExit(f"error: the undisturbed run failed, see {whole.traces[0].with_suffix('.txt')}.")
    for index in range(rounds + 1):
        done.append(torture(out, index, steps=steps, processes=processes, killed=index < rounds, chance=chance))
        print(f"round {index + 1} of {rounds + 1}: {_describe(done[-1])}", flush=True)
    traces = [
        [traced(out / f"tortured-{index}-{process}.jsonl") for process in range(one.processes)]
        for index, one in enumerate(done)
    ]
    found = verdict(
        losses(out / "whole"),
        losses(out / "tortured"),
        images([[traced(whole.traces[0])]]),
        images(traces),
        steps,
    )
    found["checkpoints_damaged"] = sum(len(one.errors) for one in done)
    found["last_round_failed"] = int(any(done[-1].codes))
    return {
        "passed": not any(value for name, value in found.items() if name != "largest_difference"),
        **found,
        "tolerance": TOLERANCE,
        "steps": steps,
        "kills": {name: sum(one.signal == name for one in done) for name in ("SIGKILL", "SIGTERM")},
        "killed_while_saving": sum(one.saving and one.signal == "SIGKILL" for one in done),
        "killed_before_the_first_step": sum(not one.last for one in done),
        "saved_on_sigterm": sum(os.EX_TEMPFAIL in one.codes for one in done),
        "seed": seed,
        "seconds": round(time.monotonic() - begin),
        "rounds": [one._asdict() for one in done],
    }


def _describe(one: Round) -> str:
    steps = f"steps {one.first} to {one.last}" if one.last else "no step"
    end = f"{one.signal}{' while saving' if one.saving else ''}" if one.signal else "not killed"
    layout = f"{one.processes} x {one.devices // one.processes} devices"
    return f"{layout}, {steps}, {end}, exit {one.codes} {'; '.join(one.errors)}".rstrip()


def main(arguments: list[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = Parser(description=__doc__)
    parser.add_argument("--rounds", type=integer(0), default=25, help="number of kills; default 25")
    parser.add_argument("--processes", type=int, choices=(1, 2, 4), default=2, help="default 2")
    parser.add_argument("--seed", type=integer(0), default=0, help="of the random moments")
    parser.add_argument("--out", type=output_folder, required=True, help="a folder that does not exist yet")
    options = parser.parse_args(arguments)
    try:
        options.out.mkdir(parents=True)
    except OSError as error:
        parser.error(f"--out={options.out} cannot be made ({error.strerror}); name a folder that does not exist yet")
    out = options.out.absolute()
    with ends_in_one_line("the processes of this round may go on for a while."):
        result = run(out, rounds=options.rounds, processes=options.processes, seed=options.seed)
        write_json(out / "torture.json", result)
    table = Table("", "", show_header=False)
    for name, value in result.items():
        if name != "rounds":
            table.add_row(name.replace("_", " "), f"{value:.1e}" if isinstance(value, float) else str(value))
    print_table(table, width=100)
    sys.exit(not result["passed"])


if __name__ == "__main__":
    main()
