"""The paper's Table 2: every operator, trained on three clinics and tested on the fourth, for each of the four.

    python -m tvconv_jax.experiments.table2 --config=configs/odoc.py                    # embedded, synthetic images
    python -m tvconv_jax.experiments.table2 --config=configs/odoc.py:data=folder --config.data.root=fundus --seeds=0,1,2

To resume, rerun the same command: runs that ended are not repeated, and a failure does not stop the others. A run is
``OUT/<operator>/domain<d>/seed<s>``; the table is also written to ``OUT/table2.json``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags, logging
from ml_collections import ConfigDict

from tvconv_jax.report.sweep import spread
from tvconv_jax.tasks import command, load_task
from tvconv_jax.tasks.command import CONFIG
from tvconv_jax.utils.console import make_table, print_table
from tvconv_jax.utils.errors import Interrupted, TrainingError, UserError
from tvconv_jax.utils.files import announce_overwrite, read_json, write_json

OUT = command.define_path("out", "runs/table2", "Folder of the runs.")
OPERATORS = flags.DEFINE_list("operators", ["baseline", "depthwise", "tvconv"], "Operators to compare.")
DOMAINS = flags.DEFINE_list("domains", ["1", "2", "3", "4"], "Domains to test on, one at a time.")
SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of every fold.")

# Cup Dice of TVConv in percent, from Table 2 of https://arxiv.org/abs/2203.10489. The paper calls its clinics A to D
# and does not name them: that they are the domains 1 to 4 is an assumption.
PAPER_CUP_DICE = {1: 82.76, 2: 76.21, 3: 85.52, 4: 84.10}

# The rows of the table: structure, score, factor.
SHOWN = (("cup", "dice", 100.0), ("disc", "dice", 100.0), ("cup", "hd95", 1.0), ("disc", "hd95", 1.0))


class Fold(NamedTuple):
    """A run of the table."""

    operator: str
    domain: int
    seed: int

    def __str__(self) -> str:
        return f"{self.operator}, domain {self.domain}, seed {self.seed}"

    def workdir(self, out: Path) -> Path:
        return out / self.operator / f"domain{self.domain}" / f"seed{self.seed}"

    def config(self) -> ConfigDict:
        config = ConfigDict(CONFIG.value.to_dict())
        if config.task != "segmentation" or "test_domain" not in config.data:
            raise UserError(f"--config is of task {config.task!r}; Table 2 is of 'segmentation', as configs/odoc.py.")
        config.model.operator, config.data.test_domain, config.seed = self
        return config


def main(_: Sequence[str]) -> None:
    import jax

    from tvconv_jax.data.cache import cache_dir  # late, so that a mistyped flag is answered at once

    logging.set_verbosity(logging.ERROR)
    out, folds = OUT.value.absolute(), _folds()
    configs = _checked(folds, out)
    results = {fold: _read(fold.workdir(out)) for fold in folds if (fold.workdir(out) / "results.json").exists()}
    jax.devices()  # without any, the whole table fails, not a fold
    command.keep_compiled_programs(cache_dir())
    failed = {}
    for number, fold in enumerate(folds, start=1):
        if fold not in results:
            print(f"[{number}/{len(folds)}] {fold}", flush=True)
            if error := _train(configs[fold], fold.workdir(out)):
                failed[fold] = error
    results = {fold: _read(fold.workdir(out)) for fold in folds if fold not in failed}
    out.mkdir(parents=True, exist_ok=True)
    lines = [{**fold._asdict(), **result} for fold, result in results.items()]
    write_json(announce_overwrite(out / "table2.json"), lines)
    if results:
        show(results)
    for fold, error in failed.items():
        print(f"failed: {fold}: {error}")
    if failed:
        raise TrainingError(f"{len(failed)} of {len(folds)} runs failed; the same command tries them again.")


def _folds() -> list[Fold]:
    from tvconv_jax.data import fundus
    from tvconv_jax.models.registry import list_operators

    domains, seeds = (_integers(flag) for flag in (DOMAINS, SEEDS))
    for flag, values, choices in (
        (OPERATORS, OPERATORS.value, list_operators("deeplabv3plus")),
        (DOMAINS, domains, fundus.DOMAINS),
    ):
        for value in values:
            if value not in choices:
                raise UserError(f"--{flag.name}: {value!r} is unknown; there are: {', '.join(map(str, choices))}.")
    return [Fold(operator, domain, seed) for seed in seeds for domain in domains for operator in OPERATORS.value]


def _integers(flag: flags.FlagHolder) -> list[int]:
    try:
        return [int(value) for value in flag.value]
    except ValueError:
        raise UserError(f"--{flag.name}={','.join(flag.value)} must be integers, as in --{flag.name}=1,2.") from None


def _checked(folds: Sequence[Fold], out: Path) -> dict[Fold, ConfigDict]:
    """Return the configs of all folds, checked before the first one trains."""
    from tvconv_jax.tasks.limits import check_values
    from tvconv_jax.tasks.saved_config import check_workdir

    configs = {fold: fold.config() for fold in folds}
    for fold, config in configs.items():
        check_values(config)
        check_workdir(config, fold.workdir(out))
    return configs


def _train(config: ConfigDict, workdir: Path) -> str | None:
    """Train a fold and return its error, if it failed."""
    import jax

    try:
        load_task("segmentation").train(config, workdir)
    except Interrupted:  # it saved its state; the other folds wait for the same command
        raise
    except (UserError, TrainingError) as error:
        return str(error)
    except Exception as error:  # such as memory that runs out; other folds may not fail
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    finally:
        jax.clear_caches()  # every fold compiles its own programs
    return None


def _read(workdir: Path) -> dict[str, Any]:
    file, hint = workdir / "results.json", "remove it, and the fold is evaluated again"
    results = read_json(file, hint)
    keys = ("cup", "disc", "constant_mask_dice", "selection", "data", "backbone", "definitions", "step")
    try:
        return {key: results[key] for key in keys}
    except (KeyError, TypeError):
        raise UserError(f"{file} holds no results of disc and cup; {hint}.") from None


def show(results: dict[Fold, dict[str, Any]]) -> None:
    """Print a row for every operator and score, a column for every domain; mean and, over seeds, standard deviation.

    A run whose predictions are all empty may have no HD95; its HD95 is left out.
    """
    domains = sorted({fold.domain for fold in results})
    first = next(iter(results.values()))
    synthetic = first["data"].startswith("embedded")
    print(f"{first['data'].partition('; ')[0]}; backbone {first['backbone']}; {first['selection']}")
    print(f"Dice in %, HD95 in pixels ({first['definitions']['hd95']})")
    table = make_table(("", "operator", *(f"domain {d}" for d in domains), "mean"), left=("", "operator"))
    for structure, score, factor in SHOWN:
        for operator in dict.fromkeys(fold.operator for fold in results):
            found = {fold: r[structure][score] for fold, r in results.items() if fold.operator == operator}
            values = [[factor * v for f, v in found.items() if f.domain == d and v is not None] for d in domains]
            table.add_row(f"{structure} {score}", operator, *map(spread, values), _mean_cell(values))
        if score == "dice":
            same = [
                np.mean([r["constant_mask_dice"][structure] * 100 for f, r in results.items() if f.domain == d])
                for d in domains
            ]
            table.add_row("", "(constant mask)", *(f"{value:.2f}" for value in same), f"{np.mean(same):.2f}")
        if (structure, score) == ("cup", "dice") and not synthetic:
            paper = (f"{PAPER_CUP_DICE[d]:.2f}" for d in domains)
            table.add_row("", "(paper, tvconv)", *paper, "")
        table.add_section()
    print_table(table, width=110)
    if not synthetic:
        print("The paper's results are for its own crops and an ImageNet backbone; other crops do not compare.")


def _mean_cell(by_domain: Sequence[Sequence[float]]) -> str:
    """Return the mean over domains, and its spread over seeds if all domains have equally many."""
    if len({len(values) for values in by_domain}) > 1:
        return "-"
    return spread(list(np.mean(by_domain, axis=0)))


if __name__ == "__main__":
    command.run(main)
