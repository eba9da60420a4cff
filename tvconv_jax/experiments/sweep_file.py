"""Files of ``configs/sweeps``: a title, and settings to compare."""

import dataclasses
import importlib.util
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from tvconv_jax.tasks.configs.renamed import rename_changes
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import is_left_over
from tvconv_jax.utils.shipped import SWEEPS, find_config

WRITTEN = ("sweep.json", "report.html", "operator_table.json")
# Of the output folder, besides settings; older versions left .part.
PARTS = {*WRITTEN, *(f"{name}.part" for name in WRITTEN), ".lock"}


@dataclasses.dataclass(frozen=True, eq=False)  # by identity, for changes have no hash
class Setting:
    """A row of the table."""

    label: Annotated[str, "name of the row, and of its folder"]
    config: Annotated[str, "config file"]
    argument: Annotated[str, "arguments behind the config's colon, before those of the command"] = ""
    changes: Annotated[Mapping[str, Any], 'values by config key, as `{"model.hidden_channels": 8}`'] = (
        dataclasses.field(default_factory=dict)
    )
    group: Annotated[str, "name of the group of rows to which it belongs"] = ""
    paper: Annotated[Mapping[str, float], 'the paper\'s figures by column, as `{"MACs M": 22.47}`'] = dataclasses.field(
        default_factory=dict
    )

    @property
    def folder(self) -> str:
        return re.sub(r"[^\w.-]+", "_", self.name)

    @property
    def name(self) -> str:
        return f"{self.group} {self.label}".strip()

    def matches(self, pattern: str) -> bool:
        return fnmatchcase(self.name, pattern) or fnmatchcase(self.folder, pattern)


class Sweep(NamedTuple):
    """The value of ``get_sweep()`` in a file of ``configs/sweeps``."""

    title: Annotated[str, "title, with the table or figure of the paper"]
    settings: Annotated[Sequence[Setting], "the rows, each a `Setting`"]
    note: Annotated[str, "remark on the table"] = ""
    columns: Annotated[Mapping[str, str], "further shares in percent, by title: paths in results.json"] = {}


def load_sweep(path: str) -> Sweep:
    """Run a file of ``configs/sweeps``, found by its path or name, and check its sweep.

    Raises:
        UserError: If there is no such file, it is not a sweep, a config is missing, or a row is there twice.
    """
    path = str(find_config(path, SWEEPS))
    spec = importlib.util.spec_from_file_location("tvconv_jax_sweep", path)
    if spec is None:
        raise UserError(f"{path} is not a Python file; a sweep is one that has get_sweep(), as in configs/sweeps.")
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
        try:
            find_config(setting.config)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        if folders.count(setting.folder) > 1:
            raise UserError(f"{path} has two settings that go to the folder {setting.folder}; rename one.")
    return sweep


def chosen(sweep: Sweep, patterns: Sequence[str]) -> list[Setting]:
    """Return the settings whose name or folder matches one of the globs; without globs all of them.

    Raises:
        UserError: If a glob matches none; lists the settings.
    """
    for pattern in patterns:
        if not any(setting.matches(pattern) for setting in sweep.settings):
            names = ", ".join(setting.name for setting in sweep.settings)
            raise UserError(f"--settings {pattern!r} matches none of: {names}.")
    return [s for s in sweep.settings if not patterns or any(map(s.matches, patterns))]


def check_folder(out: Path, sweep: Sweep) -> None:
    """Raise a ``UserError`` if the folder holds anything that is not of this sweep."""
    folders = {setting.folder for setting in sweep.settings}
    for path in (out, *(out / folder for folder in folders)):
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is not a folder; choose another --out, or move it away.")
    there = {path.name for path in out.iterdir()} if out.exists() else set()
    foreign = sorted(name for name in there - folders - PARTS if not is_left_over(name))
    if not there & {"sweep.json", *(folder.split("/")[0] for folder in folders)}:
        foreign += sorted(there & set(WRITTEN))  # not written by this sweep
    if foreign:
        raise UserError(f"{out} holds {foreign[0]}, which is not of this sweep; choose another --out, or move it away.")
