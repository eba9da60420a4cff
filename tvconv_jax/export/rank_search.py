"""Search for the lowest rank of per-pixel kernels that keeps a run's accuracy."""

from collections.abc import Callable, Generator
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np

from tvconv_jax.data.normalization import normalize
from tvconv_jax.export.fine_tuning import fine_tune
from tvconv_jax.export.graph import Graph
from tvconv_jax.export.interpreter import arrays_of, make_run
from tvconv_jax.export.low_rank import Rank, check_rank, parse_rank, truncate
from tvconv_jax.export.quantize import Precision, quantize
from tvconv_jax.export.shared_kernel import measure
from tvconv_jax.utils.errors import UserError

MAX_LOSS = 0.2  # default of --max-loss, percentage points

Verify = Callable[[Callable], float]  # a function of uint8 [n, s, s, 3] -> its mean accuracy


def compile_graph(graph: Graph) -> Callable[[jax.Array], jax.Array]:
    """Return a function of ``uint8 [n, s, s, 3]`` to the graph's outputs."""
    run, arrays = jax.jit(make_run(graph)), arrays_of(graph)
    return lambda images: run(arrays, normalize(jnp.asarray(images)))


def find_rank(
    exact: Graph,
    rank: str,
    batches: Callable[[], Generator[np.ndarray, None, None]],
    verify: Verify | None,
    *,
    max_loss: float,
    fine_tune_steps: int,
    precision: Precision,
    lines: list[str],
) -> tuple[Graph, Rank | None]:
    """Return the graph of a rank, fine-tuned, and the rank found, ``None`` for exact; ``lines`` get a log.

    Raises:
        UserError: If the model or the run does not allow that rank.
    """
    per_pixel = [node.arrays["weights"].shape[2] for node in exact.nodes if node.kind == "per_pixel"]
    if rank == "exact":
        return exact, None
    if not per_pixel:
        raise UserError(f"--rank={rank} is for per-pixel kernels; this model has none: leave it at exact.")
    if rank == "auto" and verify is None:
        raise UserError("--rank=auto judges by verification sets; this run has none: give --rank=1, 2, ...")
    given = None if rank == "auto" else parse_rank(rank)
    if given:
        check_rank(exact, given)
    moments, distances = measure(exact, batches, shared=given is None or given.shared > 0)
    order = list(distances)
    if distances:
        lines.append("distance of the outputs if one per-pixel layer alone shares its kernel among all pixels:")
        lines.append("  " + "  ".join(f"{layer + 1}: {distance:.1e}" for layer, distance in distances.items()))

    def of_rank(rank: Rank) -> Graph:
        graph, _ = truncate(exact, rank, moments, order)
        if not fine_tune_steps:
            return graph
        target, arrays = make_run(exact), arrays_of(exact)
        with closing(batches()) as images:
            return fine_tune(graph, lambda x: target(arrays, x), images, steps=fine_tune_steps)

    if given is None:
        found, graph = _choose(of_rank, exact, verify, max_loss, Rank(max(per_pixel), len(order)), precision, lines)
    else:
        found = given._replace(terms=min(given.terms, max(per_pixel)))
        graph = of_rank(found)
    lines.append(f"rank {found}; energy of the outputs kept, layer by layer (lowest channel):")
    _, kept = truncate(exact, found, moments, order)
    lines.append("  " + "  ".join(f"{share.mean():.3f} ({share.min():.2f})" for share in kept))
    return graph, found


def _choose(
    of_rank: Callable[[Rank], Graph],
    exact: Graph,
    verify: Verify,
    max_loss: float,
    limit: Rank,
    precision: Precision,
    lines: list[str],
) -> tuple[Rank, Graph]:
    """Try ranks one by one, then bisect the number of shared-kernel layers."""
    target = verify(compile_graph(exact))
    lines.append(
        f"exact, float32: mean accuracy {target:.2%}; the lowest rank, and the most shared-kernel layers, that in "
        f"{precision} lose at most {max_loss} points:"
    )

    def within(rank: Rank) -> Graph | None:
        graph = of_rank(rank)
        mean = verify(compile_graph(quantize(graph, precision)))
        lines.append(f"  rank {rank}: {mean:.2%}")
        return graph if mean >= target - max_loss / 100 else None

    tried = ((Rank(terms), within(Rank(terms))) for terms in range(1, limit.terms + 1))
    best = next(((rank, graph) for rank, graph in tried if graph), None)
    if best is None:
        raise UserError(
            f"--rank=auto: in {precision} even rank {limit.terms} loses more than {max_loss} points, of {target:.2%}; "
            f"allow a larger --max-loss, or choose another --precision or a --rank."
        )
    low, high = 0, limit.shared + 1  # within the loss; beyond it
    while high - low > 1:
        rank = best[0]._replace(shared=(low + high) // 2)
        if graph := within(rank):
            best, low = (rank, graph), rank.shared
        else:
            high = rank.shared
    return best
