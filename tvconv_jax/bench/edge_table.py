"""Exported models side by side: every runtime at hand, in turns, beside the reference's own frozen module.

    python -m tvconv_jax.bench.edge_table headline     MobileNetV2 x0.5 with TVConv against x1.0 depthwise
    python -m tvconv_jax.bench.edge_table models       all eight face models, both operators
    python -m tvconv_jax.bench.edge_table lowerings    the same in ONNX, in every way that they can be written

Weights are random, for speed does not depend on them. Every file is first checked against the JAX model on 64 pictures.
What a row says holds for this machine; ``launch/pi.sh`` measures on another one.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from tvconv_jax.bench.random_models import Subject, answered, folded, write
from tvconv_jax.bench.reference_module import Reference
from tvconv_jax.edge import benchmark
from tvconv_jax.export import artifacts
from tvconv_jax.export.low_rank import Rank
from tvconv_jax.models import mobilenetv2, shufflenetv2
from tvconv_jax.utils.cli import Parser, ends_in_one_line, image_size, number, output_file
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import write_json
from tvconv_jax.utils.outputs import announce_overwrite

FILES = {"onnxruntime": "model.onnx", "openvino": "model.onnx"}  # the others read model.safetensors
RUNTIMES = ("onnxruntime", "openvino", "torch", "inductor", "native")
PLAIN = (10, 14)  # of MobileNetV2's 17 per-pixel layers: all that a shortcut goes around; all but three
EIGHT = [("mobilenetv2", w) for w in mobilenetv2.WIDTHS] + [("shufflenetv2", w) for w in shufflenetv2.WIDTHS]


class Row(NamedTuple):
    """A subject in a runtime.

    Attributes:
        subject: The model.
        runtime: Of ``RUNTIMES``, or ``"reference"``.
        difference: Largest, of its file from the JAX model.
        points: Figures by batch and threads, as the benchmark measures them.
    """

    subject: Subject
    runtime: str
    difference: float
    points: list[dict[str, float]]

    def rate(self, batch: int | None = None) -> float:
        """Images per second, the best over threads, and over batches unless one is given."""
        return max(p["images_per_second"] for p in self.points if batch in (None, p["batch"]))


def measure(
    cases: Sequence[tuple[Subject, Sequence[str]]], *, batches: Sequence[int], seconds: float, image_size: int
) -> list[Row]:
    """Exports subjects and times every one in each of its runtimes, all in turns."""
    threads = sorted({1, benchmark.cores()})
    with tempfile.TemporaryDirectory() as temporary:
        models, found, known = [], [], {}
        for number, (subject, runtimes) in enumerate(cases):
            folder = Path(temporary, str(number))
            formats = ["onnx"] + ["torch"] * bool({"torch", "inductor", "reference"} & set(runtimes))
            formats += ["native"] * ("native" in runtimes)
            model = subject._replace(lowering=artifacts.AUTO)
            if model not in known:
                known = {model: answered(model, image_size)}
            differences = write(subject, known[model], folder, formats=formats)
            for runtime in runtimes:
                path = folder / FILES.get(runtime, "model.safetensors")
                if runtime == "reference":
                    models.append(Reference(path, threads[0]))
                else:
                    models.append(benchmark.load(path, runtime, threads[0]))
                benchmark.check(models[-1], folder / "check.npz", threads[0])
                found.append((subject, runtime, differences[path.name]))
        points = [(batch, n) for batch in batches for n in threads]
        measured = benchmark.measure(models, points, seconds)
    return [Row(*one, figures) for one, figures in zip(found, measured, strict=True)]


def headline(runtimes: Sequence[str], **options: Any) -> list[Row]:
    """MobileNetV2 x0.5 with TVConv, exact and of low rank, and x1.0 with depthwise convolutions; all in turns.

    Also x0.5 with depthwise convolutions: what TVConv of the same width could reach at most, if gains cost nothing.
    """
    low = [runtime for runtime in runtimes if runtime in ("onnxruntime", "openvino", "native")]
    cases = [
        (Subject("mobilenetv2", 1.0, "depthwise"), runtimes),
        (Subject("mobilenetv2", 0.5, "depthwise"), runtimes),
        (Subject("mobilenetv2", 0.5, "tvconv"), runtimes),
        (Subject("mobilenetv2", 0.5, "tvconv", Rank(1)), low),
        (Subject("mobilenetv2", 0.5, "tvconv", Rank(2)), low),
        *((Subject("mobilenetv2", 0.5, "tvconv", Rank(terms, plain)), low) for plain in PLAIN for terms in (1, 2)),
    ]
    rows = measure(cases, **options)
    depthwise = [row for row in rows if row.subject == cases[0][0]]
    table = Table(title="ratios: over depthwise x1.0 in the same runtime; over the fastest depthwise x1.0 of all")
    _columns(table, "same, best", "same, batch 1", "fastest, best", "fastest, batch 1")
    for row in rows:
        (same,) = (one for one in depthwise if one.runtime == row.runtime)
        others = [
            row.rate() / same.rate(),
            row.rate(1) / same.rate(1),
            row.rate() / max(one.rate() for one in depthwise),
            row.rate(1) / max(one.rate(1) for one in depthwise),
        ]
        table.add_row(*_cells(row), *(f"{ratio:.2f}x" for ratio in others))
    _print(table)
    return rows


def eight(runtimes: Sequence[str], **options: Any) -> list[Row]:
    """Every face model with both operators; TVConv over the reference's frozen module, model by model in turns."""
    table, rows = Table(title="ratios: over the reference's frozen module, eager PyTorch"), []
    _columns(table, "best", "batch 1")
    for name, width in EIGHT:
        tvconv = Subject(name, width, "tvconv")
        found = measure(
            [
                (tvconv, ["reference", *runtimes]),
                (tvconv._replace(rank=Rank(1)), [r for r in runtimes if r in ("onnxruntime", "openvino")]),
                (tvconv._replace(operator="depthwise"), runtimes),
            ],
            **options,
        )
        base, rows = found[0], rows + found
        for row in found:
            compared = row.subject.operator == "tvconv"
            ratios = (row.rate() / base.rate(), row.rate(1) / base.rate(1)) if compared else ()
            table.add_row(*_cells(row), *(f"{ratio:.2f}x" for ratio in ratios))
        table.add_section()
        print(f"{name} x{width}: done", flush=True)
    _print(table)
    return rows


def lowerings(runtimes: Sequence[str], **options: Any) -> list[Row]:
    """Every face model with both operators, exact and of rank 1, in every lowering, model by model in turns.

    Ratios are over the fastest of the lowerings that leave channels as they are.
    """
    from tvconv_jax.export.onnx import writer as onnx_writer

    table, rows = Table(title="ratios: over the best lowering without blocks of channels, same runtime"), []
    _columns(table, "best", "batch 1")
    readers = [runtime for runtime in runtimes if FILES.get(runtime) == "model.onnx"]
    if not readers:
        raise UserError(f"--runtimes={','.join(runtimes)}: lowerings are of ONNX files; name {' or '.join(FILES)}.")
    for name, width in EIGHT:
        for operator, rank in (("depthwise", None), ("tvconv", None), ("tvconv", Rank(1))):
            subject = Subject(name, width, operator, rank)
            names = onnx_writer.lowerings(folded(subject, options["image_size"])[2])
            found = measure([(subject._replace(lowering=one), readers) for one in names], **options)
            for row in found:
                plain = [
                    one
                    for one in found
                    if one.runtime == row.runtime and not one.subject.lowering.endswith(onnx_writer.BLOCKS)
                ]
                best, first = max(one.rate() for one in plain), max(one.rate(1) for one in plain)
                table.add_row(*_cells(row), f"{row.rate() / best:.2f}x", f"{row.rate(1) / first:.2f}x")
            table.add_section()
            rows += found
        print(f"{name} x{width}: done", flush=True)
    _print(table)
    return rows


def _columns(table: Table, *ratios: str) -> None:
    for column in ("model", "runtime", "from JAX", "img/s, best", "batch 1", *ratios):
        table.add_column(column, justify="left" if column in ("model", "runtime") else "right")


def _cells(row: Row) -> list[str]:
    return [str(row.subject), row.runtime, f"{row.difference:.0e}", f"{row.rate():.0f}", f"{row.rate(1):.0f}"]


def _print(table: Table) -> None:
    console = Console()
    (console if console.is_terminal else Console(width=150)).print(table)


def _runtimes(text: str) -> list[str]:
    for name in text.split(","):
        if name not in RUNTIMES:
            raise argparse.ArgumentTypeError(f"{name!r} is unknown; there are: {', '.join(RUNTIMES)}")
    return list(dict.fromkeys(text.split(",")))


def parse_batches(text: str) -> list[int]:
    """``"8,16"`` -> ``[1, 8, 16]``, for argparse."""
    values = sorted({1, *map(int, text.split(","))})  # batch 1 is a column of its own
    if values[0] < 1:
        raise argparse.ArgumentTypeError(f"{values[0]} must be at least 1")
    return values


TABLES = {"headline": headline, "models": eight, "lowerings": lowerings}


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = Parser(
        prog="python -m tvconv_jax.bench.edge_table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("table", choices=TABLES)
    add("--runtimes", type=_runtimes, default=["onnxruntime", "torch", "inductor", "native"], metavar="NAME,...")
    add("--batch", type=parse_batches, default=[1, 8, 16], help="default: 1,8,16; 1 is always among them")
    add("--seconds", type=number(0), default=1.0, help="per row, batch and number of threads; default 1")
    add("--image-size", type=image_size, default=96, help="default: 96")
    add("--json", type=output_file, metavar="FILE", help="writes all figures there too")
    args = parser.parse_args(argv)
    with ends_in_one_line("no table was made.", mistakes=(UserError, benchmark.Mistake)):
        for runtime in args.runtimes:
            benchmark.import_runtime(runtime)
        options = {"batches": args.batch, "seconds": args.seconds, "image_size": args.image_size}
        rows = TABLES[args.table](args.runtimes, **options)
        if args.json:
            entries = [
                row._asdict() | row.subject._asdict() | {"rank": str(row.subject.rank or "exact")} for row in rows
            ]
            write_json(announce_overwrite(args.json), entries)


if __name__ == "__main__":
    main()
