"""Command lines: signals, one-line errors, and the types of arguments."""

import argparse
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, NoReturn, TypeVar

from tvconv_jax.utils import console
from tvconv_jax.utils.errors import Stopped, UserError, as_line, print_error
from tvconv_jax.utils.extras import require_for
from tvconv_jax.utils.files import user_path
from tvconv_jax.utils.moved import new_name, print_renamed
from tvconv_jax.utils.progress import reporter

AGAIN = 0.05  # seconds until a signal is sent again
TFDS = "tfds:"  # prefix of the name of a TFDS data set, where a path is possible too
MAX_INTEGER = 2**31 - 1
MAX_SEED = 2**32 - 1  # the largest that both NumPy's generators and JAX's keys take
MAX_IMAGE_SIZE = 65535  # of a JPEG
SCRIPT = "tvconv-jax"  # runs tvconv_jax/__main__.py
Parsed = TypeVar("Parsed")
called_as: str | None = None  # by a user of that script, as in "tvconv-jax data"


def begin_if_command() -> None:
    """Install streams and handlers of signals and uncaught exceptions if a command of the package imports this.

    That is ``python -m tvconv_jax...``, for which Python still looks for the module, and ``sys.argv[0]`` is ``"-m"``;
    or the script :data:`SCRIPT`. Imported from other programs, the package changes no signal and no stream. Until
    :func:`listen` is called, a signal ends the process at once.

    Raises:
        UserError: If packages are missing without which the command does not start.
    """
    package = __package__.split(".")[0]
    words = iter(sys.orig_argv[1:])
    module = next((word for word in words if word.split(".")[0] == package), None)
    if (sys.argv[:1] == ["-m"] and module) or is_script():
        console.install()
        sys.excepthook = _last_word
        _handle(_stop_early)
        subcommand = next(words, "") if module != package else ""  # the table of all commands checks its own
        require_for(new_name(module or package), subcommand=subcommand)


def is_script() -> bool:
    """Return whether this process is the installed script."""
    return Path((sys.argv or [""])[0]).stem == SCRIPT


def listen() -> None:
    """Raise ``KeyboardInterrupt`` at Ctrl-C and :class:`Stopped` at SIGTERM and SIGHUP."""
    _handle(_stop)
    sys.unraisablehook = _send_again


def _send_again(dropped: "sys.UnraisableHookArgs") -> None:
    """Send a signal again whose exception Python dropped: in a callback of the garbage collector, or in ``__del__``."""
    if not issubclass(dropped.exc_type, KeyboardInterrupt):
        return sys.__unraisablehook__(dropped)
    number = signal.SIGTERM if issubclass(dropped.exc_type, Stopped) else signal.SIGINT
    again = threading.Timer(AGAIN, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()


@contextmanager
def ends_in_one_line(after: str, *, mistakes: tuple[type[Exception], ...] = (UserError,)) -> Iterator[None]:
    """Turn an expected error within the block into a one-line message and an exit code; see :func:`as_line`.

    Without a terminal a line on stderr every 30 seconds says that the command is still at work.
    """
    try:
        if signal.getsignal(signal.SIGTERM) is _stop_early:
            listen()
        with reporter.doing("still at work", sys.stderr):
            yield
    except (Exception, KeyboardInterrupt) as error:
        found = as_line(error, after, mistakes)
        if found is None:
            raise
        print_error(found[0])
        sys.exit(found[1])


def _handle(handler: Callable) -> None:
    """Install a handler, except for signals that are ignored, as under ``nohup`` or in a shell's background job."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            interrupt = (number, handler) == (signal.SIGINT, _stop)
            signal.signal(number, signal.default_int_handler if interrupt else handler)


def _stop(number: int, _: Any) -> NoReturn:
    raise Stopped


def _stop_early(number: int, _: Any) -> NoReturn:
    # An exception raised in the middle of an import may be taken for another one, or end in C++.
    print_error("stopped; nothing was written.")
    os._exit(130 if number == signal.SIGINT else os.EX_TEMPFAIL)


def _last_word(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an exception that no command caught as one line, or with its traceback if it is a bug."""
    found = as_line(error, "what was written before is whole.")
    if found is None:
        sys.__excepthook__(kind, error, trace)
        return
    print_error(found[0])
    sys.stdout.flush()
    os._exit(found[1])  # Python would exit with another code


class Parser(argparse.ArgumentParser):
    """An argument parser that reports a mistake in one line, without the usage, and exits with code 2.

    ``renamed`` holds old flags and their new names; an old one works and prints one line.
    """

    def __init__(self, *, renamed: Mapping[str, str] = MappingProxyType({}), **options: Any) -> None:
        if called_as and (module := options.get("prog", "")).startswith("python -m tvconv_jax."):
            texts = {name: str(options[name]) for name in ("description", "epilog") if options.get(name)}
            options |= {"prog": called_as} | {name: text.replace(module, called_as) for name, text in texts.items()}
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, **options})
        self._renamed = renamed

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse arguments after old flags were replaced by new ones."""
        args = [self._new_flag(argument) for argument in (sys.argv[1:] if args is None else args)]
        return super().parse_known_args(args, namespace)

    def _new_flag(self, argument: str) -> str:
        flag, given, value = argument.partition("=")
        if flag in self._renamed:
            print_renamed(flag, self._renamed[flag])
        return self._renamed.get(flag, flag) + given + value

    def error(self, message: str) -> NoReturn:
        """Print a mistake and exit with code 2."""
        print_error(f"error: {message.rstrip('.')}. See {self.prog} --help.")
        sys.exit(2)


def path_argument(text: str) -> Path:
    """Parse a path, for argparse; ``~`` is the home directory."""
    return _argument(user_path, text)


def source_argument(text: str) -> str:
    """Parse the name of a data set, for argparse: a path, or ``tfds:NAME`` unchanged."""
    return text if text.startswith(TFDS) else str(path_argument(text))


def output_file(text: str) -> Path:
    """Parse the path of an output file, for argparse; refuse one that cannot be written."""
    return _argument(check_output_file, path_argument(text))


def output_folder(text: str) -> Path:
    """Parse the path of an output folder, for argparse; it exists or can be created."""
    return _argument(check_output_folder, path_argument(text))


def target_argument(text: str) -> str:
    """Parse the name of a data set to write, for argparse: a path whose folder can be created, or ``tfds:DIR``."""
    if text.startswith(TFDS):
        return TFDS + target_argument(text.removeprefix(TFDS))
    path = path_argument(text)
    _argument(check_output_folder, path.absolute().parent)
    return str(path)


def integer(low: int, high: int = MAX_INTEGER) -> Callable[[str], int]:
    """Return a parser of whole numbers in a range, for argparse."""

    def parse(text: str) -> int:
        value = int(text) if text.removeprefix("-").isdecimal() and len(text) < 20 else None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from {low} to {high}")
        return value

    return parse


def number(low: float, high: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """Return a parser of finite numbers in a range, for argparse; with ``above``, ``low`` itself is too small."""
    rule = f"be greater than {low:g}" if above else f"be {low:g} or more"
    rule += ", and finite" if high == math.inf else f", and at most {high:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or value == math.inf or (above and value == low):
            raise argparse.ArgumentTypeError(f"{text!r} must {rule}")
        return value

    return parse


def names(choices: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a parser of comma-separated names out of some choices, for argparse; repeated names count once."""

    def parse(text: str) -> list[str]:
        found = list(dict.fromkeys(text.split(",")))
        if unknown := [name for name in found if name not in choices]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is unknown; there are: {', '.join(choices)}")
        return found

    return parse


image_size = integer(8, MAX_IMAGE_SIZE)
seed_argument = integer(0, MAX_SEED)
seconds = number(0, above=True)


def _argument(parse: Callable[[Any], Parsed], value: Any) -> Parsed:
    try:
        return parse(value)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def check_output_file(path: Path) -> Path:
    """Raise a ``UserError`` unless a file can be written; return its path."""
    try:
        folder = path.absolute().parent
        if not folder.is_dir():
            raise UserError(f"{path}: there is no folder {path.parent}; make it first.")
        if path.is_dir():
            raise UserError(f"{path} is a folder; name a file.")
        if not os.access(path if path.exists() else folder, os.W_OK):
            raise UserError(f"{path} cannot be written; name another file.")
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise UserError(f"{path} cannot be written ({error.strerror}); name another file.") from None
    return path


def check_output_folder(path: Path) -> Path:
    """Raise a ``UserError`` unless a folder can be written, or created; return its path."""
    try:
        there = path.absolute()
        while not (there.exists() or there.is_symlink()):
            there = there.parent
        if not there.is_dir():
            raise UserError(f"{path} cannot be made: {there} is not a folder; name another folder.")
        if not os.access(there, os.W_OK | os.X_OK):
            raise UserError(f"{path} cannot be written: {there} takes no files; name another folder.")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); name another folder.") from None
    return path
