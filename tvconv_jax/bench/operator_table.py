"""Cost, accuracy, size and speed of all operators, from the runs of a sweep to one table.

    python -m tvconv_jax.experiments.sweep configs/sweeps/figure6.py --out=runs/figure6
    python -m tvconv_jax.bench.operator_table runs/figure6

Every run that ended is exported to ONNX and checked against its JAX model. The first run of each operator is timed in
onnxruntime, interleaved with the others, and its memory measured in a fresh process. A run that is missing or fails is
a row with the reason. Accuracy is that of ``results.json``, mean ± standard deviation over seeds; peak memory is at the
batch of ``edge/benchmark.py``. The figures also go to ``operator_table.json`` in the sweep's folder.
"""

import argparse
import dataclasses
import functools
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from tvconv_jax.bench.tables import MISTAKES, add_speed_options, images_per_second, timing_points
from tvconv_jax.data.cache import cache_dir
from tvconv_jax.edge import benchmark
from tvconv_jax.experiments.sweep_file import Setting, Sweep, check_folder, load_sweep
from tvconv_jax.experiments.sweep_record import read_results
from tvconv_jax.experiments.sweep_runs import Run, runs_of
from tvconv_jax.export.artifacts import check_packages
from tvconv_jax.export.exporting import export
from tvconv_jax.models.registry import OPERATORS
from tvconv_jax.report.sweep import cost_cells, spread
from tvconv_jax.tasks import command
from tvconv_jax.utils.cli import Parser, ends_in_one_line, output_file, output_folder, path_argument
from tvconv_jax.utils.console import make_table, print_table
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import announce_overwrite, write_json

PAPERS = {name: row.paper for name, row in OPERATORS.items()} | {"mlp_mixer": "Tolstikhin et al., NeurIPS 2021"}
COLUMNS = (
    *("operator", "from", "seeds", "MACs M", "params K", "in training K", "training images/s", "accuracy %"),
    *("from JAX", "images/s, best", "batch 1", "peak MB"),
)


@dataclasses.dataclass
class Row:
    """A setting of the sweep, filled step by step."""

    name: str  # of the setting; in figure6, the operator
    paper: str  # source of the operator; empty for a setting that is not named after one
    accuracies: list[float] = dataclasses.field(default_factory=list)  # percent, one for each run that ended
    complexity: dict[str, int] | None = None  # MACs and parameters of the first run
    training_images_per_second: float | None = None  # median over the runs
    difference: float | None = None  # largest, of their ONNX files from their JAX models
    file_bytes: int | None = None  # of the first run's ONNX file
    points: list[dict[str, float]] | None = None  # figures of that file by batch and threads
    memory: dict[str, int] | None = None  # peak bytes of that file in a fresh process
    error: str | None = None  # reason why the rest is missing


def measure(
    sweep: Sweep, folder: Path, exports: Path, *, batches: Sequence[int], seconds: float, log_fn: Callable[[str], None]
) -> list[Row]:
    """Return a row for every setting of a sweep.

    Runs are in ``folder/<setting>/seed<s>``; their artifacts go to ``exports/<setting>/seed<s>``.
    """
    rows, timed = [], []
    for setting in sweep.settings:
        row = Row(setting.name, PAPERS.get(setting.label, ""))
        rows.append(row)
        try:
            path = _export(row, _add_results(row, setting, folder), exports, log_fn)
            timed.append((row, _load(row, path)))
        except Exception as error:  # whatever it is, the other rows go on
            kind = "" if isinstance(error, MISTAKES) else f"{type(error).__name__}: "
            row.error = " ".join(f"{kind}{error}".split())
        log_fn(f"{row.name}: {row.error or 'exported'}")
    if timed:
        figures = benchmark.measure([model for _, model in timed], timing_points(batches), seconds)
        for (row, _), points in zip(timed, figures, strict=True):
            row.points = points
    return rows


def _add_results(row: Row, setting: Setting, folder: Path) -> list[Run]:
    """Add the results of the runs that ended to the row; return the runs."""
    names = [path.name[4:] for path in (folder / setting.folder).glob("seed[0-9]*")]
    seeds = sorted(int(name) for name in names if name.isdecimal())
    results = read_results(runs_of([setting], seeds, folder))
    if not results:
        raise UserError("started, has not ended" if seeds else "not run")
    found = list(results.values())
    row.accuracies = [100 * result["mean_accuracy"] for result in found]
    row.complexity = found[0]["complexity"]
    speeds = [result["images_per_second"] for result in found if result["images_per_second"]]
    row.training_images_per_second = statistics.median(speeds) if speeds else None
    return list(results)


def _export(row: Row, runs: Sequence[Run], exports: Path, log_fn: Callable[[str], None]) -> Path:
    """Export all runs; return the first one's ONNX file."""
    differences, files = [], []
    for run in runs:
        log_fn(f"{run.setting.folder}, seed {run.seed} ...")
        out = exports / run.setting.folder / f"seed{run.seed}"
        (artifact,) = export(run.workdir, out, formats=["onnx"]).artifacts
        differences.append(artifact.difference)
        files.append(out / artifact.file)
    row.difference = max(differences)
    return files[0]


def _load(row: Row, path: Path) -> benchmark.OnnxRuntime:
    """Add file size and peak memory to the row; return the model, checked."""
    weight = benchmark.weigh_in_fresh_process(path, "onnxruntime", benchmark.cores())
    row.file_bytes, row.memory = weight["file_bytes"], weight["memory"]
    model = benchmark.load(path, "onnxruntime", 1)
    benchmark.check(model, path.with_name("check.npz"), 1)
    return model


def show(sweep: Sweep, rows: Sequence[Row]) -> Table:
    """Return the table; a dash stands for a missing figure."""
    table = make_table(COLUMNS, left=("operator", "from"), title=sweep.title, caption=sweep.note or None)
    for row in rows:
        cells = ["-"] * 9
        if cost := row.complexity:
            cells[:3] = cost_cells(cost)
        if row.training_images_per_second:
            cells[3] = f"{row.training_images_per_second:.0f}"
        cells[4] = spread(row.accuracies)
        if row.difference is not None:
            cells[5] = f"{row.difference:.0e}"
        if row.points:
            speeds = (f"{images_per_second(row.points, batch):.0f}" for batch in (None, 1))
            cells[6:] = *speeds, f"{row.memory['peak_bytes'] / 1e6:.0f}"
        table.add_row(escape(row.name), row.paper, str(len(row.accuracies)), *cells)
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = Parser(prog="python -m tvconv_jax.bench.operator_table", description=__doc__)
    add = parser.add_argument
    add("folder", type=path_argument, help="of a sweep")
    add("--sweep", default="configs/sweeps/figure6.py", help="its file; default: configs/sweeps/figure6.py")
    add("--out", type=output_folder, default=None, metavar="DIR", help="keeps the artifacts there; default: nowhere")
    add_speed_options(parser)
    add("--json", type=output_file, metavar="FILE", help="default: operator_table.json in the sweep's folder")
    args = parser.parse_args(argv)
    command.keep_compiled_programs(cache_dir())
    with ends_in_one_line("no table was written.", mistakes=MISTAKES):
        check_packages(["onnx"])
        benchmark.import_runtime("onnxruntime")
        rows = _run(args)
    if any(row.error and row.accuracies for row in rows):
        sys.exit(1)


def _run(args: argparse.Namespace) -> list[Row]:
    sweep, folder = load_sweep(args.sweep), args.folder.absolute()
    if not folder.is_dir():
        raise UserError(f"there is no folder {args.folder}; run the sweep first: experiments.sweep {args.sweep}.")
    check_folder(folder, sweep)
    log_fn = functools.partial(print, flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        exports = args.out.absolute() if args.out else Path(temporary)
        rows = measure(sweep, folder, exports, batches=args.batch, seconds=args.seconds, log_fn=log_fn)
    print_table(show(sweep, rows), width=190)
    for row in rows:
        if row.error:
            print(f"{row.name}: {row.error}")
    file = announce_overwrite(args.json) if args.json else folder / "operator_table.json"
    about = {"machine": benchmark.machine(), "sweep": args.sweep, "rows": [dataclasses.asdict(row) for row in rows]}
    write_json(file, about)
    print(f"Figures: {file}")
    return rows


if __name__ == "__main__":
    main()
