"""The main job: ``python -m tvconv_jax.main --config=configs/face_mb01.py[:key=value,...] --workdir=DIR``."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging
from ml_collections import config_flags

from tvconv_jax import command
from tvconv_jax.command import CONFIG
from tvconv_jax.errors import UserError

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; default: runs/<name of the config file>.")
MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train (and go on where a run stopped), or verify.")


def main(_: Sequence[str]) -> None:
    from tvconv_jax.data.records import cache_dir  # late, so that a mistyped flag is answered at once
    from tvconv_jax.tasks import TASKS

    config, workdir = CONFIG.value, _workdir()
    # JAX and TFDS tell what they do at every start, and Orbax logs, with its traceback, every error that it raises too.
    logging.set_verbosity(logging.FATAL)
    if config.task not in TASKS:
        raise UserError(f"config.task {config.task!r} is unknown; there are: {', '.join(TASKS)}.")
    command.check_workdir(config, workdir)
    command.keep_compiled_programs(cache_dir())
    if MODE.value == "eval":
        TASKS[config.task].evaluate(config, workdir)
    else:
        TASKS[config.task].train(config, workdir)


def _workdir() -> Path:
    if WORKDIR.value:
        return Path(WORKDIR.value).expanduser().absolute()
    return Path("runs", Path(config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]).stem).absolute()


if __name__ == "__main__":
    command.run(main)
