"""What a file of ``configs/sweeps`` says: a title, and settings to compare."""

import dataclasses
import importlib.util
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from tvconv_jax.tasks.configs.renamed import rename_changes
from tvconv_jax.utils.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)  # by identity, for changes have no hash
class Setting:
    """A row of the table.

    Attributes:
        label: Its name, and its folder's.
        config: Config file.
        argument: Behind the colon, before what the command adds.
        changes: Values by key, as in ``{"model.hidden_channels": 8}``.
        group: Rows of one group stand together.
        paper: What the paper gives for it, by column of the table, as in ``{"MACs M": 22.47}``.
    """

    label: str
    config: str
    argument: str = ""
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    group: str = ""
    paper: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def folder(self) -> str:
        return re.sub(r"[^\w.-]+", "_", self.name)

    @property
    def name(self) -> str:
        return f"{self.group} {self.label}".strip()


class Sweep(NamedTuple):
    """What a file of ``configs/sweeps`` returns from ``get_sweep()``.

    Attributes:
        title: What is compared, and where in the paper.
        settings: The rows.
        note: What to know when reading the table.
        columns: Shares to show in percent besides accuracies, by column: where in ``results.json`` they stand, as in
            ``"start.deviation"``.
    """

    title: str
    settings: Sequence[Setting]
    note: str = ""
    columns: Mapping[str, str] = {}


def load_sweep(path: str) -> Sweep:
    """Runs a file of ``configs/sweeps`` and checks what it returns.

    Raises:
        UserError: If there is no such file, it is no sweep, it names a config that is not there, or a row twice.
    """
    if not Path(path).is_file():
        there = ", ".join(sorted(str(file) for file in Path(path).parent.glob("*.py"))) or "no sweeps"
        raise UserError(f"there is no file {path}; beside it are: {there}.")
    spec = importlib.util.spec_from_file_location("tvconv_jax_sweep", path)
    if spec is None:
        raise UserError(f"{path} is no Python file; a sweep is one that has get_sweep(), as in configs/sweeps.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        sweep = module.get_sweep() if hasattr(module, "get_sweep") else None
    except (Exception, SystemExit) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}); repair it.") from None
    if not hasattr(module, "get_sweep"):
        raise UserError(f"{path} has no get_sweep(); it is a config, or another file: give it to tvconv_jax.main.")
    if not isinstance(sweep, Sweep) or not sweep.settings:
        raise UserError(f"{path}: get_sweep() gives no Sweep with settings; see those beside configs/sweeps/table4.py.")
    settings = [dataclasses.replace(row, changes=rename_changes(row.changes)) for row in sweep.settings]
    sweep = sweep._replace(settings=settings)
    folders = [setting.folder for setting in sweep.settings]
    for setting in sweep.settings:
        if not Path(setting.config).is_file():
            raise UserError(f"{path} names the config {setting.config}, which is not there; run it from the project.")
        if folders.count(setting.folder) > 1:
            raise UserError(f"{path} has two settings that go to the folder {setting.folder}; name them apart.")
    return sweep


def chosen(sweep: Sweep, patterns: Sequence[str]) -> list[Setting]:
    """Settings whose name, or folder, one of the globs matches; without globs all of them.

    Raises:
        UserError: If a glob matches none; lists what there is.
    """
    for pattern in patterns:
        if not any(_matches(setting, pattern) for setting in sweep.settings):
            names = ", ".join(setting.name for setting in sweep.settings)
            raise UserError(f"--settings {pattern!r} matches none of: {names}.")
    return [s for s in sweep.settings if not patterns or any(_matches(s, pattern) for pattern in patterns)]


def _matches(setting: Setting, pattern: str) -> bool:
    return fnmatchcase(setting.name, pattern) or fnmatchcase(setting.folder, pattern)
