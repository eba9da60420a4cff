"""The exceptions that speak to the person who typed the command; commands print them as one line."""

import os
import sys
import traceback

# How messages of JAX begin, where it has no devices of the kind that is asked for.
_NO_BACKEND = ("Unable to initialize backend", "Unknown backend", "Backend '")


class UserError(Exception):
    """A mistake in what the user gave: config, data, workdir or checkpoint. Commands exit with code 2.

    The message is one line that names the value, the rule and the way out. Nothing on disk was written over.
    """


class TrainingError(Exception):
    """A run that cannot go on, as with a loss that is not finite. Commands exit with code 1."""


class Interrupted(Exception):
    """A run that was asked to stop, and saved.

    Attributes:
        code: What the command exits with: 130 after Ctrl-C, 75 after SIGTERM or SIGHUP (``EX_TEMPFAIL`` of
            ``sysexits.h``: try again), on which launchers restart.
    """

    def __init__(self, message: str, *, code: int = 130) -> None:
        super().__init__(message)
        self.code = code


class Stopped(KeyboardInterrupt):
    """A command that was asked to stop by SIGTERM, or by SIGHUP as a terminal sends that closes.

    Attributes:
        code: ``EX_TEMPFAIL`` of ``sysexits.h``, as of :class:`Interrupted`.
    """

    code = os.EX_TEMPFAIL


def as_line(
    error: BaseException, after: str, mistakes: tuple[type[Exception], ...] = (UserError,)
) -> tuple[str, int] | None:
    """Turn what stopped a command into one line and an exit code.

    Args:
        error: What was raised.
        after: What holds then, as in ``"nothing was written."``.
        mistakes: The exceptions that speak to the user.

    Returns:
        The line and the code: 2 is a mistake of the user's, 1 a failure of the work, a disk that is full, or a file or
        folder that cannot be used, 130 Ctrl-C, 75 SIGTERM and SIGHUP. ``None`` for a fault of ours.
    """
    if isinstance(error, mistakes):
        return f"error: {error}", 2
    if isinstance(error, TrainingError):
        return f"error: {error}", 1
    if isinstance(error, Interrupted):
        return f"error: {error}", error.code
    if isinstance(error, KeyboardInterrupt):
        return f"stopped; {after}", getattr(error, "code", 130)
    if isinstance(error, OSError):
        told = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
        return f"error: {told}; {_once_mended(after)}", 1
    if isinstance(error, MemoryError):
        return f"error: there is not enough memory for this ({error or 'no more is known'}); {_once_mended(after)}", 1
    if (missing := _missing_backend(error) or _missing_key(error)) is not None:
        return f"error: {missing}", 2
    return None


def _once_mended(after: str) -> str:
    """What holds after a failure that would come again: a command goes on once somebody has seen to it."""
    return after.replace("the same command goes on", "the same command goes on once that is mended")


def _missing_key(error: BaseException) -> str | None:
    """The line of an error by which ml_collections says that a config has no such key."""
    frames = traceback.extract_tb(error.__traceback__)
    if not isinstance(error, AttributeError | KeyError) or not frames or "ml_collections" not in frames[-1].filename:
        return None
    key = str(next(iter(error.args), error)).strip("'\"").splitlines()[0]
    return f"the config has no key {key!r}; add it, as the files in configs/ have it."


def _missing_backend(error: BaseException) -> str | None:
    """The line of an error by which JAX says that it has no such devices.

    That is a ``RuntimeError``, or a bare ``AssertionError`` where CUDA is asked for and there is no GPU.
    """
    text = str(error)
    bare = isinstance(error, AssertionError) and not text and _has_no_devices()
    if not bare and not (isinstance(error, RuntimeError) and text.startswith(_NO_BACKEND)):
        return None
    asked = {name: os.environ[name] for name in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME") if os.environ.get(name)}
    given = " ".join(f"{name}={value}" for name, value in asked.items()) or "JAX"
    hint = f"unset {' and '.join(asked)}" if asked else "set JAX_PLATFORMS=cpu"
    reason = text.partition(" (set JAX_PLATFORMS")[0].partition("\n")[0].rstrip(".")
    reason = f" ({reason})" if reason else ""
    return f"{given} finds no such devices on this machine{reason}; {hint}, or install JAX for these devices."


def _has_no_devices() -> bool:
    """Whether JAX, if it is loaded, has no devices at all."""
    try:
        return "jax" in sys.modules and not sys.modules["jax"].devices()
    except (AssertionError, RuntimeError):
        return True


def print_error(text: str) -> None:
    """Print a message as one line on stderr."""
    print(" ".join(text.split()), file=sys.stderr, flush=True)
