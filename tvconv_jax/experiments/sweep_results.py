"""Results of sweeps: ``sweep.json``, as :mod:`tvconv_jax.experiments.sweep` writes it, a line for each run."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.plain_files import parse_json


class Outcome(NamedTuple):
    """One setting of a sweep, over its seeds.

    Attributes:
        group: Of settings that stand together; may be empty.
        label: The setting's name.
        macs: Multiply-accumulates for one picture, 10^6.
        mean: Accuracy in percent, mean over seeds of the mean over verification sets.
        std: Its standard deviation over seeds (of the seeds themselves, as in the sweep's table); 0 with one seed.
        seeds: How many there are.
    """

    group: str
    label: str
    macs: float
    mean: float
    std: float
    seeds: int


def read_sweeps(folders: Sequence[Path]) -> list[Outcome]:
    """The settings of one or several sweeps, in their order; what several share is pooled.

    Raises:
        UserError: If a folder holds no ``sweep.json``, or that is not of a sweep.
    """
    runs: dict[tuple[str, str], dict[int, tuple[float, float]]] = defaultdict(dict)
    for folder in folders:
        for group, label, seed, macs, accuracy in _read(folder):
            same = runs[group, label]
            if any(macs != other for other, _ in same.values()) or same.get(seed, (macs, accuracy))[1] != accuracy:
                raise UserError(f"{folder} has {label}, seed {seed}, otherwise than a folder before; draw them apart.")
            same[seed] = macs, accuracy  # a run that several folders know counts once
    outcomes = []
    for (group, label), values in runs.items():
        macs, accuracies = np.array(list(values.values())).T
        outcomes.append(
            Outcome(group, label, macs[0] / 1e6, 100 * accuracies.mean(), 100 * accuracies.std(), len(values))
        )
    return outcomes


def read_lines(file: Path, hint: str) -> dict[tuple[str, int], dict[str, Any]]:
    """``results.json`` and config of runs whose folders may be gone, by setting and seed.

    Args:
        file: A ``sweep.json``, under any name.
        hint: What to do if it is none.

    Raises:
        UserError: If it is none.
    """
    try:
        lines = {(str(line["setting"]), line["config"]["seed"]): line for line in parse_json(file.read_text())}
        for line in lines.values():
            line["group"], line["label"]
            check_result(line, file)
        return lines
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise UserError(f"{file} is no sweep.json, or damaged; {hint}.") from None


def check_result(result: dict[str, Any], file: Path) -> None:
    """A ``ValueError``, ``KeyError``, ``TypeError`` or ``AttributeError`` if it lacks what tables and sweeps read.

    Raises:
        UserError: If the run was verified on nothing.
    """
    cost, config, sets = result["complexity"], result["config"], result["verification"].values()
    if result["mean_accuracy"] is None:
        raise UserError(f"{file}: verified on nothing; give the data pair lists (SET_pair.txt) or .bin.")
    numbers = [cost["macs"], cost["params"], cost["train_params"], result["images_per_second"] or 0, config["seed"]]
    if not np.isfinite([*numbers, result["mean_accuracy"], *(one["accuracy"] for one in sets)]).all():
        raise ValueError("not a number")
    if not isinstance(config["task"], str) or not isinstance(config["model"], dict):
        raise ValueError("no config")


def over_seeds(outcomes: Sequence[Outcome]) -> str:
    """What their figures are, in words."""
    seeds = sorted({one.seeds for one in outcomes})
    if seeds == [1]:
        return "1 seed"
    return f"mean ± std of {seeds[0]}{f' to {seeds[-1]}' if len(seeds) > 1 else ''} seeds"


def _read(folder: Path) -> list[tuple[str, str, int, float, float]]:
    file = folder / "sweep.json"
    again = f"python -m tvconv_jax.experiments.sweep configs/sweeps/NAME.py --out={folder} --show"
    try:
        lines = parse_json(file.read_text())
        runs = [
            (str(run["group"]), str(run["label"]), run["seed"], run["complexity"]["macs"], run["mean_accuracy"])
            for run in lines
        ]
        if not np.isfinite([number for run in runs for number in run[2:]]).all():
            raise ValueError("not a number")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} holds no sweep.json, so no sweep that ended a run; where it does, {again}."
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{file} is not what a sweep writes now; remove it, and {again} writes it anew.") from None
    if not runs:
        raise UserError(f"{file} holds no run; let one end, then {again}.")
    return runs
