"""Jobs: model, loss and evaluation put together. ``TASKS`` are their names in configs."""

import importlib
from types import ModuleType

from tvconv_jax.utils.errors import UserError

TASKS = ("face", "frontal", "segmentation")


def load_task(name: str) -> ModuleType:
    """The module of one task, with ``train``, ``evaluate`` and ``report``; what the others need is not imported.

    Raises:
        UserError: If there is none of that name.
    """
    if name not in TASKS:
        raise UserError(f"config.task {name!r} is unknown; there are: {', '.join(TASKS)}.")
    return importlib.import_module(f"{__name__}.{name}")
