"""Exceptions whose messages are meant for the user, and their exit codes."""

import os
import sys
import traceback

# How messages of JAX begin, where it has no devices of the kind that is asked for.
_NO_BACKEND = ("Unable to initialize backend", "Unknown backend", "Backend '")


class UserError(Exception):
    """A mistake in the user's config, data, workdir or checkpoint; commands exit with code 2.

    The message is one line that names the value, the rule and what to do. No file was overwritten.
    """


class TrainingError(Exception):
    """A run that cannot continue, for example with a loss that is not finite; commands exit with code 1."""


class Interrupted(Exception):
    """A run that was asked to stop and has saved a checkpoint.

    The exit code is 130 after Ctrl-C, 75 after SIGTERM or SIGHUP (``EX_TEMPFAIL``, on which launchers restart).
    """

    def __init__(self, message: str, *, code: int = 130) -> None:
        super().__init__(message)
        self.code = code


class Stopped(KeyboardInterrupt):
    """A command that was stopped by SIGTERM, or by the SIGHUP of a terminal that closes; exit code 75."""

    code = os.EX_TEMPFAIL


def as_line(
    error: BaseException, after: str, mistakes: tuple[type[Exception], ...] = (UserError,)
) -> tuple[str, int] | None:
    """Turn an expected error into a one-line message and an exit code.

    Args:
        error: The exception.
        after: The state after it, such as ``"nothing was written."``.
        mistakes: Exceptions whose messages are meant for the user.

    Returns:
        The line and the code: 2 for a mistake of the user; 1 for a failed run, a full disk, or a file or folder that
        cannot be used; 130 for Ctrl-C; 75 for SIGTERM and SIGHUP. ``None`` for a bug.
    """
    for kind, code in ((mistakes, 2), (TrainingError, 1), (Interrupted, getattr(error, "code", 1))):
        if isinstance(error, kind):
            return f"error: {error}", code
    if isinstance(error, KeyboardInterrupt):
        return f"stopped; {after}", getattr(error, "code", 130)
    if isinstance(error, OSError):
        parts = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
        return f"error: {parts}; {_once_mended(after)}", 1
    if isinstance(error, MemoryError):
        return f"error: there is not enough memory for this ({error or 'no more is known'}); {_once_mended(after)}", 1
    if (missing := _missing_backend(error) or _missing_key(error)) is not None:
        return f"error: {missing}", 2
    return None


def _once_mended(after: str) -> str:
    # The same error would come again unless somebody sees to it first.
    return after.replace("the same command goes on", "the same command goes on once that is mended")


def _missing_key(error: BaseException) -> str | None:
    """Return the message for a config key that ml_collections does not find."""
    frames = traceback.extract_tb(error.__traceback__)
    if not isinstance(error, AttributeError | KeyError) or not frames or "ml_collections" not in frames[-1].filename:
        return None
    key = str(next(iter(error.args), error)).strip("'\"").splitlines()[0]
    return f"the config has no key {key!r}; add it, as the files in configs/ have it."


def _missing_backend(error: BaseException) -> str | None:
    """Return the message for devices that JAX does not find."""
    text = str(error)
    bare = isinstance(error, AssertionError) and not text and _has_no_devices()  # where CUDA is asked for without a GPU
    if not bare and not (isinstance(error, RuntimeError) and text.startswith(_NO_BACKEND)):
        return None
    asked = {name: os.environ[name] for name in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME") if os.environ.get(name)}
    given = " ".join(f"{name}={value}" for name, value in asked.items()) or "JAX"
    hint = f"unset {' and '.join(asked)}" if asked else "set JAX_PLATFORMS=cpu"
    reason = text.partition(" (set JAX_PLATFORMS")[0].partition("\n")[0].rstrip(".")
    reason = f" ({reason})" if reason else ""
    return f"{given} finds no such devices on this machine{reason}; {hint}, or install JAX for these devices."


def _has_no_devices() -> bool:
    try:
        return "jax" in sys.modules and not sys.modules["jax"].devices()
    except (AssertionError, RuntimeError):
        return True


def print_error(text: str) -> None:
    """Print a message as one line on stderr."""
    print(" ".join(text.split()), file=sys.stderr, flush=True)
