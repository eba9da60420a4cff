"""The exceptions that speak to the person who typed the command; commands print them as one line."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake in what the user gave: config, data, workdir or checkpoint. Commands exit with code 2.

    The message is one line that names the value, the rule and the way out. Nothing on disk was written over.
    """


class TrainingError(Exception):
    """A run that cannot go on, as with a loss that is not finite. Commands exit with code 1."""


class Interrupted(Exception):
    """A run that was asked to stop, and saved.

    Attributes:
        code: What the command exits with: 130 after Ctrl-C, 75 after SIGTERM (``EX_TEMPFAIL`` of ``sysexits.h``: try
            again), on which launchers restart.
    """

    def __init__(self, message: str, *, code: int = 130) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def ends_in_one_line(after: str, *, mistakes: tuple[type[Exception], ...] = (UserError,)) -> Iterator[None]:
    """Around what a command does: what stops it is one line, and a code.

    2 is a mistake of the user's, 1 a disk that is full, or a file or folder that cannot be used, 130 Ctrl-C.

    Args:
        after: What holds then, as in ``"nothing was written."``.
        mistakes: The exceptions that speak to the user.
    """
    try:
        yield
    except mistakes as error:
        _end(f"error: {error}", 2)
    except TrainingError as error:
        _end(f"error: {error}", 1)
    except OSError as error:
        _end(f"error: {': '.join(str(part) for part in (error.filename, error.strerror or error) if part)}; {after}", 1)
    except KeyboardInterrupt:
        _end(f"stopped; {after}", 130)


def _end(text: str, code: int) -> None:
    print(" ".join(text.split()), file=sys.stderr)
    sys.exit(code)
