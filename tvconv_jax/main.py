"""Train, evaluate, plan: ``python -m tvconv_jax.main --config=configs/face_mb01.py[:key=value,...] --workdir=DIR``."""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from tvconv_jax.bench import targets, virtual_devices
from tvconv_jax.tasks import command
from tvconv_jax.tasks.command import CONFIG
from tvconv_jax.utils.progress import reporter

WORKDIR = command.define_path("workdir", None, "Folder of the run; default: runs/<name of the config file>.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0 of several; auto: ask the cluster.")
PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes that train together.")
PROCESS = flags.DEFINE_integer("process", None, "Number of this process, from 0.")
MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "eval", "plan", "config"],
    "Train or resume a run, evaluate it, plan a training, or print all keys of the config.",
)
KEYS = flags.DEFINE_string("keys", None, "Config: only keys with this name, part of a name or glob, as optimizer.*.")
DEVICES = flags.DEFINE_integer("devices", None, "Plan: number of devices; 1, or all chips of a TPU slice.")
KIND = flags.DEFINE_string(
    "device-kind",
    "tpu-v5e",
    "Plan: kind of devices. XLA itself compiles for h200 and for TPU slices such as v5e:8x8, with the extra plan-gpu "
    "or plan-tpu; tpu-v5e, tpu-v5p, tpu-v6e, h100, a100 and cpu are estimated.",
)
IDENTITIES = flags.DEFINE_integer("identities", None, "Plan: identities or classes of the training set; 10,000 or 10.")
# Flags that not every mode reads, by the modes that do.
READ_BY = {
    ("train", "eval"): ("coordinator", "processes", "process"),
    ("plan",): ("devices", "device-kind", "identities"),
    ("config",): ("keys",),
    ("train", "eval", "plan"): ("workdir",),
}
# Printed when a mode is stopped.
AFTER = {
    "train": "the same command goes on.",
    "eval": "nothing was written; the checkpoints are as they were.",
    "plan": "nothing was written.",
    "config": "nothing was written.",
}


def main(_: Sequence[str]) -> None:
    """Run the mode that the flags ask for."""
    command.check_mode(MODE.value, READ_BY)
    if MODE.value == "config":
        importlib.import_module("tvconv_jax.tasks.config_table").print_config(CONFIG.value, KEYS.value)
        return
    if MODE.value == "plan":
        target = _ensure_devices()
    from tvconv_jax.data.cache import cache_dir  # late, so that a mistyped flag is answered at once
    from tvconv_jax.tasks import load_task
    from tvconv_jax.tasks.limits import check_values
    from tvconv_jax.tasks.saved_config import check_workdir
    from tvconv_jax.training import distributed

    config, workdir = CONFIG.value, _workdir()
    # JAX and TFDS log at every start, and Orbax logs every error that it raises, with a traceback.
    logging.set_verbosity(logging.FATAL)
    task = load_task(config.task)
    check_values(config)
    if MODE.value != "plan" or WORKDIR.value:
        # A run may be evaluated with other options; only the choice of the checkpoint belongs to its training.
        ignore = [f"eval.{key}" for key in config.eval if key != "checkpoint"] if MODE.value == "eval" else []
        check_workdir(config, workdir, ignore=ignore)
    command.keep_compiled_programs(cache_dir())
    if MODE.value == "plan":
        _plan(config, target)
        return
    place = distributed.find_process(COORDINATOR.value, PROCESSES.value, PROCESS.value, os.environ)
    with distributed.connected(place), reporter.doing("still at work"):
        if MODE.value == "eval":
            task.evaluate(config, workdir)
        else:
            task.train(config, workdir)


def _ensure_devices() -> targets.Target | None:
    """Restart as a process for a plan; return what a plugin compiles for, ``None`` for an estimate."""
    target, again = targets.find_target(KIND.value, DEVICES.value), ["-m", "tvconv_jax.main", *sys.argv[1:]]
    if target and targets.is_installed(target):
        virtual_devices.ensure(1, again, targets.ENVIRONMENT)
        return target
    if target:
        virtual_devices.ensure(target.devices, again)
        print(targets.missing_note(target), flush=True)
    else:
        virtual_devices.ensure(1 if DEVICES.value is None else DEVICES.value, again)
    return None


def _plan(config: ConfigDict, target: targets.Target | None) -> None:
    from tvconv_jax.utils.files import announce_overwrite, write_json

    plan = importlib.import_module("tvconv_jax.bench.plan").make_plan(
        config, kind=KIND.value, identities=IDENTITIES.value, target=target
    )
    importlib.import_module("tvconv_jax.bench.plan_text").print_plan(plan)
    if WORKDIR.value:
        _workdir().mkdir(parents=True, exist_ok=True)
        write_json(announce_overwrite(_workdir() / "plan.json"), plan.as_dict())


def _workdir() -> Path:
    if WORKDIR.value:
        return WORKDIR.value.absolute()
    return Path("runs", Path(config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]).stem).absolute()


if __name__ == "__main__":
    command.run(main, after=lambda: AFTER[MODE.value])
