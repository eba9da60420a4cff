"""Config of a run, from its workdir."""

from pathlib import Path

from ml_collections import ConfigDict

from tvconv_jax.tasks.configs.base import complete
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.plain_files import parse_json


def read_config(workdir: Path) -> ConfigDict:
    """Return the config of a run, with the keys that it is too old to have.

    Raises:
        UserError: If there is no run in the folder.
    """
    try:
        config = ConfigDict(complete(parse_json((workdir / "config.json").read_text())))
        config.task  # noqa: B018, raises where this is no config of a run
    except (OSError, ValueError, AttributeError, TypeError):
        raise UserError(f"{workdir} holds no run (config.json); name a workdir of tvconv_jax.main.") from None
    return config
