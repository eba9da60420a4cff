"""What commands that take a config share: strict flags, one line for every mistake, a workdir of one config."""

import contextlib
import functools
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from tvconv_jax.tasks.configs.base import complete
from tvconv_jax.training import steps
from tvconv_jax.utils import cli
from tvconv_jax.utils.errors import Interrupted, UserError, as_line, print_error
from tvconv_jax.utils.files import read_json, user_path
from tvconv_jax.utils.outputs import check_unclaimed
from tvconv_jax.utils.storage import full, is_full

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, with arguments behind a colon.")


# Keys that say where a run goes on, how patiently and past what, not what it computes.
WHERE = ("mesh.", "data.timeout", "train.nan")
_IN_CONFIG_FILE = "whilst parsing config file"  # of ml_collections, before the traceback
# What runs write into a workdir, after config.json.
WRITTEN = ("results.json", "metrics.jsonl", "report.html", "report.npz", "scores.csv", "pictures.png")


def check_workdir(config: ConfigDict, workdir: Path, *, ignore: Sequence[str] = ()) -> None:
    """Checks that the folder holds no run of another config.

    Args:
        config: Of the run.
        workdir: Its folder.
        ignore: Beginnings of keys that may differ.

    Raises:
        UserError: If it does, or nobody can say of which.
    """
    file, checkpoints = workdir / "config.json", steps.checkpoints_of(workdir)
    for folder in (checkpoints, *(checkpoints / kind for kind in steps.KINDS)):
        if os.path.lexists(folder) and not folder.is_dir():  # a file, or a link to a disk that is not there
            raise UserError(
                f"{folder} is not a folder, and checkpoints go there; move it away, or choose another --workdir."
            )
    if not file.exists():
        if any(steps.found(checkpoints / kind) for kind in steps.KINDS):
            raise UserError(
                f"{workdir} holds checkpoints, but no config.json says of what run; choose another --workdir, or "
                f"remove that folder."
            )
        check_unclaimed(workdir, WRITTEN, marker="config.json", flag="--workdir")
        return
    run = read_json(file, "choose another --workdir, or remove that folder")
    if different := differences(run, config, ignore=ignore):
        raise UserError(
            f"{workdir} holds a run of another config ({different}); choose another --workdir, or remove that folder."
        )


def differences(run: dict, config: ConfigDict, *, ignore: Sequence[str] = ()) -> str:
    """In what a run's ``config.json`` differs from a config, in words; empty if they compute the same."""
    try:
        old, new = flat(complete(run)), flat(json.loads(config.to_json()))
    except ValueError as error:
        return str(error)
    different = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    if new.get("optimizer.scale_rule") == "none":  # then no other batch is compared with
        different = [key for key in different if key != "optimizer.base_batch"]
    norms = {str(flat.get("train.batch_norm")) for flat in (old, new)}
    if "per_replica" in norms and all(norm.isdecimal() for norm in norms - {"per_replica"}):
        # As many groups as there were devices: whether it is the same number stands in the checkpoint.
        different = [key for key in different if key != "train.batch_norm"]
    different = [key for key in different if not key.startswith((*WHERE, *ignore))]
    shown = "; ".join(f"{key}: {old.get(key)} there, {new.get(key)} now" for key in different[:3])
    return f"{len(different)} keys differ: {shown}" if different else ""


def config_of(arguments: Sequence[str]) -> ConfigDict:
    """What ``--config=FILE:...`` and ``--config.key=value`` make together; this process's own flags stay as they are.

    Raises:
        UserError: If there is no such file, argument, key or value.
    """
    own, argv = flags.FlagValues(), ["config_of", *map(_expanded, arguments)]
    config_flags.DEFINE_config_file("config", sys_argv=argv, flag_values=own)
    with _mistakes_as_user_errors():
        own(argv)
        return ConfigDict(_checked(own.config).to_dict())


def _checked(config: Any) -> ConfigDict:
    """What a config file gave; one that cannot be loaded says so only when it is looked at."""
    if not hasattr(config, "keys"):
        raise UserError(f"the config file gives {config!r}; let its get_config return a ConfigDict.")
    return ConfigDict(config)


def flat(tree: dict, prefix: str = "") -> dict:
    """Flattens a nested dictionary: values by the names on their way, with dots."""
    found = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def keep_compiled_programs(cache: Path) -> None:
    """A second run of the same program starts without compiling it again."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(cache / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


class _PathParser(flags.ArgumentParser):
    """A path on the command line; ``~`` is the home directory."""

    def parse(self, argument: str | Path) -> Path:
        try:
            return user_path(argument)
        except UserError as error:
            raise ValueError(str(error)) from None

    def flag_type(self) -> str:
        return "path"


def define_path(name: str, default: str | None, text: str) -> flags.FlagHolder:
    """Defines a flag whose value is a :class:`pathlib.Path`, or ``None``."""
    return flags.DEFINE(_PathParser(), name, default, text, serializer=flags.ArgumentSerializer())


def check_mode(mode: str, read_by: Mapping[Sequence[str], Sequence[str]]) -> None:
    """Raises a ``UserError`` if a flag is given that the mode does not read.

    Args:
        mode: What the command does.
        read_by: Flags that not every mode reads, by the modes that do.
    """
    for modes, names in read_by.items():
        for name in names:
            if mode not in modes and flags.FLAGS[name].present:
                raise UserError(
                    f"--{name} does nothing with --mode={mode}, only with {' or '.join(modes)}; leave it out."
                )


def _parse_flags(arguments: Sequence[str]) -> Sequence[str]:
    """Every mistake on the command line is one line and exit code 2, before anything is read or written."""
    try:
        with _mistakes_as_user_errors():
            return _parsed(arguments)
    except UserError as error:
        _fail(error, 2)


def _parsed(arguments: Sequence[str]) -> Sequence[str]:
    rest = flags.FLAGS([_expanded(argument) for argument in arguments])
    if len(rest) > 1:
        raise UserError(f"argument {rest[1]!r} is no flag; flags start with --, see --help.")
    if not CONFIG.value:
        raise UserError("--config is missing; name one, as in --config=configs/face_mb01.py.")
    _checked(CONFIG.value)
    return rest


def _expanded(argument: str) -> str:
    """A config file's ``~``, which no shell expands behind ``--config=``."""
    name, given, value = argument.partition("=")
    return f"{name}={user_path(value)}" if given and name.lstrip("-") == "config" and value[:1] == "~" else argument


@contextlib.contextmanager
def _mistakes_as_user_errors() -> Iterator[None]:
    """Around what parses flags and loads config files."""
    try:
        yield
    except (AttributeError, KeyError) as error:  # what ml_collections raises for a key that is not there
        text = (
            str(next(iter(error.args), error))
            .replace("\\n", " ")
            .replace("\\", "")
            .replace("'", "")
            .replace(chr(34), "'")
        )
        raise UserError(f"unknown config key: {text}") from None
    except UserError:
        raise
    except Exception as error:  # a config file is a program, and may raise whatever Python raises
        raise UserError(_of_config_file(error)) from None


def _of_config_file(error: Exception) -> str:
    """What a config file raised, in a line; ml_collections puts a traceback into the text of some errors."""
    text = str(error).strip()
    if _IN_CONFIG_FILE in text:
        return f"the config file cannot be used ({text.splitlines()[-1]}); correct it."
    if isinstance(error, flags.Error | OSError | TypeError | ValueError):
        return text  # of a flag, or a file that cannot be opened
    at = traceback.extract_tb(error.__traceback__)[-1]
    at = (
        f"{error.filename}, line {error.lineno}"
        if isinstance(error, SyntaxError)
        else f"{at.filename}, line {at.lineno}"
    )
    return f"the config file cannot be used ({type(error).__name__}: {text}, at {at}); correct it."


def _fail(error: Exception | str, code: int, *, hurry: bool = False) -> None:
    print_error(f"error: {error}")
    (_leave if hurry else sys.exit)(code)


def _ends_well(main: Callable, after: Callable[[], str], arguments: Sequence[str]) -> None:
    cli.listen()  # the loop listens in a way of its own
    try:
        main(arguments)
    except (Exception, KeyboardInterrupt) as error:
        # one of the files beside the checkpoints
        if isinstance(error, OSError) and is_full(error):
            error = full(Path(error.filename or ".").absolute(), "the files of the run")
        found = None if isinstance(error, OSError) and not error.filename else as_line(error, after())
        if found is None:
            traceback.print_exc()
            _leave(1)
        print_error(found[0])
        # where there are many processes all end so, when all have saved
        (sys.exit if isinstance(error, Interrupted) else _leave)(found[1])


def _leave(code: int) -> NoReturn:
    """Ends a process that failed within ten seconds, whatever would keep it.

    That may be other processes, waiting for it in a step that never comes, for whose leave JAX waits five minutes; or
    threads that read from a disk that does not answer.
    """
    forced = threading.Timer(10, os._exit, [code])
    forced.daemon = True
    forced.start()
    sys.exit(code)


def run(
    main: Callable[[Sequence[str]], None], *, after: Callable[[], str] = lambda: "the same command goes on."
) -> None:
    """Parses the flags, runs ``main`` and ends the process.

    It exits with 0, 1 (training failed), 2 (user's mistake), 130 (Ctrl-C) or 75 (SIGTERM or SIGHUP: start it again).

    Args:
        main: Gets the arguments that are no flags.
        after: What holds when it is stopped, asked for once flags are parsed.
    """
    app.run(functools.partial(_ends_well, main, after), flags_parser=_parse_flags)
