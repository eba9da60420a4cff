"""The paper's Table 2: every operator, trained on three clinics and tested on the fourth, for each of the four.

    python -m tvconv_jax.experiments.table2 --config=configs/odoc.py                    # embedded, drawn pictures
    python -m tvconv_jax.experiments.table2 --config=configs/odoc.py:data=folder --config.data.root=fundus --seeds=0,1,2

Runs that ended are not repeated, one that was stopped goes on, one that fails does not keep the others from running.
Each is ``OUT/<operator>/domain<d>/seed<s>``; the table stands in ``OUT/table2.json`` too.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags, logging
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from tvconv_jax.report.sweep import spread
from tvconv_jax.tasks import command
from tvconv_jax.tasks.command import CONFIG
from tvconv_jax.utils.errors import Interrupted, TrainingError, UserError
from tvconv_jax.utils.files import read_json, write_json
from tvconv_jax.utils.outputs import announce_overwrite

OUT = command.define_path("out", "runs/table2", "Folder of the runs.")
OPERATORS = flags.DEFINE_list("operators", ["baseline", "depthwise", "tvconv"], "Operators to compare.")
DOMAINS = flags.DEFINE_list("domains", ["1", "2", "3", "4"], "Domains to test on, one after the other.")
SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of every fold.")

# Cup Dice of TVConv in percent, from Table 2 of https://arxiv.org/abs/2203.10489. The paper calls its clinics A to D
# and does not name them: that they are the domains 1 to 4 is an assumption.
PAPER_CUP_DICE = {1: 82.76, 2: 76.21, 3: 85.52, 4: 84.10}

# What the table shows of a run: structure, score, factor.
SHOWN = (("cup", "dice", 100.0), ("disc", "dice", 100.0), ("cup", "hd95", 1.0), ("disc", "hd95", 1.0))


class Fold(NamedTuple):
    """One run of the table."""

    operator: str
    domain: int
    seed: int


def main(_: Sequence[str]) -> None:
    import jax

    from tvconv_jax.data import fundus  # late, so that a mistyped flag is answered at once
    from tvconv_jax.data.cache import cache_dir
    from tvconv_jax.models.registry import list_operators
    from tvconv_jax.tasks.limits import check_values
    from tvconv_jax.tasks.saved_config import check_workdir

    logging.set_verbosity(logging.ERROR)
    out = OUT.value.absolute()
    domains, seeds = (_integers(name, flag.value) for name, flag in (("domains", DOMAINS), ("seeds", SEEDS)))
    _check_choices("operators", OPERATORS.value, list_operators("deeplabv3plus"))
    _check_choices("domains", domains, fundus.DOMAINS)
    folds = [Fold(o, d, s) for s in seeds for d in domains for o in OPERATORS.value]
    configs = {fold: _config(fold) for fold in folds}
    for fold, config in configs.items():  # before anything runs
        check_values(config)
        check_workdir(config, _workdir(out, fold))
    results = {fold: _read(_workdir(out, fold)) for fold in folds if _ended(out, fold)}
    jax.devices()  # that there are none is a mistake of the whole table, not a fold's
    command.keep_compiled_programs(cache_dir())
    failed = {}
    for number, (fold, config) in enumerate(configs.items(), start=1):
        if fold not in results:
            print(f"[{number}/{len(folds)}] {fold.operator}, domain {fold.domain}, seed {fold.seed}", flush=True)
            if error := _train(config, _workdir(out, fold)):
                failed[fold] = error
    results = {fold: _read(_workdir(out, fold)) for fold in folds if fold not in failed}
    out.mkdir(parents=True, exist_ok=True)
    lines = [{**fold._asdict(), **result} for fold, result in results.items()]
    write_json(announce_overwrite(out / "table2.json"), lines)
    print_table(results)
    for fold, error in failed.items():
        print(f"failed: {fold.operator}, domain {fold.domain}, seed {fold.seed}: {error}")
    if failed:
        raise TrainingError(f"{len(failed)} of {len(folds)} runs failed; the same command tries them again.")


def _train(config: ConfigDict, workdir: Path) -> str | None:
    """Trains one fold; what went wrong, if anything did."""
    import jax

    from tvconv_jax.tasks import load_task

    try:
        load_task("segmentation").train(config, workdir)
    except Interrupted:  # it saved; the folds after it wait for the same command
        raise
    except (UserError, TrainingError) as error:
        return str(error)
    except Exception as error:  # memory that runs out, a disk that goes: the other folds may fare better
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    finally:
        jax.clear_caches()  # every fold compiles programs of its own
    return None


def _config(fold: Fold) -> ConfigDict:
    config = ConfigDict(CONFIG.value.to_dict())
    if config.task != "segmentation":
        raise UserError(f"--config is of task {config.task!r}; Table 2 is of 'segmentation', as configs/odoc.py.")
    config.model.operator, config.data.test_domain, config.seed = fold
    return config


def _workdir(out: Path, fold: Fold) -> Path:
    return out / fold.operator / f"domain{fold.domain}" / f"seed{fold.seed}"


def _ended(out: Path, fold: Fold) -> bool:
    return (_workdir(out, fold) / "results.json").exists()


def _read(workdir: Path) -> dict[str, Any]:
    file, hint = workdir / "results.json", "remove it, and the fold is measured again"
    results = read_json(file, hint)
    keys = ("cup", "disc", "constant_mask_dice", "selection", "data", "backbone", "definitions", "step")
    try:
        return {key: results[key] for key in keys}
    except (KeyError, TypeError):
        raise UserError(f"{file} holds no results of disc and cup; {hint}.") from None


def _integers(name: str, values: Sequence[str]) -> list[int]:
    try:
        return [int(value) for value in values]
    except ValueError:
        raise UserError(f"--{name}={','.join(values)} must be integers, as in --{name}=1,2.") from None


def _check_choices(name: str, values: Iterable, choices: Iterable) -> None:
    for value in values:
        if value not in choices:
            raise UserError(f"--{name}: {value!r} is unknown; there are: {', '.join(map(str, choices))}.")


def print_table(results: dict[Fold, dict[str, Any]]) -> None:
    """A row an operator and score, a column a domain; mean and, over seeds, standard deviation.

    A run whose predictions are all empty may have no HD95; it is left out there.

    Args:
        results: What ``results.json`` of every fold holds.
    """
    if not results:
        return
    domains = sorted({fold.domain for fold in results})
    first = next(iter(results.values()))
    print(f"{first['data'].partition('; ')[0]}; backbone {first['backbone']}; {first['selection']}")
    print(f"Dice in %, HD95 in pixels ({first['definitions']['hd95']})")
    table = Table()
    for column in ("", "operator", *(f"domain {d}" for d in domains), "mean"):
        table.add_column(column, justify="right" if column not in ("", "operator") else "left")
    for structure, score, factor in SHOWN:
        for operator in dict.fromkeys(fold.operator for fold in results):
            own = {fold: r[structure][score] for fold, r in results.items() if fold.operator == operator}
            by_domain = [
                [value * factor for fold, value in own.items() if fold.domain == d and value is not None]
                for d in domains
            ]
            table.add_row(f"{structure} {score}", operator, *map(spread, by_domain), _mean_cell(by_domain))
        if score == "dice":
            same = [
                np.mean([r["constant_mask_dice"][structure] * 100 for f, r in results.items() if f.domain == d])
                for d in domains
            ]
            table.add_row("", "(constant mask)", *(f"{value:.2f}" for value in same), f"{np.mean(same):.2f}")
        if (structure, score) == ("cup", "dice") and not first["data"].startswith("embedded"):
            paper = (f"{PAPER_CUP_DICE[d]:.2f}" for d in domains)
            table.add_row("", "(paper, tvconv)", *paper, "")
        table.add_section()
    console = Console()
    (console if console.is_terminal else Console(width=110)).print(table)
    if not first["data"].startswith("embedded"):
        print("The paper's figures are for its own crops and an ImageNet backbone; other crops are another task.")


def _mean_cell(by_domain: Sequence[Sequence[float]]) -> str:
    """Mean over domains; its spread over seeds, where every domain has as many."""
    if len({len(values) for values in by_domain}) > 1:
        return "-"
    return spread(list(np.mean(by_domain, axis=0)))


if __name__ == "__main__":
    command.run(main)
