"""The exceptions that speak to the person who typed the command; commands print them as one line."""


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
