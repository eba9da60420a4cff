"""The way from a workdir to artifacts: restore, fold, truncate, fine-tune, round, write, check."""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tvconv_jax.edge.benchmark import TOLERANCES
from tvconv_jax.export import trained
from tvconv_jax.export.artifacts import AUTO, Artifact, check_folder, check_formats, check_lowering, difference, write
from tvconv_jax.export.fine_tuning import check_steps, fine_tune
from tvconv_jax.export.fold import fold
from tvconv_jax.export.graph import Graph
from tvconv_jax.export.interpreter import arrays_of, in_full_float32, make_run
from tvconv_jax.export.low_rank import Rank, check_rank, parse_rank, truncate
from tvconv_jax.export.plain_layers import judged
from tvconv_jax.export.precision import Precision, rounded
from tvconv_jax.export.trained import Accuracy, Embed, Trained
from tvconv_jax.tasks.parts import normalize
from tvconv_jax.utils.environment import versions
from tvconv_jax.utils.errors import UserError

MAX_LOSS = 0.2  # points that --rank=auto may lose, unless it is told otherwise
NORMALIZATION = "(x / 255 - 0.5) / 0.5"


class Exported(NamedTuple):
    """What was written.

    Attributes:
        artifacts: The files that were checked.
        report: Lines about them, for a person.
    """

    artifacts: list[Artifact]
    report: str


@in_full_float32
def export(
    workdir: Path,
    out: Path,
    *,
    formats: Sequence[str],
    rank: str = "exact",
    max_loss: float | None = None,
    fine_tune_steps: int = 0,
    precision: Precision = "float32",
    lowering: str = AUTO,
    best: bool = False,
) -> Exported:
    """Exports the model of a workdir.

    Args:
        workdir: A run of ``tvconv_jax.main``.
        out: The folder to write.
        formats: ``"onnx"``, ``"torch"``, ``"native"``.
        rank: ``"exact"``; a number of terms; ``"2:10"``, two terms, and ten layers of one kernel for all pixels; or
            ``"auto"``: the fewest terms, and then the most such layers, with which verification, in ``precision``,
            loses at most ``max_loss``.
        max_loss: Percentage points of mean accuracy; ``None``: 0.2.
        fine_tune_steps: Batches on which a truncated model learns the exact one's answers.
        precision: In which weights are stored.
        lowering: How ONNX is written; ``"auto"``: as is fastest on this machine.
        best: Whether the best checkpoint is taken in place of the last.

    Returns:
        What was written, and how far it is from the model that was trained.

    Raises:
        UserError: If the workdir, an option or an artifact does not fit; nothing is written then.
    """
    check_steps(fine_tune_steps, [rank])
    if max_loss is not None and rank != "auto":
        raise UserError(f"--max-loss={max_loss:g} is what --rank=auto may lose, this is --rank={rank}; leave one out.")
    check_folder(out)
    run = trained.load(workdir, best=best)
    side = run.images.shape[1]
    exact = fold(run.model, run.variables, side)
    check_formats(exact, formats)
    if lowering != AUTO:
        like = Rank(1) if rank == "auto" else rank != "exact" and parse_rank(rank)
        check_lowering(truncate(exact, like)[0] if like else exact, formats, lowering)
    images = normalize(jnp.asarray(run.images))
    truth = np.asarray(jax.jit(lambda v, x: run.model.apply(v, x, train=False))(run.variables, images))
    _check_fold(run, truth, np.asarray(_function(exact)(run.images)))
    lines = []
    limit = MAX_LOSS if max_loss is None else max_loss
    graph, kept = _truncated(run, exact, rank, limit, fine_tune_steps, precision, lines)
    graph = rounded(graph, precision)
    function = _function(graph)
    accuracy = run.verify(function) if run.verify else None
    expected = np.asarray(function(run.images))
    metadata = _metadata(run, str(kept or rank), precision, accuracy)
    found = write(
        out,
        graph,
        metadata,
        formats=formats,
        precision=precision,
        images=_channels_first(np.asarray(images)),
        expected=_channels_first(expected),
        lowering=lowering,
    )
    lines += [*_report(run, found, accuracy, truth, expected), f"Everything is in {out}"]
    return Exported(found, "\n".join(lines))


def _channels_first(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if array.ndim == 4 else array


def _function(graph: Graph) -> Embed:
    """``uint8 [n, s, s, 3]`` to the graph's answers."""
    run, arrays = jax.jit(make_run(graph)), arrays_of(graph)
    return lambda images: run(arrays, normalize(jnp.asarray(images)))


def _check_fold(run: Trained, truth: np.ndarray, found: np.ndarray) -> None:
    worst = difference(run.output, found, truth)
    if not worst <= TOLERANCES[run.output]:
        raise UserError(f"the folded model differs from the trained one by {worst:.1e}; please report this bug.")


def _truncated(
    run: Trained, exact: Graph, rank: str, max_loss: float, steps: int, precision: Precision, lines: list[str]
) -> tuple[Graph, Rank | None]:
    """The graph of that rank, and the rank, ``None`` for exact; what was found on the way is added to ``lines``."""
    per_pixel = [node.arrays["weights"].shape[2] for node in exact.nodes if node.kind == "per_pixel"]
    if rank == "exact":
        return exact, None
    if not per_pixel:
        raise UserError(f"--rank={rank} is for per-pixel kernels; this model has none: leave it at exact.")
    if rank == "auto" and run.verify is None:
        raise UserError("--rank=auto judges by verification sets; this run has none: give --rank=1, 2, ...")
    if rank != "auto":
        check_rank(exact, parse_rank(rank))
    with_plain = rank == "auto" or parse_rank(rank).plain_layers > 0
    moments, distances = judged(exact, run.batches, plain=with_plain)
    order = list(distances)
    if distances:
        lines.append("per-pixel layers, and how far the answers move with one kernel for all pixels in that one alone:")
        lines.append("  " + "  ".join(f"{layer + 1}: {distance:.1e}" for layer, distance in distances.items()))

    def of_rank(rank: Rank) -> Graph:
        graph, _ = truncate(exact, rank, moments, order)
        if not steps:
            return graph
        target, arrays = make_run(exact), arrays_of(exact)
        with closing(run.batches()) as batches:
            return fine_tune(graph, lambda x: target(arrays, x), batches, steps=steps)

    if rank == "auto":
        most = Rank(max(per_pixel), len(order))
        found, graph = _choose(run, of_rank, exact, max_loss, most, precision, lines)
    else:
        found = parse_rank(rank)
        found = found._replace(terms=min(found.terms, max(per_pixel)))
        graph = of_rank(found)
    lines.append(f"rank {found}; energy of the answers kept, layer by layer (least channel):")
    _, kept = truncate(exact, found, moments, order)
    lines.append("  " + "  ".join(f"{share.mean():.3f} ({share.min():.2f})" for share in kept))
    return graph, found


def _choose(
    run: Trained,
    of_rank: Callable[[Rank], Graph],
    exact: Graph,
    max_loss: float,
    most: Rank,
    precision: Precision,
    lines: list[str],
) -> tuple[Rank, Graph]:
    """Terms one by one; of plain layers, whose number may be large, the most by halving."""
    aim = run.verify(_function(exact)).mean
    lines.append(
        f"exact, float32: mean accuracy {aim:.2%}; the fewest terms, and the most plain layers, that in {precision} "
        f"lose at most {max_loss} points:"
    )

    def within(rank: Rank) -> Graph | None:
        graph = of_rank(rank)
        mean = run.verify(_function(rounded(graph, precision))).mean
        lines.append(f"  rank {rank}: {mean:.2%}")
        return graph if mean >= aim - max_loss / 100 else None

    tried = ((Rank(terms), within(Rank(terms))) for terms in range(1, most.terms + 1))
    best = next(((rank, graph) for rank, graph in tried if graph), None)
    if best is None:
        raise UserError(
            f"--rank=auto: in {precision} even {most.terms} terms lose more than {max_loss} points, of {aim:.2%}; "
            f"allow a larger --max-loss, or choose another --precision or a --rank."
        )
    low, high = 0, most.plain_layers + 1  # so many are within, so many are not
    while high - low > 1:
        rank = best[0]._replace(plain_layers=(low + high) // 2)
        if graph := within(rank):
            best, low = (rank, graph), rank.plain_layers
        else:
            high = rank.plain_layers
    return best


def _metadata(run: Trained, rank: str, precision: Precision, accuracy: Accuracy | None) -> dict[str, Any]:
    side, config = run.images.shape[1], run.config
    shape = [None, config.model.embedding_size] if run.output == "embeddings" else [None, 2, side, side]
    thresholds = {"cosine": accuracy.cosine, "squared_l2": 2 - 2 * accuracy.cosine} if accuracy else None
    return {
        "name": config.model.name,
        "width": config.model.get("width", 1.0),
        "operator": config.model.operator,
        "rank": rank,
        "precision": precision,
        "input": {
            "name": "images",
            "shape": [None, 3, side, side],
            "layout": "NCHW",
            "colour": "RGB",
            "normalisation": NORMALIZATION,
        },
        "output": {"name": run.output, "shape": shape},
        "accuracy": {"mean": accuracy.mean, **accuracy.sets} if accuracy else None,
        "thresholds": thresholds,
        **run.results,
        "step": run.step,
        "config": run.config.to_dict(),
        "versions": versions("onnx", "onnxruntime", "torch"),
    }


def _report(
    run: Trained, found: Sequence[Artifact], accuracy: Accuracy | None, truth: np.ndarray, expected: np.ndarray
) -> list[str]:
    what = {"embeddings": "normalized embeddings", "logits": "logits, relative"}[run.output]
    lines = [f"{'file':<18}{'MB':>8}  largest difference from JAX on {len(run.images)} pictures ({what})"]
    lines += [f"{one.file:<18}{one.size / 1e6:>8.2f}  {one.difference:.1e}  {one.note}" for one in found]
    lines.append(f"from the exact float32 model: {difference(run.output, expected, truth):.1e}")
    if accuracy:
        sets = "  ".join(f"{name} {value:.2%}" for name, value in accuracy.sets.items())
        lines.append(f"accuracy of single embeddings: mean {accuracy.mean:.2%}  ({sets})")
        lines.append(
            f"the same person: cosine above {accuracy.cosine:.3f}, squared distance below {2 - 2 * accuracy.cosine:.3f}"
        )
    return lines
