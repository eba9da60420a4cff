"""Speed of exported models in every installed runtime and of the reference's own frozen module, interleaved.

    python -m tvconv_jax.bench.edge_table headline     MobileNetV2 x0.5 with TVConv against x1.0 depthwise
    python -m tvconv_jax.bench.edge_table models       all eight face models, both operators
    python -m tvconv_jax.bench.edge_table lowerings    the same in ONNX, in every lowering

Weights are random, for speed does not depend on them. Every file is first checked against the JAX model on 64 images.
The figures hold for this machine; ``launch/pi.sh`` measures on another one.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from tvconv_jax.bench import tables
from tvconv_jax.bench.random_models import Reference, Subject, compute_outputs, folded, write
from tvconv_jax.edge import benchmark
from tvconv_jax.export import artifacts
from tvconv_jax.export.low_rank import Rank
from tvconv_jax.models import mobilenetv2, shufflenetv2
from tvconv_jax.utils.cli import Parser, ends_in_one_line, image_size, names, output_file
from tvconv_jax.utils.console import make_table, print_table
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import announce_overwrite, write_json

FILES = {"onnxruntime": "model.onnx", "openvino": "model.onnx"}  # the others read model.safetensors
RUNTIMES = ("onnxruntime", "openvino", "torch", "inductor", "native")
SHARED = (10, 14)  # of MobileNetV2's 17 per-pixel layers: all that a shortcut goes around; all but three
EIGHT = [("mobilenetv2", w) for w in mobilenetv2.WIDTHS] + [("shufflenetv2", w) for w in shufflenetv2.WIDTHS]


class Row(NamedTuple):
    """A model in a runtime."""

    subject: Subject
    runtime: str  # of RUNTIMES, or "reference"
    difference: float  # largest, of its file from the JAX model
    points: list[dict[str, float]]  # figures by batch and threads, as the benchmark measures them

    def speed(self, batch: int | None = None) -> float:
        """Return the best images/s over threads, and over batch sizes unless one is given."""
        return tables.images_per_second(self.points, batch)


def measure(
    cases: Sequence[tuple[Subject, Sequence[str]]], *, batches: Sequence[int], seconds: float, image_size: int
) -> list[Row]:
    """Export models and time each in its runtimes, all interleaved."""
    with tempfile.TemporaryDirectory() as temporary:
        loaded, found, outputs = [], [], {}
        for number, (subject, runtimes) in enumerate(cases):
            folder = Path(temporary, str(number))
            model = subject._replace(lowering=artifacts.AUTO)
            if model not in outputs:
                outputs[model] = compute_outputs(model, image_size)
            differences = write(subject, outputs[model], folder, formats=_formats(runtimes))
            for runtime in runtimes:
                path = folder / FILES.get(runtime, "model.safetensors")
                loaded.append(Reference(path, 1) if runtime == "reference" else benchmark.load(path, runtime, 1))
                benchmark.check(loaded[-1], folder / "check.npz", 1)
                found.append((subject, runtime, differences[path.name]))
        measured = benchmark.measure(loaded, tables.timing_points(batches), seconds)
    return [Row(*one, figures) for one, figures in zip(found, measured, strict=True)]


def _formats(runtimes: Sequence[str]) -> list[str]:
    torch = {"torch", "inductor", "reference"} & set(runtimes)
    return ["onnx", *["torch"] * bool(torch), *["native"] * ("native" in runtimes)]


def headline(runtimes: Sequence[str], **options: Any) -> tuple[Table, list[Row]]:
    """Compare MobileNetV2 x0.5 with TVConv, exact and of low rank, with x1.0 with depthwise convolutions.

    Also x0.5 with depthwise convolutions: the limit for TVConv of the same width, if gains cost nothing.
    """
    low = [runtime for runtime in runtimes if runtime in ("onnxruntime", "openvino", "native")]
    tvconv = Subject("mobilenetv2", 0.5, "tvconv")
    ranks = [Rank(1), Rank(2), *(Rank(terms, shared) for shared in SHARED for terms in (1, 2))]
    depthwise = [(Subject("mobilenetv2", width, "depthwise"), runtimes) for width in (1.0, 0.5)]
    rows = measure([*depthwise, (tvconv, runtimes), *((tvconv._replace(rank=rank), low) for rank in ranks)], **options)
    title = "ratios: over depthwise x1.0 in the same runtime; over the fastest depthwise x1.0 of all"
    table = _table(title, "same, best", "same, batch 1", "fastest, best", "fastest, batch 1")
    base = [row for row in rows if row.subject == depthwise[0][0]]
    for row in rows:
        _add(table, row, [other for other in base if other.runtime == row.runtime], base)
    return table, rows


def models(runtimes: Sequence[str], **options: Any) -> tuple[Table, list[Row]]:
    """Compare every face model with the reference's frozen module; only the rows of one model are interleaved."""
    table, rows = _table("ratios: over the reference's frozen module, eager PyTorch", "best", "batch 1"), []
    for name, width in EIGHT:
        tvconv = Subject(name, width, "tvconv")
        cases = [
            (tvconv, ["reference", *runtimes]),
            (tvconv._replace(rank=Rank(1)), [runtime for runtime in runtimes if runtime in FILES]),
            (tvconv._replace(operator="depthwise"), runtimes),
        ]
        found = measure(cases, **options)
        for row in found:
            _add(table, row, *([found[:1]] if row.subject.operator == "tvconv" else []))
        table.add_section()
        rows += found
        print(f"{name} x{width}: done", flush=True)
    return table, rows


def lowerings(runtimes: Sequence[str], **options: Any) -> tuple[Table, list[Row]]:
    """Compare the lowerings of every face model, exact and of rank 1; only the rows of one graph are interleaved.

    Ratios are over the fastest of the lowerings that leave channels as they are.
    """
    readers = [runtime for runtime in runtimes if runtime in FILES]
    if not readers:
        raise UserError(f"--runtimes={','.join(runtimes)}: lowerings are of ONNX files; name {' or '.join(FILES)}.")
    writer, _ = tables.onnx_modules()
    table, rows = _table("ratios: over the best lowering without channel blocks, same runtime", "best", "batch 1"), []
    for name, width in EIGHT:
        for operator, rank in (("depthwise", None), ("tvconv", None), ("tvconv", Rank(1))):
            subject = Subject(name, width, operator, rank)
            ways = writer.lowerings(folded(subject, options["image_size"])[2])
            found = measure([(subject._replace(lowering=way), readers) for way in ways], **options)
            base = [row for row in found if not row.subject.lowering.endswith(writer.BLOCKS)]
            for row in found:
                _add(table, row, [other for other in base if other.runtime == row.runtime])
            table.add_section()
            rows += found
        print(f"{name} x{width}: done", flush=True)
    return table, rows


def _table(title: str, *ratios: str) -> Table:
    columns = ("model", "runtime", "from JAX", "images/s, best", "batch 1", *ratios)
    return make_table(columns, left=("model", "runtime"), title=title)


def _add(table: Table, row: Row, *references: Sequence[Row]) -> None:
    """Add a row with its ratios over the fastest of each group of references, at the best batch and at batch 1."""
    ratios = [
        f"{row.speed(batch) / max(other.speed(batch) for other in group):.2f}x"
        for group in references
        for batch in (None, 1)
    ]
    speeds = f"{row.speed():.0f}", f"{row.speed(1):.0f}"
    table.add_row(str(row.subject), row.runtime, f"{row.difference:.0e}", *speeds, *ratios)


TABLES = {"headline": headline, "models": models, "lowerings": lowerings}


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = Parser(prog="python -m tvconv_jax.bench.edge_table", description=__doc__)
    add = parser.add_argument
    add("table", choices=TABLES)
    add("--runtimes", type=names(RUNTIMES), default=["onnxruntime", "torch", "inductor", "native"], metavar="NAME,...")
    tables.add_speed_options(parser)
    add("--image-size", type=image_size, default=96, help="default: 96")
    add("--json", type=output_file, metavar="FILE", help="also write all figures there")
    args = parser.parse_args(argv)
    with ends_in_one_line("no table was made.", mistakes=tables.MISTAKES):
        artifacts.check_packages(_formats([*args.runtimes, *["reference"] * (args.table == "models")]))
        for runtime in args.runtimes:
            benchmark.import_runtime(runtime)
        options = {"batches": args.batch, "seconds": args.seconds, "image_size": args.image_size}
        table, rows = TABLES[args.table](args.runtimes, **options)
        print_table(table, width=150)
        if args.json:
            entries = [
                row._asdict() | row.subject._asdict() | {"rank": str(row.subject.rank or "exact")} for row in rows
            ]
            write_json(announce_overwrite(args.json), entries)


if __name__ == "__main__":
    main()
