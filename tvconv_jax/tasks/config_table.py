"""Keys of a config with values, allowed values and meanings, as ``--mode=config`` prints them."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from rich.table import Table

from tvconv_jax.tasks.configs.arguments import Argument
from tvconv_jax.tasks.configs.classification import classification_arguments
from tvconv_jax.tasks.configs.face import face_arguments
from tvconv_jax.tasks.configs.frontal import frontal_arguments
from tvconv_jax.tasks.configs.odoc import odoc_arguments
from tvconv_jax.tasks.configs.segmentation import segmentation_arguments
from tvconv_jax.tasks.keys import KEYS, describe_allowed, did_you_mean
from tvconv_jax.utils.console import print_table
from tvconv_jax.utils.errors import UserError


class Row(NamedTuple):
    """One line of the table."""

    key: str
    value: str
    allowed: str
    meaning: str


def arguments_of(task: str, model: str) -> dict[str, Argument]:
    """Return the arguments behind the colon of the configs of a task; ``odoc``: of disc and cup."""
    tables = {
        "classification": lambda: classification_arguments(model),
        "face": lambda: face_arguments(model),
        "frontal": frontal_arguments,
        "odoc": odoc_arguments,
        "segmentation": segmentation_arguments,
    }
    return tables[task]() if task in tables else {}


def argument_rows(arguments: dict[str, Argument]) -> list[Row]:
    """Return a row for every argument."""
    rows = []
    for name, argument in arguments.items():
        allowed = {int: "whole number", float: "number", bool: "its name alone"}.get(argument.kind, "text")
        default = "set by the config" if argument.default is None else show(argument.default)
        rows.append(Row(name, default, ", ".join(argument.choices) or allowed, argument.meaning))
    return rows


def key_rows(config: ConfigDict) -> Iterator[Row]:
    """Yield a row for every key of a config; a key of the user's own has no meaning here."""
    model = config.get("model", {}).get("name")
    for key, value in flatten_dict(config.to_dict(), sep=".").items():
        known = key in KEYS
        allowed = describe_allowed(key, model) if known else ""
        yield Row(key, show(value), allowed, KEYS[key].meaning if known else "a key of this config file alone")


def show(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if isinstance(value, tuple | list):
        return f"({', '.join(map(show, value))}{',' if len(value) == 1 else ''})"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def print_config(config: ConfigDict, pattern: str | None = None) -> None:
    """Print the keys of a config, or those that a name, a part of one or a glob matches.

    Raises:
        UserError: If it matches none; names near ones.
    """
    rows = list(key_rows(config))
    if pattern:
        chosen = [row for row in rows if fnmatchcase(row.key, pattern) or pattern in row.key]
        if not chosen:
            hint = did_you_mean(pattern, [row.key for row in rows]) or "; leave it out to list all."
            raise UserError(f"--keys={pattern} matches no key{hint}")
        rows = chosen
    else:
        task = "odoc" if "test_domain" in config.data else config.task
        _print("behind the colon of the config file", argument_rows(arguments_of(task, config.model.name)))
    _print("--config.KEY=VALUE", rows)


def _print(title: str, rows: list[Row]) -> None:
    table = Table(title=title, title_justify="left")
    for column in ("key", "value", "meaning"):
        table.add_column(column, overflow="fold", no_wrap=column == "key", max_width=16 if column == "value" else None)
    for row in rows:
        allowed = f". Allowed: {row.allowed}" if row.allowed else ""
        cells = (row.key, row.value, row.meaning + allowed)
        table.add_row(*(text.replace("`", "").replace("[", r"\[") for text in cells))
    print_table(table, width=100)
