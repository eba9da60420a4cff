"""One entry point for all commands: ``tvconv-jax COMMAND ...``, or ``python -m tvconv_jax COMMAND ...``."""

import difflib
import importlib
import runpy
import sys
from typing import NamedTuple

from tvconv_jax.utils import cli
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.extras import require_for
from tvconv_jax.utils.shipped import CONFIGS, shipped_folder


class Command(NamedTuple):
    """A row of the list."""

    module: str  # runs as `python -m` runs it
    text: str  # of the list
    flags: tuple[str, ...] = ()  # before the user's


COMMANDS = {
    "train": Command("tvconv_jax.main", "train or resume a run: train face_mb01 --workdir=DIR"),
    "eval": Command("tvconv_jax.main", "evaluate a run again: eval face_mb01 --workdir=DIR", ("--mode=eval",)),
    "plan": Command("tvconv_jax.main", "memory and speed of a training, without it: plan face_mb10", ("--mode=plan",)),
    "config": Command(
        "tvconv_jax.main", "all keys of a config, with their values: config face_mb01", ("--mode=config",)
    ),
    "data": Command("tvconv_jax.data", "data sets: inspect, convert, align, ..."),
    "export": Command("tvconv_jax.export", "a trained model as ONNX, PyTorch or native files"),
    "predict": Command("tvconv_jax.predict", "images and an exported model: classes, masks, or the same or not"),
    "verify": Command("tvconv_jax.verify", "two images and an exported model: the same person or not"),
    "benchmark": Command("tvconv_jax.edge.benchmark", "accuracy and speed of exported files on this machine"),
    "report": Command("tvconv_jax.report", "write the report of a run again"),
    "sweep": Command("tvconv_jax.experiments.sweep", "many runs and a table: sweep table1 --out=DIR"),
    "evidence": Command(
        "tvconv_jax.experiments.evidence", "where TVConv helps: variants on sets, each at its own rate"
    ),
    "table2": Command("tvconv_jax.experiments.table2", "the paper's Table 2, on fundus images"),
    "figures": Command("tvconv_jax.experiments.figures", "the paper's figures from runs and sweeps"),
    "complexity": Command("tvconv_jax.metrics.complexity", "MACs and parameters of all models, beside the paper's"),
    "bench": Command("tvconv_jax.bench", "speed of operators and training steps, beside PyTorch"),
    "edge-table": Command("tvconv_jax.bench.edge_table", "speed of exported models in every runtime"),
    "export-table": Command("tvconv_jax.bench.export_table", "size, speed and accuracy by rank and precision"),
    "operator-table": Command("tvconv_jax.bench.operator_table", "cost, accuracy and speed of all operators"),
    "plan-table": Command("tvconv_jax.bench.plan_table", "plans of several models and devices"),
    "gpu-program": Command("tvconv_jax.bench.gpu_program", "bytes and kernels of a step on a GPU beside their bounds"),
    "launch": Command("tvconv_jax.utils.launch", "scripts for clusters, TPUs and a Raspberry Pi"),
}


def _program() -> str:
    return cli.SCRIPT if cli.is_script() else "python -m tvconv_jax"


def _find(name: str) -> Command:
    if name in COMMANDS:
        return COMMANDS[name]
    if (shipped_folder(CONFIGS) / f"{name}.py").is_file():
        hint = f"it is a config: {_program()} train {name}"
    elif near := difflib.get_close_matches(name, COMMANDS, n=3, cutoff=0.5):
        hint = f"did you mean {' or '.join(near)}?"
    else:
        hint = f"there are: {', '.join(COMMANDS)}"
    raise UserError(f"there is no command {name!r}; {hint}")


def main() -> None:
    """Run the command that ``sys.argv`` names, or list all commands."""
    program, (name, *arguments) = _program(), sys.argv[1:] or [""]
    if name == "--version":
        print(importlib.import_module(__package__).__version__)
    elif name in ("", "help", "-h", "--help"):
        print(f"usage: {program} COMMAND ...; COMMAND --help lists its options\n")
        print(*(f"  {name:14} {command.text}" for name, command in COMMANDS.items()), sep="\n")
    else:
        with cli.ends_in_one_line("nothing was written."):
            command = _find(name)
            require_for(command.module, f"{program} {name}", subcommand=" ".join(arguments[:1]))
        cli.called_as = f"{program} {name}"
        sys.argv[1:] = [*command.flags, *arguments]
        runpy.run_module(command.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
