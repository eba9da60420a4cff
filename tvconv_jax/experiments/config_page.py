"""The page of all config keys: ``python -m tvconv_jax.experiments.config_page --out=docs/config.md``."""

from collections.abc import Iterable, Sequence
from typing import Any, get_type_hints

from ml_collections import ConfigDict

from tvconv_jax.experiments.sweep_file import Setting, Sweep
from tvconv_jax.models.registry import MODELS, list_operators
from tvconv_jax.tasks.config_table import argument_rows, arguments_of, key_rows, show
from tvconv_jax.tasks.configs import (
    classification_config,
    face_config,
    frontal_config,
    odoc_config,
    segmentation_config,
)
from tvconv_jax.tasks.keys import KEYS, describe_allowed
from tvconv_jax.utils.cli import Parser, ends_in_one_line, output_file
from tvconv_jax.utils.files import announce_overwrite, write_text

INTRODUCTION = """# Config keys

This page lists everything that a config can set. It is made from the table that checks the values. To print the same
for one config, with its values:

```bash
python -m tvconv_jax.main --config=configs/face_mb01.py --mode=config
python -m tvconv_jax.main --config=configs/face_mb01.py --mode=config --keys=optimizer
```

`--keys` takes a part of a name, or a glob such as `*.batch_size`.

## Behind the colon

Options behind the colon of a config file choose the data and set several keys at once, as in
`--config=configs/face_mb01.py:data=folder,epochs=12`.
"""
KEYS_TEXT = """## Keys

`--config.KEY=VALUE` sets one key, as in `--config.optimizer.learning_rate=0.05`. A tuple is written as
`"--config.optimizer.milestones=(8.0,12.0)"`. If configs have different defaults, each is named: *face*
stands for `face_*.py`, *face:folder* for these with `:data=folder`. A config that is not named lacks the key.
"""
SWEEP_TEXT = """## Sweep files

A file of `configs/sweeps` has a function `get_sweep()` that returns a `Sweep`; see
[Reproduce the paper](reproduce.md#run-a-sweep).
"""

BY_FILE = ("task", "model.name", "model.width")


def variants() -> dict[str, list[ConfigDict]]:
    """Return the configs by name; the one without arguments comes first, then one for each operator."""
    faces = [(name, model.widths[0]) for name, model in MODELS.items() if name != "deeplabv3plus"]

    def face(source: str) -> list[ConfigDict]:
        texts = [(f"data={source},operator={o}", name, width) for name, width in faces for o in list_operators(name)]
        return [face_config(text, model=name, width=width) for text, name, width in texts]

    def odoc(source: str) -> list[ConfigDict]:
        texts = ["", *(f",operator={o}" for o in list_operators("deeplabv3plus"))]
        return [odoc_config(f"data={source}{text}") for text in texts]

    def masks(source: str) -> list[ConfigDict]:
        return [segmentation_config(f"data={source},operator={o}") for o in list_operators("deeplabv3plus")]

    def classification(source: str) -> list[ConfigDict]:
        texts = ["", *(f",operator={o}" for o in list_operators("mobilenetv2")), ",model=mlp_mixer"]
        return [classification_config(f"data={source}{text}") for text in texts]

    return {
        **{"face": face("embedded"), "face:folder": face("folder"), "face:casia": face("casia")},
        "frontal": [frontal_config(None), *(frontal_config(f"operator={o}") for o in list_operators("mobilenetv2"))],
        **{"odoc": odoc("embedded"), "odoc:folder": odoc("folder")},
        **{"segmentation": masks("embedded"), "segmentation:folder": masks("folder")},
        **{"classification": classification("embedded"), "classification:folder": classification("folder")},
    }


def defaults(key: str, rows: dict[str, list[dict[str, str]]]) -> str:
    """Return the defaults of a key in words: one, or one for each kind of config where they differ."""
    if key in BY_FILE:
        return "set by the config file"
    kinds: dict[str, list[str]] = {}
    for name, each in rows.items():
        values = list(dict.fromkeys(row[key] for row in each if key in row))
        values = values[:1] if key == "model.operator" else values
        if values:
            kinds.setdefault(" or ".join(f"`{value}`" if value else "empty" for value in values), []).append(name)
    for names in kinds.values():  # of other data as of the embedded
        names[:] = [name for name in names if name.partition(":")[0] == name or name.partition(":")[0] not in names]
    texts = [f"{', '.join(names)}: {text}" for text, names in kinds.items()]
    return (
        next(iter(kinds))
        if len(kinds) == 1 and {"face", "frontal", "odoc", "classification"} <= {*sum(kinds.values(), [])}
        else "; ".join(texts)
    )


def render() -> str:
    """Return the text of the page."""
    parts = [INTRODUCTION]
    for title, task, model in (
        ("face", "face", "mobilenetv2"),
        ("frontal", "frontal", ""),
        ("odoc", "odoc", ""),
        ("segmentation", "segmentation", ""),
        ("classification", "classification", "mobilenetv2"),
    ):
        rows = argument_rows(arguments_of(task, model))
        cells = ((f"`{row.key}`", _cell(row.meaning, row.allowed), row.value) for row in rows)
        heading = "`face_*.py` (`face_mixer.py` has no operator)" if task == "face" else f"`{title}.py`"
        parts += [f"{heading}:\n", _table(("option", "does", "default"), cells)]
    values = {
        name: [{row.key: row.value for row in key_rows(config)} for config in configs]
        for name, configs in variants().items()
    }
    parts.append(KEYS_TEXT)
    for section in dict.fromkeys(key.rpartition(".")[0].split(".")[0] for key in sorted(KEYS)):
        keys = [key for key in KEYS if key.rpartition(".")[0].split(".")[0] == section]
        cells = ((f"`{key}`", _cell(KEYS[key].meaning, describe_allowed(key)), defaults(key, values)) for key in keys)
        parts += [f"### {section or 'without a section'}\n", _table(("key", "does", "default"), cells)]
    parts.append(SWEEP_TEXT)
    for kind in (Sweep, Setting):
        cells = ((f"`{name}`", text[:1].upper() + text[1:], default) for name, text, default in _fields(kind))
        parts += [f"Fields of a `{kind.__name__}`:\n", _table(("field", "does", "default"), cells)]
    return "\n".join(parts)


def _fields(kind: type) -> Iterable[tuple[str, str, str]]:
    for name, hint in get_type_hints(kind, include_extras=True).items():
        default = getattr(kind, name, None) if hasattr(kind, "__dataclass_fields__") else kind._field_defaults.get(name)
        yield name, hint.__metadata__[0], f"`{show(default)}`" if default else "none"


def _cell(meaning: str, allowed: Any) -> str:
    return f"{meaning[:1].upper()}{meaning[1:]}. Allowed: {allowed}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    parser = Parser(prog="python -m tvconv_jax.experiments.config_page", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=output_file, required=True, metavar="FILE", help="the Markdown file to write")
    out = parser.parse_args(argv).out
    with ends_in_one_line("the page was not written."):
        write_text(announce_overwrite(out), render())
        print(f"wrote {out}")


if __name__ == "__main__":
    main()
