"""Old names of config keys, config arguments and flags, which go on working for one release."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from tvconv_jax.utils.moved import print_renamed

# A section's row holds for its keys, too.
KEYS = {
    "start": "finetune",
    "train.nan": "train.on_nonfinite",
    "train.accumulate": "train.grad_accum_steps",
    "optimizer.scale_rule": "optimizer.lr_scaling",
    "data.keep": "data.include_list",
    "eval.select": "eval.checkpoint",
    "eval.show": "eval.visualize",
    "eval.pictures": "eval.num_images",
    "eval.report_pictures": "eval.report_images",
}
ARGUMENTS = {"select": "checkpoint"}  # behind the colon of a config file
FLAGS = {"kind": "device-kind"}
_OVERRIDE = re.compile(r"(--?(?:no)?config\.)([\w.]+)(.*)", re.DOTALL)


def new_key(key: str) -> str:
    """Return the new name of a config key, or the same name."""
    for old, new in KEYS.items():
        if f"{key}.".startswith(f"{old}."):
            return new + key.removeprefix(old)
    return key


def _rename_key(key: str) -> str:
    if (new := new_key(key)) != key:
        print_renamed(f"config key {key}", new)
    return new


def rename_arguments(argv: Sequence[str]) -> list[str]:
    """Return command-line arguments with old flags, and old keys in ``--config.KEY=VALUE``, renamed; print each."""
    renamed = []
    for argument in argv:
        flag, equals, value = argument.partition("=")
        if match := _OVERRIDE.fullmatch(argument):
            argument = f"{match[1]}{_rename_key(match[2])}{match[3]}"
        elif flag.startswith("-") and (name := flag.lstrip("-")) in FLAGS:
            print_renamed(f"flag --{name}", f"--{FLAGS[name]}")
            argument = f"--{FLAGS[name]}{equals}{value}"
        renamed.append(argument)
    return renamed


def rename_keys(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested config, such as an old ``config.json``, with old keys renamed."""
    renamed: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        value = rename_keys(value, f"{key}.") if isinstance(value, Mapping) else value
        new = new_key(key).rpartition(".")[2]
        renamed[new] = {**renamed.get(new, {}), **value} if isinstance(value, dict) else value
    return renamed


def rename_in_place(config: ConfigDict, given: Mapping[str, Any] = {}) -> None:
    """Rename old keys that a user's own config file, which may be locked, has set, and print each.

    ``given`` are overrides of the command line by key, which stay.
    """
    for old, new in KEYS.items():
        section, _, name = old.rpartition(".")
        parent = config.get(section, {}) if section else config
        if not isinstance(parent, Mapping | ConfigDict) or name not in parent:
            continue
        print_renamed(f"config key {old}", new)
        value = parent[name]
        with config.unlocked(), config.ignore_type():
            del parent[name]
            values = {f"{new}.{key}": value[key] for key in value} if isinstance(value, ConfigDict) else {new: value}
            config.update_from_flattened_dict({key: v for key, v in values.items() if key not in given})


def rename_hint(message: str) -> str:
    """Return the new name of the old key that an error of ml_collections names first, to append to it, or ``""``."""
    match = re.search(r"['\"](\w+)['\"]", message)
    renamed = [f"{old} is now {new}" for old, new in KEYS.items() if match and old.rpartition(".")[2] == match[1]]
    return f"; {', '.join(renamed)}" if renamed else ""


def rename_changes(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by key, as a row of a sweep has them, with old keys renamed; print each."""
    return {_rename_key(key): value for key, value in changes.items()}
