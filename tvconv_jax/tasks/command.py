"""Commands that take ``--config``: strict flags, one line for every mistake, exit codes."""

import contextlib
import functools
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from tvconv_jax.tasks.configs.renamed import rename_arguments, rename_hint, rename_in_place
from tvconv_jax.tasks.keys import KEYS, did_you_mean, get
from tvconv_jax.utils import cli
from tvconv_jax.utils.errors import Interrupted, UserError, as_line, print_error
from tvconv_jax.utils.files import user_path
from tvconv_jax.utils.shipped import find_config
from tvconv_jax.utils.storage import full, is_full

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Name or file of a config, with arguments behind a colon; --config.KEY=VALUE sets a key."
)
_IN_CONFIG_FILE = "whilst parsing config file"  # of ml_collections, before the traceback


def run(
    main: Callable[[Sequence[str]], None], *, after: Callable[[], str] = lambda: "the same command goes on."
) -> None:
    """Parse the flags, run ``main`` with the other arguments, and end the process.

    It exits with 0, 1 (training failed), 2 (user's mistake), 130 (Ctrl-C) or 75 (SIGTERM or SIGHUP: start it again).
    ``after()`` is the state in which a stopped command leaves its files, in words.
    """
    app.run(functools.partial(_end_in_one_line, main, after), flags_parser=_parse_flags)


def config_of(arguments: Sequence[str]) -> ConfigDict:
    """Return the config of ``--config=FILE:...`` and ``--config.key=value``; this process's own flags stay as they are.

    Raises:
        UserError: If there is no such file, argument, key or value.
    """
    values, argv = flags.FlagValues(), ["config_of", *_prepare(arguments)]
    config_flags.DEFINE_config_file("config", sys_argv=argv, flag_values=values)
    with _mistakes_as_user_errors(argv):
        values(argv)
        return ConfigDict(_checked(values).to_dict())


def keep_compiled_programs(cache: Path) -> None:
    """Let a second run of the same program start without compiling it again."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(cache / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


class _PathParser(flags.ArgumentParser):
    """Parser of a path on the command line; ``~`` is the home directory."""

    def parse(self, argument: str | Path) -> Path:
        try:
            return user_path(argument)
        except UserError as error:
            raise ValueError(str(error)) from None


def define_path(name: str, default: str | None, text: str) -> flags.FlagHolder:
    """Define a flag whose value is a :class:`pathlib.Path`, or ``None``."""
    return flags.DEFINE(_PathParser(), name, default, text, serializer=flags.ArgumentSerializer())


def check_mode(mode: str, read_by: Mapping[Sequence[str], Sequence[str]]) -> None:
    """Raise a ``UserError`` if a flag is given that the mode does not read; ``read_by`` lists flags by their modes."""
    for modes, names in read_by.items():
        for name in names:
            if mode not in modes and flags.FLAGS[name].present:
                only = " or ".join(modes)
                raise UserError(f"--{name} does nothing with --mode={mode}, only with {only}; leave it out.")


def _parse_flags(arguments: Sequence[str]) -> Sequence[str]:
    if {"-h", "-help", "--help"} & set(arguments[1:]):
        _print_help()
        sys.exit()
    try:
        with _mistakes_as_user_errors(sys.argv):
            # ml_collections reads overrides there
            sys.argv[1:] = rename_arguments(_with_config_flag(arguments[1:]))
            rest = flags.FLAGS([arguments[0], *_prepare(sys.argv[1:])])
            if len(rest) > 1:
                raise UserError(f"argument {rest[1]!r} is not a flag; flags start with --, see --help.")
            if not CONFIG.value:
                name = f"{cli.called_as} face_mb01" if cli.called_as else "--config=face_mb01"
                raise UserError(f"--config is missing; name one, as in {name}.")
            _checked(flags.FLAGS)
            return rest
    except UserError as error:
        print_error(f"error: {error}")
        sys.exit(2)


def _print_help() -> None:
    """Print the docstring of the program's module, and the flags of it and of this module."""
    main = sys.modules["__main__"]
    text = (main.__doc__ or "").strip()
    if cli.called_as and main.__spec__:
        text = text.replace(f"python -m {main.__spec__.name}", cli.called_as)
    print(text, end="\n\n")
    listed = [*flags.FLAGS.get_flags_for_module(__name__), *flags.FLAGS.get_key_flags_for_module(sys.argv[0])]
    for flag in listed:
        default = f" Default: {flag.default_as_str[1:-1]}." if flag.default is not None else ""
        print(flags.text_wrap(f"--{flag.name}: {flag.help}{default}", indent=" " * 6, firstline_indent="  "))


def _with_config_flag(arguments: Sequence[str]) -> list[str]:
    """Replace the first word that is neither a flag nor a flag's value by ``--config=WORD``, unless there is one."""
    found = list(arguments)
    if not any(_is_config(argument.partition("=")[0]) for argument in found):
        for before, (index, word) in zip(["", *found], enumerate(found), strict=False):
            if not word.startswith("-") and (not before.startswith("-") or "=" in before):
                found[index] = f"--config={word}"
                break
    return found


def _is_config(flag: str) -> bool:
    return flag in ("-config", "--config")


def _prepare(arguments: Sequence[str]) -> list[str]:
    """Replace the name of a config by the path of its file, and old names by new ones."""
    prepared: list[str] = []
    for argument in arguments:
        flag, given, value = argument.partition("=")
        if prepared and _is_config(prepared[-1]):
            flag, given, value = prepared.pop(), "=", argument
        if given and value and _is_config(flag):
            name, colon, text = value.partition(":")
            argument = f"{flag}={find_config(name)}{colon}{text}"
        prepared.append(argument)
    return rename_arguments(prepared)


def _checked(values: flags.FlagValues) -> ConfigDict:
    """Return the config of ``--config``; one that cannot be loaded fails only when it is looked at."""
    config = values["config"].value
    if not hasattr(config, "keys"):
        file = config_flags.get_config_filename(values["config"]).partition(":")[0]
        raise UserError(f"the config file {file} gives {config!r}; let its get_config return a ConfigDict.")
    given = config_flags.get_override_values(values["config"])
    if isinstance(config, ConfigDict):
        rename_in_place(config, given)
    config = ConfigDict(config)
    if get(config, "train.auto"):
        config.train.auto = ",".join(key for key in config.train.auto.split(",") if key not in given)
    return config


@contextlib.contextmanager
def _mistakes_as_user_errors(arguments: Sequence[str]) -> Iterator[None]:
    """Turn what parsing these arguments and loading config files raises into a ``UserError``."""
    try:
        yield
    except (AttributeError, KeyError) as error:  # of ml_collections, for a key that is not there
        text = str(next(iter(error.args), error))
        if "no attribute 'get_config'" in text:
            raise UserError(f"{_config_file(arguments)} has no function get_config, as a config has.") from None
        if mistake := _unknown_key(text, arguments):
            raise UserError(mistake) from None
        plain = text.replace("\\n", " ").replace("\\", "").replace("'", "").replace('"', "'")
        raise UserError(f"unknown config key: {plain}{rename_hint(text)}") from None
    except UserError:
        raise
    except Exception as error:  # a config file is a program, and may raise whatever Python raises
        raise UserError(_config_file_error(error, arguments)) from None


def _config_file(arguments: Sequence[str]) -> Path:
    """Return the file of the last ``--config=NAME:...`` or ``--config NAME:...``, which is one."""
    pairs = [(word.partition("="), after) for word, after in zip(arguments, [*arguments[1:], ""], strict=True)]
    found = [value if given else after for (flag, given, value), after in pairs if _is_config(flag)]
    return find_config(found[-1].partition(":")[0])


def _unknown_key(text: str, arguments: Sequence[str]) -> str:
    """Return a message about the override that an error of ml_collections is about, or an empty text."""
    words = set(re.findall(r"\w+", text))
    given = [match[1] for argument in arguments if (match := re.match(r"--?(?:no)?config\.([\w.]+)", argument))]
    named = [key for key in given if words & set(key.split("."))]
    key = min(named, key=lambda key: key in KEYS, default=None)  # a mistyped one first
    if key is None or rename_hint(text):
        return ""
    if key not in KEYS:
        return f"unknown config key {key}{did_you_mean(key) or '; --mode=config lists all keys.'}"
    of_source = key.startswith("data.") and not any(re.search(r":(.*,)?data=", word) for word in arguments)
    example = f"--config=configs/{_config_file(arguments).name}:data=folder"
    source = f", or of another source: give {example} for files of your own" if of_source else ""
    rule = f"it is of another task, operator or recipe{source}"
    return f"this config has no key {key}: {rule}; --mode=config lists its keys."


def _config_file_error(error: Exception, arguments: Sequence[str]) -> str:
    """Return one line about an error in a config file; ml_collections puts tracebacks into the text of some errors."""
    text = str(error).strip()
    if _IN_CONFIG_FILE in text:
        return f"the config file {_config_file(arguments)} cannot be used ({text.splitlines()[-1]}); correct it."
    if isinstance(error, flags.Error | OSError | TypeError | ValueError):
        return text  # of a flag, or a file that cannot be opened
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = error if isinstance(error, SyntaxError) else frame
    at = f"{place.filename}, line {place.lineno}"
    return f"the config file cannot be used ({type(error).__name__}: {text}, at {at}); correct it."


def _end_in_one_line(main: Callable, after: Callable[[], str], arguments: Sequence[str]) -> None:
    cli.listen()  # the loop listens in a way of its own
    try:
        main(arguments)
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, OSError) and is_full(error):  # of a file beside the checkpoints
            error = full(Path(error.filename or ".").absolute(), "the files of the run")
        found = None if isinstance(error, OSError) and not error.filename else as_line(error, after())
        if found is None:
            traceback.print_exc()
            _leave(1)
        line, code = found
        print_error(line)
        # of many processes all are interrupted together, once all have saved
        (sys.exit if isinstance(error, Interrupted) else _leave)(code)


def _leave(code: int) -> NoReturn:
    """End a process that failed, within ten seconds.

    It would wait longer for other processes that are in a collective operation with it (JAX: five minutes), or for
    threads that read from a disk that does not answer.
    """
    forced = threading.Timer(10, os._exit, [code])
    forced.daemon = True
    forced.start()
    sys.exit(code)
