"""Results of sweeps: ``sweep.json``, with a line for each run that ended."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import parse_json

Lines = dict[tuple[str, int], dict[str, Any]]  # by folder of the setting, and seed


class Outcome(NamedTuple):
    """A setting of a sweep, over its seeds."""

    group: str
    label: str
    macs: float  # per image, 10^6
    mean: float  # of the accuracy in percent, the mean over verification sets
    std: float  # population standard deviation; 0 with one seed
    seeds: int  # their number
    by_seed: Mapping[int, float] = MappingProxyType({})  # accuracy of every seed in percent
    train_loss: float | None = None  # mean over seeds; None if a run has none, as those of older versions


def read_sweeps(folders: Sequence[Path]) -> list[Outcome]:
    """Return the settings of one or several sweeps, in their order; seeds of shared settings are pooled.

    Raises:
        UserError: If a folder holds no ``sweep.json``, or one that is not of a sweep.
    """
    runs: dict[tuple[str, str], dict[int, _Row]] = defaultdict(dict)
    for folder in folders:
        for row in _read(folder):
            same = runs[row.group, row.label]
            before = same.get(row.seed, row)
            if any(row.macs != other.macs for other in same.values()) or before.accuracy != row.accuracy:
                raise UserError(
                    f"{folder} and a folder before differ in {row.label}, seed {row.seed}; draw them separately."
                )
            same[row.seed] = row  # a run in several folders counts once
    outcomes = []
    for (group, label), rows in runs.items():
        by_seed = {seed: 100 * row.accuracy for seed, row in rows.items()}
        values, losses = np.array(list(by_seed.values())), [row.train_loss for row in rows.values()]
        macs, loss = next(iter(rows.values())).macs / 1e6, None if None in losses else float(np.mean(losses))
        outcomes.append(Outcome(group, label, macs, values.mean(), values.std(), len(rows), by_seed, loss))
    return outcomes


class _Row(NamedTuple):
    group: str
    label: str
    seed: int
    macs: float
    accuracy: float
    train_loss: float | None


def _read(folder: Path) -> list[_Row]:
    file = folder / "sweep.json"
    again = f"python -m tvconv_jax.experiments.sweep configs/sweeps/NAME.py --out={folder} --show"
    try:
        lines = parse_json(file.read_text())
        rows = [
            _Row(
                str(run["group"]),
                str(run["label"]),
                run["seed"],
                run["complexity"]["macs"],
                run["mean_accuracy"],
                run.get("train_loss"),
            )
            for run in lines
        ]
        numbers = [(row.seed, row.macs, row.accuracy, row.train_loss or 0) for row in rows]
        if not np.isfinite(numbers).all():
            raise ValueError("not a number")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} holds no sweep.json, so no sweep that ended a run; where it does, {again}."
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{file} is not as a sweep writes it now; remove it, and {again} writes it again.") from None
    if not rows:
        raise UserError(f"{file} holds no run; let one end, then {again}.")
    return rows


def read_lines(file: Path, hint: str) -> Lines:
    """Read ``results.json`` and config of runs whose folders may be gone.

    Args:
        file: A ``sweep.json``, under any name.
        hint: Advice in the message of an error.

    Raises:
        UserError: If it is not a ``sweep.json``.
    """
    try:
        lines = {(str(line["setting"]), line["config"]["seed"]): line for line in parse_json(file.read_text())}
        for line in lines.values():
            line["group"], line["label"]
            check_result(line, file)
        return lines
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise UserError(f"{file} is not a sweep.json, or damaged; {hint}.") from None


def check_result(result: dict[str, Any], file: Path) -> None:
    """Raise ``ValueError``, ``KeyError``, ``TypeError`` or ``AttributeError`` if tables and sweeps cannot use a result.

    Raises:
        UserError: If the run was not verified.
    """
    cost, config = result["complexity"], result["config"]
    sets = [] if "test" in result else result["verification"].values()  # classification has one test set
    if result["mean_accuracy"] is None:
        raise UserError(f"{file}: the run has no verification set; give the data pair lists (SET_pair.txt) or .bin.")
    numbers = [cost["macs"], cost["params"], cost["train_params"], result["images_per_second"] or 0, config["seed"]]
    if not np.isfinite([*numbers, result["mean_accuracy"], *(found["accuracy"] for found in sets)]).all():
        raise ValueError("not a number")
    if not isinstance(config["task"], str) or not isinstance(config["model"], dict):
        raise ValueError("no config")


def over_seeds(outcomes: Sequence[Outcome]) -> str:
    """Return a description of what is averaged, such as ``mean ± std of 3 seeds``."""
    seeds = sorted({outcome.seeds for outcome in outcomes})
    if seeds == [1]:
        return "1 seed"
    return f"mean ± std of {seeds[0]}{f' to {seeds[-1]}' if len(seeds) > 1 else ''} seeds"
