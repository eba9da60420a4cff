"""Cost of low rank and quantization: size, speed and accuracy of exported models, over runs that differ by seed.

    python -m tvconv_jax.bench.export_table runs/a runs/b runs/c
    python -m tvconv_jax.bench.export_table runs/a --ranks=exact,2 --precisions=float32,int8 --fine-tune=200

The others are compared with the first rank and precision, run by run. Accuracy is of single embeddings, on the
verification sets of each run. Size is of the PyTorch artifact. Speed is onnxruntime's, which computes all in float32.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from tvconv_jax.bench.tables import MISTAKES, onnx_modules
from tvconv_jax.data.cache import cache_dir
from tvconv_jax.data.normalization import normalize
from tvconv_jax.export.fold import fold
from tvconv_jax.export.graph import Graph
from tvconv_jax.export.interpreter import arrays_of, in_full_float32, make_run
from tvconv_jax.export.low_rank import check_rank, parse_rank, truncate
from tvconv_jax.export.quantize import PRECISIONS, quantize
from tvconv_jax.export.rank_search import check_steps, fine_tune, measure
from tvconv_jax.export.torch.writer import to_safetensors
from tvconv_jax.report.sweep import spread
from tvconv_jax.tasks import command, trained
from tvconv_jax.tasks.saved_config import differences, read_config
from tvconv_jax.utils.cli import Parser, ends_in_one_line, names, output_file, path_argument
from tvconv_jax.utils.console import make_table, print_table
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import announce_overwrite, write_json


class Variant(NamedTuple):
    """One run's model in one rank and precision."""

    workdir: str
    rank: str  # "exact", or as tvconv_jax.export.low_rank.parse_rank takes it
    precision: str  # of the stored weights
    accuracy: float  # mean over the run's sets, 0 to 1
    size: int  # bytes of the PyTorch artifact
    energy: float  # share of the energy of its outputs that truncation keeps; of all layers the smallest


@in_full_float32
def of_run(
    workdir: Path, ranks: Sequence[str], precisions: Sequence[str], *, fine_tune_steps: int
) -> tuple[list[Variant], dict[str, Graph]]:
    """Return every rank and precision of the last checkpoint of a workdir, and the float32 graph of each rank.

    Raises:
        UserError: If the workdir holds no run with verification sets, or one without per-pixel kernels.
    """
    run = trained.load(workdir)
    if run.verify is None:
        raise UserError(f"{workdir} has no verification sets, so the cost in accuracy is unknown.")
    exact = fold(run.model, run.variables, run.images.shape[1])
    if all(node.kind != "per_pixel" for node in exact.nodes):
        raise UserError(f"{workdir} holds a model without per-pixel kernels; ranks are theirs.")
    variants, graphs = [], {}
    truncated = [parse_rank(rank) for rank in ranks if rank != "exact"]
    for rank in truncated:
        check_rank(exact, rank)
    moments, order = [], {}
    if truncated:
        moments, order = measure(exact, run.batches, shared=any(rank.shared for rank in truncated))
    for rank in ranks:
        graphs[rank], energy = _of_rank(run, exact, rank, moments, list(order), fine_tune_steps)
        function = jax.jit(make_run(graphs[rank]))  # one program for all precisions
        for precision in precisions:
            graph = quantize(graphs[rank], precision)
            arrays = arrays_of(graph)
            accuracy = run.verify(lambda images, f=function, a=arrays: f(a, normalize(jnp.asarray(images)))).mean
            size = len(to_safetensors(graph, {}, precision=precision))
            variants.append(Variant(str(workdir), rank, precision, accuracy, size, energy))
            print(f"{workdir}: rank {rank}, {precision}: {accuracy:.2%}, {size / 1e6:.2f} MB", flush=True)
    return variants, graphs


def _of_rank(
    run: trained.Trained, exact: Graph, rank: str, moments: Sequence[np.ndarray], order: Sequence[int], steps: int
) -> tuple[Graph, float]:
    if rank == "exact":
        return exact, 1.0
    graph, kept = truncate(exact, parse_rank(rank), moments, order)
    return fine_tune(graph, exact, run.batches, steps=steps), float(min(share.mean() for share in kept))


def speeds(graphs: dict[str, Graph]) -> dict[str, dict[int, float]]:
    """Return onnxruntime's images/s of each rank by batch, interleaved; each in its faster lowering."""
    writer, speed = onnx_modules()
    files = {
        (rank, lowering): writer.to_onnx(graph, "{}", lowering=lowering, output="embeddings")
        for rank, graph in graphs.items()
        for lowering in writer.lowerings(graph)
    }
    height, width, colors = next(iter(graphs.values())).shapes[0]
    best: dict[str, dict[int, float]] = {}
    for (rank, _), found in speed.rates(files, (colors, height, width)).items():
        if rank not in best or max(found.values()) > max(best[rank].values()):
            best[rank] = found
    return best


def show(variants: Sequence[Variant], speed: dict[str, dict[int, float]]) -> Table:
    """Return a table of means over all runs by rank and precision, and of each run's loss against its first variant.

    ``speed`` is in images/s, by rank and batch.
    """
    groups: dict[tuple[str, str], list[Variant]] = {}
    for variant in variants:
        groups.setdefault((variant.rank, variant.precision), []).append(variant)
    first = next(iter(groups.values()))
    batches = list(next(iter(speed.values())))
    columns = ("rank", "weights", "energy", "MB", "smaller", "accuracy %", "points lost")
    columns += tuple(f"images/s, batch {batch}" for batch in batches)
    table = make_table(columns, title=f"{len(first)} runs; mean ± standard deviation over them")
    for (rank, precision), found in groups.items():
        lost = [100 * (base.accuracy - v.accuracy) for base, v in zip(first, found, strict=True)]
        table.add_row(
            rank,
            precision,
            f"{statistics.mean(v.energy for v in found):.3f}",
            f"{found[0].size / 1e6:.2f}",
            f"{first[0].size / found[0].size:.1f}x",
            spread([100 * v.accuracy for v in found]),
            spread(lost),
            *(f"{speed[rank][batch]:.0f}" for batch in batches),
        )
    return table


def _check_runs(workdirs: Sequence[Path]) -> None:
    """Raise a ``UserError`` unless the workdirs are distinct runs of one model on one data set."""
    if len(set(workdirs)) < len(workdirs):
        raise UserError("a workdir is named twice; every run counts once.")
    first = read_config(workdirs[0])
    for workdir in workdirs[1:]:
        if other := differences(read_config(workdir).to_dict(), first, ignore=("seed", "train.", "eval.")):
            raise UserError(f"{workdir} is not a run of the model of {workdirs[0]} with another seed ({other}).")


def _ranks(text: str) -> list[str]:
    for part in text.split(","):
        try:
            part == "exact" or parse_rank(part)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{error}, or exact") from None
    return list(dict.fromkeys(text.split(",")))


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = Parser(prog="python -m tvconv_jax.bench.export_table", description=__doc__)
    add = parser.add_argument
    add("workdirs", nargs="+", type=path_argument, metavar="WORKDIR", help="runs of one model that differ by seed")
    add("--ranks", type=_ranks, default=["exact", "1", "2", "3"], help="default: exact,1,2,3")
    add("--precisions", type=names(PRECISIONS), default=list(PRECISIONS), help="default: float32,float16,int8")
    add("--fine-tune", type=int, default=0, metavar="STEPS", help="training batches after truncation; default 0")
    add("--json", type=output_file, metavar="FILE", help="also write all figures there")
    args = parser.parse_args(argv)
    command.keep_compiled_programs(cache_dir())
    workdirs = [workdir.absolute() for workdir in args.workdirs]
    with ends_in_one_line("no table was made.", mistakes=MISTAKES):
        onnx_modules()  # before anything is measured
        check_steps(args.fine_tune, args.ranks)
        _check_runs(workdirs)
        variants: list[Variant] = []
        for workdir in workdirs:
            found, graphs = of_run(workdir, args.ranks, args.precisions, fine_tune_steps=args.fine_tune)
            variants += found
        speed = speeds(graphs)  # of the last run; speed does not depend on values
        print_table(show(variants, speed), width=130)
        if args.json:
            results = {"variants": [v._asdict() for v in variants], "images_per_second": speed}
            write_json(announce_overwrite(args.json), results)


if __name__ == "__main__":
    main()
