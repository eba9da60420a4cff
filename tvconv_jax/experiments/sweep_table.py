"""The table of a sweep: a row a setting, what the paper has beside ours."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from tvconv_jax.experiments.sweep_file import Setting, Sweep
from tvconv_jax.report.sweep import MEAN, Cells, several_devices, spread

Results = Sequence[Mapping[str, Any]]


def show(sweep: Sweep, results: Mapping[Setting, Results]) -> Table:
    """A row a setting: cost, accuracy on every set and on average, mean ± standard deviation over seeds.

    Args:
        sweep: The sweep.
        results: ``results.json`` of its runs that ended.
    """
    cells = cells_of(sweep, results)
    devices = several_devices(result for found in results.values() for result in found)
    table = Table(title=sweep.title, caption="\n".join(filter(None, (sweep.note, devices))) or None)
    for column in ("setting", "seeds", *cells.columns):
        table.add_column(column, justify="left" if column == "setting" else "right")
    group = None
    for setting in sweep.settings:
        if setting.group != group and table.row_count:
            table.add_section()
        group = setting.group
        table.add_row(escape(setting.name), str(len(results.get(setting, []))), *cells.rows[setting.name])
    return table


def markdown(sweep: Sweep, results: Mapping[Setting, Results]) -> str:
    """The same as Markdown."""
    cells = cells_of(sweep, results)
    head = ["setting", "seeds", *cells.columns]
    rows = [[s.name, str(len(results.get(s, []))), *cells.rows[s.name]] for s in sweep.settings]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def cells_of(sweep: Sweep, results: Mapping[Setting, Results]) -> Cells:
    """The columns of the table, besides setting and seeds, and what stands in them."""
    sets = list(
        dict.fromkeys(name for found in results.values() for result in found for name in result["verification"])
    )
    columns = ["MACs M", "params K", "in training K", "img/s", *sets, MEAN, *sweep.columns]
    published = [column for column in columns if any(column in setting.paper for setting in sweep.settings)]
    rows = {}
    for setting in sweep.settings:
        found = results.get(setting, [])
        cells = [*_cost(found), *_accuracies(found, sets, sweep.columns)] if found else [""] * len(columns)
        paper = [f"{setting.paper[column]:.2f}" if column in setting.paper else "-" for column in published]
        rows[setting.name] = [*cells, *paper]
    return Cells([*columns, *(f"paper: {column}" for column in published)], rows)


def _cost(found: Results) -> list[str]:
    cost = found[0]["complexity"]
    numbers = [f"{cost['macs'] / 1e6:.2f}", f"{cost['params'] / 1e3:,.0f}", f"{cost['train_params'] / 1e3:,.0f}"]
    speeds = [result["images_per_second"] for result in found if result["images_per_second"]]
    return [*numbers, f"{np.median(speeds):.0f}" if speeds else "-"]


def _accuracies(found: Results, sets: Sequence[str], columns: Mapping[str, str]) -> list[str]:
    paths = [f"verification.{name}.accuracy" for name in sets]
    values = [[_at(result, path) for result in found] for path in (*paths, "mean_accuracy", *columns.values())]
    present = [[100 * value for value in row if value is not None] for row in values]
    return [spread(row) if row else "-" for row in present]


def _at(result: Mapping[str, Any], path: str) -> Any:
    """What stands at ``a.b.c``; ``None`` where nothing does, as in results of an older version."""
    return functools.reduce(lambda part, key: (part or {}).get(key), path.split("."), result)
