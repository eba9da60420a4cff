"""The one exception that speaks to the person who typed the command."""


class UserError(Exception):
    """A mistake in what the user gave: config, data, workdir or checkpoint.

    The message is one line that names the value, the rule and the way out. Commands print it as
    ``error: ...`` and exit with code 2; nothing on disk has been touched when it is raised.
    """
