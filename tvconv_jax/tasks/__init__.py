"""Tasks: model, loss and evaluation put together. ``TASKS`` are their names in configs."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from tvconv_jax.utils.errors import UserError

TASKS = ("face", "frontal", "segmentation", "classification")


def load_task(name: str) -> ModuleType:
    """Import the module of one task, with ``train``, ``evaluate`` and ``report``, and no other one.

    Raises:
        UserError: If there is none of that name.
    """
    if name not in TASKS:
        raise UserError(f"config.task {name!r} is unknown; there are: {', '.join(TASKS)}.")
    return importlib.import_module(f"{__name__}.{name}")


def write_report(workdir: Path, config: Any, data: Any, sets: Any = None) -> None:
    """Write ``report.html``: :func:`tvconv_jax.report.run.write_report`, which is imported when a run has ended."""
    importlib.import_module("tvconv_jax.report.run").write_report(workdir, config, data, sets)
