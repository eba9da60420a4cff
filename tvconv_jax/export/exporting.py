"""Export of a workdir: restore, fold, truncate, fine-tune, quantize, write, check."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from tvconv_jax.data.normalization import FORMULA, normalize
from tvconv_jax.edge.benchmark import TOLERANCES
from tvconv_jax.export import artifacts
from tvconv_jax.export.artifacts import AUTO, Artifact, check_folder, check_formats, check_lowering, difference
from tvconv_jax.export.fold import fold
from tvconv_jax.export.graph import Graph
from tvconv_jax.export.interpreter import in_full_float32
from tvconv_jax.export.low_rank import Rank, parse_rank, truncate
from tvconv_jax.export.quantize import Precision, quantize
from tvconv_jax.export.rank_choice import MAX_LOSS, describe, record
from tvconv_jax.export.rank_search import Found, check_ranks, check_steps, compile_graph, find_rank, steps_of
from tvconv_jax.tasks import trained
from tvconv_jax.tasks.trained import Accuracy, Embed, Trained
from tvconv_jax.utils.environment import versions
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.progress import reporter


class Exported(NamedTuple):
    """Result of an export.

    Attributes:
        artifacts: The files that were written and checked.
        report: Lines about them, to print.
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
    fine_tune_steps: int | None = None,
    precision: Precision = "float32",
    lowering: str = AUTO,
    best: bool = False,
) -> Exported:
    """Export the model of a workdir.

    Args:
        workdir: A run of ``tvconv_jax.main``.
        out: The folder to write.
        formats: ``"onnx"``, ``"torch"``, ``"native"``.
        rank: ``"exact"``; a rank; ``"2:10"``, rank 2, and ten layers with one kernel shared by all pixels; or
            ``"auto"``: the first of :func:`tvconv_jax.export.rank_choice.candidates` that on the run's own tests, in
            ``precision``, loses at most ``max_loss``, or its standard error.
        max_loss: Percentage points of mean accuracy or Dice; ``None``: 0.2.
        fine_tune_steps: Batches on which a truncated model learns the exact model's outputs; ``None``: 200 with
            ``rank="auto"``, else none.
        precision: Of the stored weights.
        lowering: Of ONNX; ``"auto"``: the fastest on this machine.
        best: Whether to export the best checkpoint; else the last.

    Raises:
        UserError: If the workdir, an option or an artifact does not fit; nothing is written then.
    """
    fine_tune_steps = steps_of(rank, fine_tune_steps)
    check_steps(fine_tune_steps, [rank])
    if max_loss is not None and rank != "auto":
        raise UserError(f"--max-loss={max_loss:g} is what --rank=auto may lose, this is --rank={rank}; leave one out.")
    max_loss = MAX_LOSS if max_loss is None else max_loss
    check_folder(out)
    artifacts.check_packages(formats)
    with reporter.doing("restoring the run and its test images"):
        run = trained.load(workdir, best=best)
    exact = fold(run.model, run.variables, run.images.shape[1:3])
    check_formats(exact, formats)
    check_ranks(exact, rank, run.comparison, max_loss)
    if lowering != AUTO:
        like = Rank(1) if rank == "auto" else rank != "exact" and parse_rank(rank)
        check_lowering(truncate(exact, like)[0] if like else exact, formats, lowering)
    images, lines = normalize(jnp.asarray(run.images)), []
    truth = _checked_outputs(run, exact, images)
    options = {"max_loss": max_loss, "fine_tune_steps": fine_tune_steps, "precision": precision, "lines": lines}
    options["unit_length"] = run.output == "embeddings" or exact.nodes[-1].kind != "linear"
    kept = find_rank(exact, rank, run.batches, run.comparison, **options)
    graph, lowering = quantize(kept.graph, precision), _lowering_of(kept, lowering, lines)
    chosen = _chosen(kept, formats, precision, lowering, lines)
    function = compile_graph(graph)
    accuracy = _accuracy(run, function)
    expected = np.asarray(function(run.images))
    found = artifacts.write(
        out,
        graph,
        _metadata(run, graph, str(kept.rank or "exact"), precision, accuracy) | chosen,
        formats=formats,
        precision=precision,
        images=_channels_first(np.asarray(images)),
        expected=_channels_first(expected),
        lowering=lowering,
    )
    lines += [*_report(run, found, accuracy, truth, expected), f"Everything is in {out}"]
    if (out / artifacts.VERIFY).is_file():
        command = shlex.join(["python", "-m", "tvconv_jax.verify", str(out)])
        lines.append(f"Compare two photographs: {command} ONE OTHER")
    if (out / artifacts.PREDICT).is_file():
        command = shlex.join(["python", "-m", "tvconv_jax.predict", str(out)])
        lines.append(f"Use it on images of your own: {command} IMAGE ...")
    if not (workdir / "results.json").exists():
        lines.append(f"note: the run has not ended; this is its model after step {run.step}")
    return Exported(found, "\n".join(lines))


def _lowering_of(kept: Found, lowering: str, lines: list[str]) -> str:
    """Return the lowering, or ``"auto"`` if ``--rank=auto`` kept exact kernels, which have not the one asked for."""
    if lowering == AUTO or kept.choice is None or lowering in artifacts.load_format("onnx").lowerings(kept.graph):
        return lowering
    lines.append(f"rank {kept.rank or 'exact'} has no lowering {lowering}: the file has the one that is fastest here")
    return AUTO


def _chosen(
    kept: Found, formats: Sequence[str], precision: Precision, lowering: str, lines: list[str]
) -> dict[str, Any]:
    """Return what ``--rank=auto`` found, for the metadata; ``lines`` get it as a table."""
    if kept.choice is None:
        return {}
    speeds = {}
    if "onnx" in formats:
        with reporter.doing("measuring the speed of the candidates"):
            graphs = {one.name: one.graph for one in kept.choice.rows}
            speeds = artifacts.load_format("onnx").relative_speeds(graphs, precision, lowering)
    lines += describe(kept.choice, speeds)
    return {"rank_search": record(kept.choice, speeds)}


@reporter.doing("comparing the folded model with the trained one")
def _checked_outputs(run: Trained, exact: Graph, images: jax.Array) -> np.ndarray:
    """Return the trained model's outputs, if the folded graph's are equal."""
    truth = np.asarray(jax.jit(lambda v, x: run.model.apply(v, x, train=False))(run.variables, images))
    worst = difference(run.output, np.asarray(compile_graph(exact)(run.images)), truth)
    if not worst <= TOLERANCES[run.output]:
        raise UserError(f"the folded model differs from the trained one by {worst:.1e}; please report this bug.")
    return truth


@reporter.doing("measuring the accuracy on the test images")
def _accuracy(run: Trained, function: Embed) -> Accuracy | None:
    return run.verify(function) if run.verify else None


def _channels_first(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if array.ndim == 4 else array


def _metadata(run: Trained, graph: Graph, rank: str, precision: Precision, accuracy: Accuracy | None) -> dict[str, Any]:
    config, (height, width, colors), (*grid, outputs) = run.config, graph.shapes[0], graph.shapes[-1]
    shape = [None, outputs] if graph.nodes[-1].kind == "linear" else [None, outputs, *grid]
    verified = accuracy if run.output == "embeddings" else None
    thresholds = {"cosine": verified.cosine, "squared_l2": 2 - 2 * verified.cosine} if verified else None
    return {
        "name": config.model.name,
        "width": config.model.get("width", 1.0),
        "operator": config.model.operator,
        "rank": rank,
        "precision": precision,
        "input": {
            "name": "images",
            "shape": [None, colors, height, width],
            "layout": "NCHW",
            "colour": "RGB",
            "normalisation": FORMULA,
        },
        "output": {"name": run.output, "shape": shape},
        "accuracy": {"mean": accuracy.mean, **accuracy.sets} if accuracy else None,
        "thresholds": thresholds,
        **({"verified": accuracy is not None} if run.output == "embeddings" else {}),
        **run.results,
        **run.metadata,
        "step": run.step,
        "config": run.config.to_dict(),
        "versions": versions("onnx", "onnxruntime", "torch"),
    }


def _report(
    run: Trained, found: Sequence[Artifact], accuracy: Accuracy | None, truth: np.ndarray, expected: np.ndarray
) -> list[str]:
    kind = {"embeddings": "normalized embeddings", "logits": "logits, relative"}[run.output]
    lines = [f"{'file':<18}{'MB':>8}  largest difference from JAX on {len(run.images)} images ({kind})"]
    lines += [f"{item.file:<18}{item.size / 1e6:>8.2f}  {item.difference:.1e}  {item.note}" for item in found]
    lines.append(f"from the exact float32 model: {difference(run.output, expected, truth):.1e}")
    if accuracy:
        sets = "  ".join(f"{name} {value:.2%}" for name, value in accuracy.sets.items())
        of = " of single embeddings" if run.output == "embeddings" else ""
        lines.append(f"accuracy{of}: mean {accuracy.mean:.2%}  ({sets})")
    if accuracy and run.output == "embeddings":
        lines.append(
            f"same identity: cosine above {accuracy.cosine:.3f}, squared distance below {2 - 2 * accuracy.cosine:.3f}"
        )
    elif run.output == "embeddings":
        lines.append(_no_threshold(run.config.data))
    return lines


def _no_threshold(data: ConfigDict) -> str:
    root = data.get("verify_root") or data.root
    command = shlex.join(["pairs", root]) if data.source == "folder" else "pairs --help"
    hint = f"write a list of pairs into {root} (python -m tvconv_jax.data {command}) and export again"
    if root.startswith("tfds:"):
        hint = "train with data.verify_root, a folder that holds a list (python -m tvconv_jax.data pairs --help)"
    return (
        "no threshold: the run has no verification pairs, so the files give embeddings, but cannot tell whether two "
        f"images show the same identity; {hint}"
    )
