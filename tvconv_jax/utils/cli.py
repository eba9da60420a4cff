"""Command lines: how a command begins and is stopped, and the types of its path arguments."""

import argparse
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from tvconv_jax.utils import console
from tvconv_jax.utils.errors import Stopped, UserError, as_line, print_error
from tvconv_jax.utils.files import user_path
from tvconv_jax.utils.progress import reporter

TFDS = "tfds:"  # before the name of a TFDS set, where a path may stand as well
MAX_INTEGER = 2**31 - 1  # of counts
MAX_SEED = 2**32 - 1  # what the data's random numbers and JAX's keys can both take
MAX_SIDE = 65535  # of a JPEG
Parsed = TypeVar("Parsed")


def begin_if_command() -> None:
    """Call :func:`begin` if ``python -m tvconv_jax...`` is what imports this package.

    Python then still looks for the module, and ``sys.argv[0]`` is ``"-m"``. Imported from other programs, the package
    changes no signal and no stream.
    """
    names = (argument for argument in sys.orig_argv[1:] if argument.split(".")[0] == __package__.split(".")[0])
    if sys.argv[:1] == ["-m"] and any(names):
        begin()


def begin() -> None:
    """Make output a courtesy, and every end one line, from now on; commands take seconds to import what they need.

    Until :func:`listen` nothing has begun, so a signal ends the process at once.
    """
    console.install()
    sys.excepthook = _last_word
    _handle(_stop_early)


def listen() -> None:
    """Raise ``KeyboardInterrupt`` at Ctrl-C, and :class:`Stopped` at SIGTERM and SIGHUP, from now on."""
    _handle(_stop)


def listen_if_begun() -> None:
    """Call :func:`listen` in a process that :func:`begin` was called in."""
    if signal.getsignal(signal.SIGTERM) is _stop_early:
        listen()


@contextmanager
def ends_in_one_line(after: str, *, mistakes: tuple[type[Exception], ...] = (UserError,)) -> Iterator[None]:
    """Surround what a command does: what stops it is one line, and a code; see :func:`as_line`.

    Where nobody watches, a line on stderr every half minute says that it is at work.

    Args:
        after: What holds then, as in ``"nothing was written."``.
        mistakes: The exceptions that speak to the user.
    """
    try:
        listen_if_begun()
        with reporter.doing("still at work", sys.stderr):
            yield
    except (Exception, KeyboardInterrupt) as error:
        found = as_line(error, after, mistakes)
        if found is None:
            raise
        print_error(found[0])
        sys.exit(found[1])


def _handle(handler: Callable) -> None:
    """SIGHUP that is ignored, as under ``nohup``, stays so; Ctrl-C too, as in a shell's background jobs."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            own = signal.default_int_handler if (number, handler) == (signal.SIGINT, _stop) else handler
            signal.signal(number, own)


def _stop(number: int, _: Any) -> NoReturn:
    raise Stopped


def _stop_early(number: int, _: Any) -> NoReturn:
    """Raised in the middle of an import, an exception may be taken for another, or end in C++."""
    print_error("stopped; nothing was written.")
    os._exit(130 if number == signal.SIGINT else os.EX_TEMPFAIL)


def _last_word(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What no command has caught: one line and its code, or the traceback of a fault of ours."""
    found = as_line(error, "what was written before is whole.")
    if found is None:
        sys.__excepthook__(kind, error, trace)
        return
    print_error(found[0])
    sys.stdout.flush()
    os._exit(found[1])  # Python would exit with another code


class Parser(argparse.ArgumentParser):
    """The parser of a command, whose every mistake is one line and exit code 2; usage is for ``--help`` to show."""

    def error(self, message: str) -> NoReturn:
        """Print a mistake and end the process."""
        print_error(f"error: {message.rstrip('.')}. See {self.prog} --help.")
        sys.exit(2)


def path_argument(text: str) -> Path:
    """Parse a path, for argparse; ``~`` is the home directory."""
    return _argument(user_path, text)


def source_argument(text: str) -> str:
    """Parse what names a set of data, for argparse: a path, or ``tfds:NAME`` as it stands."""
    return text if text.startswith(TFDS) else str(path_argument(text))


def output_file(text: str) -> Path:
    """Parse a file to write, for argparse: it can be written, which is known before any work is done."""
    return _argument(check_output_file, path_argument(text))


def output_folder(text: str) -> Path:
    """Parse a folder to write, for argparse: it is there or can be made."""
    return _argument(check_output_folder, path_argument(text))


def target_argument(text: str) -> str:
    """Parse what names a set of data to write, for argparse: a path whose folder can be made, or ``tfds:DIR``."""
    if text.startswith(TFDS):
        return TFDS + target_argument(text.removeprefix(TFDS))
    path = path_argument(text)
    _argument(check_output_folder, path.absolute().parent)
    return str(path)


def integer(least: int, most: int = MAX_INTEGER) -> Callable[[str], int]:
    """Make a parser of whole numbers in a range, for argparse."""

    def parse(text: str) -> int:
        value = int(text) if text.removeprefix("-").isdecimal() and len(text) < 20 else None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from {least} to {most}")
        return value

    return parse


def number(least: float, most: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """Make a parser of finite numbers in a range, for argparse.

    Args:
        least: The least; with ``above``, what it must be greater than.
        most: The greatest.
        above: See ``least``.
    """
    rule = f"be greater than {least:g}" if above else f"be {least:g} or more"
    rule += ", and finite" if most == math.inf else f", and at most {most:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or value == math.inf or (above and value == least):
            raise argparse.ArgumentTypeError(f"{text!r} must {rule}")
        return value

    return parse


image_size = integer(8, MAX_SIDE)
seed_argument = integer(0, MAX_SEED)
seconds = number(0, above=True)


def _argument(parse: Callable[[Any], Parsed], value: Any) -> Parsed:
    try:
        return parse(value)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def check_output_file(path: Path) -> Path:
    """Check that a file can be written.

    Raises:
        UserError: If its folder is not there, or either cannot be written.
    """
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
    """Check that a folder is there and can be written, or can be made.

    Raises:
        UserError: If neither.
    """
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
