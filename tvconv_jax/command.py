"""What commands that take a config share: strict flags, one line for every mistake, a workdir of one config."""

import contextlib
import functools
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from tvconv_jax.errors import Interrupted, TrainingError, UserError
from tvconv_jax.files import read_json
from tvconv_jax.outputs import check_unclaimed
from tvconv_jax.recipes.scale import complete
from tvconv_jax.training import steps
from tvconv_jax.training.storage import full, is_full

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, with arguments behind a colon.")


# Keys that say where a run goes on, how patiently and past what, not what it computes.
WHERE = ("mesh.", "data.timeout", "train.nan")
# What runs write into a workdir, after config.json.
WRITTEN = ("results.json", "metrics.jsonl", "report.html", "report.npz", "scores.csv", "pictures.png")


def check_workdir(config: ConfigDict, workdir: Path, *, apart_from: Sequence[str] = ()) -> None:
    """Checks that the folder holds no run of another config.

    Args:
        config: Of the run.
        workdir: Its folder.
        apart_from: Beginnings of keys that may differ.

    Raises:
        UserError: If it does, or nobody can say of which.
    """
    file, checkpoints = workdir / "config.json", steps.checkpoints_of(workdir)
    if not file.exists():
        if any(steps.found(checkpoints / kind) for kind in steps.KINDS):
            raise UserError(
                f"{workdir} holds checkpoints, but no config.json says of what run; choose another --workdir, or "
                f"remove that folder."
            )
        check_unclaimed(workdir, WRITTEN, marker="config.json", flag="--workdir")
        return
    run = read_json(file, "choose another --workdir, or remove that folder")
    if different := differences(run, config, apart_from=apart_from):
        raise UserError(
            f"{workdir} holds a run of another config ({different}); choose another --workdir, or remove that folder."
        )


def differences(run: dict, config: ConfigDict, *, apart_from: Sequence[str] = ()) -> str:
    """In what a run's ``config.json`` differs from a config, in words; empty if they compute the same."""
    old, new = _flat(complete(run)), _flat(json.loads(config.to_json()))
    different = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    if new.get("optimizer.scale_rule") == "none":  # then no other batch is compared with
        different = [key for key in different if key != "optimizer.base_batch"]
    norms = {str(flat.get("train.batch_norm")) for flat in (old, new)}
    if "per_replica" in norms and all(norm.isdecimal() for norm in norms - {"per_replica"}):
        # As many groups as there were devices: whether it is the same number stands in the checkpoint.
        different = [key for key in different if key != "train.batch_norm"]
    different = [key for key in different if not key.startswith((*WHERE, *apart_from))]
    shown = "; ".join(f"{key}: {old.get(key)} there, {new.get(key)} now" for key in different[:3])
    return f"{len(different)} keys differ: {shown}" if different else ""


def config_of(arguments: Sequence[str]) -> ConfigDict:
    """What ``--config=FILE:...`` and ``--config.key=value`` make together; this process's own flags stay as they are.

    Raises:
        UserError: If there is no such file, argument, key or value.
    """
    own, argv = flags.FlagValues(), ["config_of", *arguments]
    config_flags.DEFINE_config_file("config", sys_argv=argv, flag_values=own)
    with _mistakes_as_user_errors():
        own(argv)
        return ConfigDict(own.config.to_dict())


def _flat(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def keep_compiled_programs(cache: Path) -> None:
    """A second run of the same program starts without compiling it again."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(cache / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def _parse_flags(arguments: Sequence[str]) -> Sequence[str]:
    """Every mistake on the command line is one line and exit code 2, before anything is read or written."""
    try:
        with _mistakes_as_user_errors():
            return _parsed(arguments)
    except UserError as error:
        _fail(error, 2)


def _parsed(arguments: Sequence[str]) -> Sequence[str]:
    rest = flags.FLAGS(arguments)
    if len(rest) > 1:
        raise UserError(f"argument {rest[1]!r} is no flag; flags start with --, see --help.")
    if not CONFIG.value:
        raise UserError("--config is missing; name one, as in --config=configs/face_mb01.py.")
    dict(CONFIG.value)  # a file that cannot be loaded says so only when it is looked at
    return rest


@contextlib.contextmanager
def _mistakes_as_user_errors() -> Iterator[None]:
    """Around what parses flags and loads config files."""
    try:
        yield
    except (AttributeError, KeyError) as error:  # what ml_collections raises for a key that is not there
        text = str(error.args[0]).replace("\\n", " ").replace("\\", "").replace("'", "").replace(chr(34), "'")
        raise UserError(f"unknown config key: {text}") from None
    except (flags.Error, TypeError, ValueError, OSError) as error:
        raise UserError(str(error)) from None


def _fail(error: Exception | str, code: int, *, hurry: bool = False) -> None:
    print("error: " + " ".join(str(error).split()), file=sys.stderr)
    (_leave if hurry else sys.exit)(code)


def _stopped(number: int, _: Any) -> NoReturn:
    """SIGTERM where the loop does not listen: before the first step and after the last one."""
    _fail("stopped outside training, with nothing to save; the same command goes on.", os.EX_TEMPFAIL, hurry=True)


def _ends_well(main: Callable, arguments: Sequence[str]) -> None:
    signal.signal(signal.SIGTERM, _stopped)
    try:
        main(arguments)
    except UserError as error:
        _fail(error, 2, hurry=True)
    except TrainingError as error:
        _fail(error, 1, hurry=True)
    except Interrupted as error:
        _fail(error, error.code)  # where there are many processes all end so, when all have saved
    except KeyboardInterrupt:  # before the first step or after the last one, or a second one in the loop
        _fail("stopped; the same command goes on.", 130, hurry=True)
    except OSError as error:  # one of the files beside the checkpoints
        if is_full(error):
            _fail(full(Path(error.filename or ".").absolute(), "the files of the run"), 1, hurry=True)
        if error.filename:
            _fail(f"{error.filename}: {error.strerror}; the same command goes on.", 1, hurry=True)
        _trace()
    except Exception:
        _trace()


def _trace() -> None:
    traceback.print_exc()
    _leave(1)


def _leave(code: int) -> None:
    """Ends a process that failed within ten seconds, whatever would keep it.

    That may be other processes, waiting for it in a step that never comes, for whose leave JAX waits five minutes; or
    threads that read from a disk that does not answer.
    """
    forced = threading.Timer(10, os._exit, [code])
    forced.daemon = True
    forced.start()
    sys.exit(code)


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Parses the flags, runs ``main`` and ends the process.

    It exits with 0, 1 (training failed), 2 (user's mistake), 130 (Ctrl-C) or 75 (SIGTERM: start it again).
    """
    app.run(functools.partial(_ends_well, main), flags_parser=_parse_flags)
