"""All operators side by side: what each costs, learns and weighs, from the runs of a sweep to one table.

    python -m tvconv_jax.experiments.sweep configs/sweeps/figure6.py --out=runs/figure6
    python -m tvconv_jax.bench.operator_table runs/figure6

Every run that ended is exported to ONNX and checked against its JAX model; the first run of each operator is timed in
onnxruntime, all of them in turns, and weighed in a fresh process. What has not run, or fails, is a row that says so.
Accuracy is that of ``results.json``, mean ± standard deviation over seeds; peak memory is at the batch of
``edge/benchmark.py``. The figures also go to ``operator_table.json`` in the sweep's folder.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tvconv_jax.bench.edge_table import parse_batches
from tvconv_jax.data.cache import cache_dir
from tvconv_jax.edge import benchmark
from tvconv_jax.experiments.sweep_file import Setting, Sweep, check_folder, load_sweep
from tvconv_jax.experiments.sweep_record import read_results
from tvconv_jax.experiments.sweep_runs import Run, runs_of
from tvconv_jax.export.exporting import export
from tvconv_jax.models.registry import OPERATORS
from tvconv_jax.report.sweep import spread
from tvconv_jax.tasks import command
from tvconv_jax.utils.cli import Parser, ends_in_one_line, number, output_file, output_folder, path_argument
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import write_json
from tvconv_jax.utils.outputs import announce_overwrite

PAPERS = {name: row.paper for name, row in OPERATORS.items()} | {"mlp_mixer": "Tolstikhin et al., NeurIPS 2021"}
COLUMNS = (
    *("MACs M", "params K", "in training K", "training img/s", "accuracy %", "from JAX"),
    *("img/s, best", "batch 1", "peak MB"),
)


@dataclasses.dataclass
class Row:
    """A setting of the sweep, filled step by step.

    Attributes:
        name: Of the setting; in ``figure6``, the operator.
        paper: Where the operator comes from; empty for a setting that is not named after one.
        accuracies: Percent, one a run that ended.
        complexity: MACs and parameters, of the first of them.
        training_rate: Images per second in training, the median over them.
        difference: Largest, of their ONNX files from their JAX models.
        file_bytes: Of the first run's ONNX file.
        points: Its figures by batch and threads.
        memory: Its peak in a fresh process, in bytes.
        fault: Why the rest is missing.
    """

    name: str
    paper: str
    accuracies: list[float] = dataclasses.field(default_factory=list)
    complexity: dict[str, int] | None = None
    training_rate: float | None = None
    difference: float | None = None
    file_bytes: int | None = None
    points: list[dict[str, float]] | None = None
    memory: dict[str, int] | None = None
    fault: str | None = None

    def attempt(self, step: Callable[[], Any]) -> Any:
        """Takes a step, unless one before failed; what goes wrong is this row's, whatever it is, and stops no other."""
        if self.fault:
            return None
        try:
            return step()
        except Exception as error:
            known = isinstance(error, UserError | benchmark.Mistake)
            self.fault = " ".join(f"{'' if known else type(error).__name__ + ': '}{error}".split())
            return None


def measure(
    sweep: Sweep, folder: Path, exports: Path, *, batches: Sequence[int], seconds: float, say: Callable[[str], None]
) -> list[Row]:
    """One row for every setting of a sweep.

    Args:
        sweep: What was run.
        folder: Its folder, ``folder/<setting>/seed<s>``.
        exports: Where the artifacts go, ``exports/<setting>/seed<s>``.
        batches: Images at a time.
        seconds: Per row, batch and number of threads.
        say: Told what is done.
    """
    threads = sorted({1, benchmark.cores()})
    rows, timed = [], []
    for setting in sweep.settings:
        row = Row(setting.name, PAPERS.get(setting.label, ""))
        rows.append(row)
        runs = row.attempt(lambda row=row, setting=setting: _ended(row, setting, folder))
        path = row.attempt(lambda row=row, runs=runs: _exported(row, runs, exports, say))
        model = row.attempt(lambda row=row, path=path: _weighed(row, path, threads))
        say(f"{row.name}: {row.fault or 'exported'}")
        if model:
            timed.append((row, model))
    if timed:
        points = [(batch, n) for batch in batches for n in threads]
        for (row, _), figures in zip(timed, benchmark.measure([m for _, m in timed], points, seconds), strict=True):
            row.points = figures
    return rows


def _ended(row: Row, setting: Setting, folder: Path) -> list[Run]:
    """The runs with results, which go to the row."""
    names = [path.name[4:] for path in (folder / setting.folder).glob("seed[0-9]*")]
    seeds = sorted(int(name) for name in names if name.isdecimal())
    results = read_results(runs_of([setting], seeds, folder))
    if not results:
        raise UserError("started, has not ended" if seeds else "not run")
    found = list(results.values())
    row.accuracies = [100 * result["mean_accuracy"] for result in found]
    row.complexity = found[0]["complexity"]
    rates = [result["images_per_second"] for result in found if result["images_per_second"]]
    row.training_rate = statistics.median(rates) if rates else None
    return list(results)


def _exported(row: Row, runs: Sequence[Run], exports: Path, say: Callable[[str], None]) -> Path:
    """The first run's ONNX file, once all runs are exported."""
    worst, files = 0.0, []
    for run in runs:
        say(f"{run.setting.folder}, seed {run.seed} ...")
        out = exports / run.setting.folder / f"seed{run.seed}"
        (artifact,) = export(run.workdir, out, formats=["onnx"]).artifacts
        worst = max(worst, artifact.difference)
        files.append(out / artifact.file)
    row.difference = worst
    return files[0]


def _weighed(row: Row, path: Path, threads: Sequence[int]) -> benchmark.OnnxRuntime:
    weight = benchmark.weigh_in_fresh_process(path, "onnxruntime", max(threads))
    row.file_bytes, row.memory = weight["file_bytes"], weight["memory"]
    model = benchmark.load(path, "onnxruntime", threads[0])
    benchmark.check(model, path.with_name("check.npz"), threads[0])
    return model


def show(sweep: Sweep, rows: Sequence[Row]) -> Table:
    """The table; what is missing is a dash, and why stands in the place of the figures of speed."""
    table = Table(title=sweep.title, caption=sweep.note or None)
    for column in ("operator", "from", "seeds", *COLUMNS):
        table.add_column(column, justify="left" if column in ("operator", "from") else "right")
    for row in rows:
        table.add_row(escape(row.name), row.paper, str(len(row.accuracies)), *_cells(row))
    return table


def _cells(row: Row) -> list[str]:
    cells = ["-"] * 3
    if row.complexity:
        cost = row.complexity
        cells = [f"{cost['macs'] / 1e6:.2f}", f"{cost['params'] / 1e3:,.0f}", f"{cost['train_params'] / 1e3:,.0f}"]
    cells.append(f"{row.training_rate:.0f}" if row.training_rate else "-")
    cells.append(spread(row.accuracies) if row.accuracies else "-")
    cells.append("-" if row.difference is None else f"{row.difference:.0e}")
    if row.points:
        cells += [f"{_rate(row.points):.0f}", f"{_rate(row.points, 1):.0f}", f"{row.memory['peak_bytes'] / 1e6:.0f}"]
    else:
        cells += ["-", "-", "-"]
    return cells


def _rate(points: Sequence[dict[str, float]], batch: int | None = None) -> float:
    """Images per second, the best over threads, and over batches unless one is given."""
    return max(point["images_per_second"] for point in points if batch in (None, point["batch"]))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m tvconv_jax.bench.operator_table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("folder", type=path_argument, help="of a sweep")
    add("--sweep", default="configs/sweeps/figure6.py", help="its file; default: configs/sweeps/figure6.py")
    add("--out", type=output_folder, default=None, metavar="DIR", help="keeps the artifacts there; default: nowhere")
    add("--batch", type=parse_batches, default=[1, 8, 16], help="default: 1,8,16; 1 is always among them")
    add("--seconds", type=number(0), default=1.0, help="per row, batch and number of threads; default 1")
    add("--json", type=output_file, metavar="FILE", help="default: operator_table.json in the sweep's folder")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    args = _parser().parse_args(argv)
    command.keep_compiled_programs(cache_dir())
    with ends_in_one_line("no table was written.", mistakes=(UserError, benchmark.Mistake)):
        benchmark.import_runtime("onnxruntime")
        rows = _run(args)
    if any(row.fault and row.accuracies for row in rows):
        sys.exit(1)


def _run(args: argparse.Namespace) -> list[Row]:
    sweep, folder = load_sweep(args.sweep), args.folder.absolute()
    if not folder.is_dir():
        raise UserError(f"there is no folder {args.folder}; run the sweep first: experiments.sweep {args.sweep}.")
    check_folder(folder, sweep)
    with tempfile.TemporaryDirectory() as temporary:
        exports = args.out.absolute() if args.out else Path(temporary)
        rows = measure(sweep, folder, exports, batches=args.batch, seconds=args.seconds, say=_say)
    console = Console()
    (console if console.is_terminal else Console(width=180)).print(show(sweep, rows))
    for row in rows:
        if row.fault:
            print(f"{row.name}: {row.fault}")
    file = announce_overwrite(args.json) if args.json else folder / "operator_table.json"
    about = {"machine": benchmark.machine(), "sweep": args.sweep, "rows": [dataclasses.asdict(row) for row in rows]}
    write_json(file, about)
    print(f"Figures: {file}")
    return rows


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
