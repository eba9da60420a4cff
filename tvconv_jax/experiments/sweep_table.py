"""The table of a sweep: a row for every setting, the paper's results beside ours."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from tvconv_jax.experiments.sweep_file import Setting, Sweep
from tvconv_jax.report.sweep import MEAN, Cells, several_devices, spread

Results = Sequence[Mapping[str, Any]]  # results.json of the runs of a setting that ended


def show(sweep: Sweep, results: Mapping[Setting, Results]) -> Table:
    """Return a table of cost, accuracy on every set and on average, mean ± standard deviation over seeds."""
    head, *rows = _rows(sweep, results)
    devices = several_devices(result for found in results.values() for result in found)
    table = Table(title=sweep.title, caption="\n".join(filter(None, (sweep.note, devices))) or None)
    for column in head:
        table.add_column(column, justify="left" if column == "setting" else "right")
    group = None
    for setting, (name, *cells) in zip(sweep.settings, rows, strict=True):
        if setting.group != group and table.row_count:
            table.add_section()
        group = setting.group
        table.add_row(escape(name), *cells)
    return table


def markdown(sweep: Sweep, results: Mapping[Setting, Results]) -> str:
    """Return the same as Markdown."""
    head, *rows = _rows(sweep, results)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def _rows(sweep: Sweep, results: Mapping[Setting, Results]) -> list[list[str]]:
    columns, cells = cells_of(sweep, results)
    rows = [[s.name, str(len(results.get(s, []))), *cells[s.name]] for s in sweep.settings]
    return [["setting", "seeds", *columns], *rows]


def cells_of(sweep: Sweep, results: Mapping[Setting, Results]) -> Cells:
    """Return the columns of the table, besides setting and seeds, and their cells."""
    sets = dict.fromkeys(name for found in results.values() for result in found for name in result["verification"])
    columns = ["MACs M", "params K", "in training K", "img/s", *sets, MEAN, *sweep.columns]
    published = [column for column in columns if any(column in setting.paper for setting in sweep.settings)]
    paths = [*(f"verification.{name}.accuracy" for name in sets), "mean_accuracy", *sweep.columns.values()]
    rows = {}
    for setting in sweep.settings:
        found = results.get(setting, [])
        cells = [*_cost(found), *(_accuracy(found, path) for path in paths)] if found else [""] * len(columns)
        paper = [f"{setting.paper[column]:.2f}" if column in setting.paper else "-" for column in published]
        rows[setting.name] = [*cells, *paper]
    return Cells([*columns, *(f"paper: {column}" for column in published)], rows)


def _cost(found: Results) -> list[str]:
    cost = found[0]["complexity"]
    numbers = [f"{cost['macs'] / 1e6:.2f}", f"{cost['params'] / 1e3:,.0f}", f"{cost['train_params'] / 1e3:,.0f}"]
    speeds = [result["images_per_second"] for result in found if result["images_per_second"]]
    return [*numbers, f"{np.median(speeds):.0f}" if speeds else "-"]


def _accuracy(found: Results, path: str) -> str:
    """Return the spread of the values at ``a.b.c``, which results of older versions may lack."""
    values = [functools.reduce(lambda part, key: (part or {}).get(key), path.split("."), result) for result in found]
    return spread([100 * value for value in values if value is not None])
