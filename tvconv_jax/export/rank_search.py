"""Truncation of per-pixel kernels to a rank, given or chosen, with what it measures on training images; fine-tuning.

Layers differ by orders of magnitude. In MobileNetV2 layers inside a shortcut can share one kernel among all pixels;
layers that change the grid or the channels cannot.
"""

import functools
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tvconv_jax.data.normalization import normalize
from tvconv_jax.export.graph import Graph, Node
from tvconv_jax.export.interpreter import arrays_of, make_run, run_all, unit, with_arrays
from tvconv_jax.export.low_rank import Rank, check_rank, likely_order, parse_rank, shared_kernel, truncate
from tvconv_jax.export.quantize import Precision
from tvconv_jax.export.rank_choice import STEPS, Choice, check_comparison, choose
from tvconv_jax.metrics.paired import Comparison
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.progress import reporter, track

MOMENT_IMAGES, DISTANCE_IMAGES, CHUNK = 512, 128, 16

Batches = Callable[[], Generator[np.ndarray, None, None]]  # opens training images at the first, uint8 [n, h, w, 3]


def compile_graph(graph: Graph) -> Callable[[jax.Array], jax.Array]:
    """Return a function of ``uint8 [n, h, w, 3]`` to the graph's outputs."""
    run, arrays = jax.jit(make_run(graph)), arrays_of(graph)
    return lambda images: run(arrays, normalize(jnp.asarray(images)))


class Found(NamedTuple):
    """A graph and its rank, ``None`` for exact; the candidates of ``auto``, else ``None``."""

    graph: Graph
    rank: Rank | None
    choice: Choice | None = None


def check_ranks(exact: Graph, rank: str, comparison: Comparison | None, max_loss: float) -> None:
    """Raise a ``UserError`` if the model or the run does not allow a rank."""
    if rank == "exact":
        return
    if all(node.kind != "per_pixel" for node in exact.nodes):
        raise UserError(f"--rank={rank} is for per-pixel kernels; this model has none: leave it at exact.")
    if rank == "auto":
        check_comparison(exact, comparison, max_loss)
    else:
        check_rank(exact, parse_rank(rank))


def find_rank(
    exact: Graph,
    rank: str,
    batches: Batches,
    comparison: Comparison | None,
    *,
    max_loss: float,
    fine_tune_steps: int,
    precision: Precision,
    lines: list[str],
) -> Found:
    """Return the graph of a rank, fine-tuned, in float32; ``lines`` get a log.

    Raises:
        UserError: If the model or the run does not allow that rank.
    """
    check_ranks(exact, rank, comparison, max_loss)
    if rank == "exact":
        return Found(exact, None)
    given = None if rank == "auto" else parse_rank(rank)
    moments, distances = measure(exact, batches, shared=given is None or given.shared > 0)
    order = list(distances)
    if distances:
        lines.append("distance of the outputs if one per-pixel layer alone shares its kernel among all pixels:")
        lines.append("  " + "  ".join(f"{layer + 1}: {distance:.1e}" for layer, distance in distances.items()))

    @functools.cache
    def of_rank(rank: Rank) -> Graph:
        graph, _ = truncate(exact, rank, moments, order)
        return fine_tune(graph, exact, batches, steps=fine_tune_steps, text=f"Fine-tuning rank {rank}")

    def score(graph: Graph) -> np.ndarray:
        with reporter.doing(f"testing on {len(comparison.weights):,} {comparison.items}"):
            return comparison.scores(compile_graph(graph))

    if given is None:
        options = {"max_loss": max_loss, "steps": fine_tune_steps, "precision": precision}
        choice = choose(exact, of_rank, score, comparison, **options)
        found = choice.taken.rank
    else:
        taps = max(node.arrays["weights"].shape[2] for node in exact.nodes if node.kind == "per_pixel")
        choice, found = None, given._replace(terms=min(given.terms, taps))
    if found is None:
        return Found(exact, None, choice)
    lines.append(f"rank {found}; energy of the outputs kept, layer by layer (lowest channel):")
    _, kept = truncate(exact, found, moments, order)
    lines.append("  " + "  ".join(f"{share.mean():.3f} ({share.min():.2f})" for share in kept))
    return Found(of_rank(found), found, choice)


def measure(graph: Graph, batches: Batches, *, shared: bool) -> tuple[list[np.ndarray], dict[int, float]]:
    """Return the second moments and, with ``shared``, the distances of shared kernels, of the exact graph."""
    with closing(batches()) as images:
        moments = second_moments(graph, images)
    if not shared:
        return moments, {}
    with closing(batches()) as images:
        return moments, shared_distances(graph, moments, images)


def second_moments(graph: Graph, batches: Iterator[np.ndarray], *, count: int = MOMENT_IMAGES) -> list[np.ndarray]:
    """Return means over images of the products of two taps of a patch, at every pixel and channel.

    Args:
        graph: A graph with per-pixel layers.
        batches: Training images, ``uint8 [n, h, w, 3]``.
        count: Number of images.

    Returns:
        ``[ho, wo, k*k, k*k, c]`` for every per-pixel layer; 324 bytes for each of its outputs if ``k`` is 3.
    """
    layers = [node for node in graph.nodes if node.kind == "per_pixel"]

    @jax.jit
    def sums(arrays: list, images: jax.Array) -> list[jax.Array]:
        values = run_all(graph, arrays, normalize(images))
        return [_products(values[node.inputs[0]], node) for node in layers]

    arrays, totals, seen = arrays_of(graph), [np.float32(0)] * len(layers), 0
    for images in _chunks(batches, count):
        totals = [total + np.asarray(more) for total, more in zip(totals, sums(arrays, images), strict=True)]
        seen += len(images)
    return [total / seen for total in totals]


def shared_distances(
    graph: Graph, moments: Sequence[np.ndarray], batches: Iterator[np.ndarray], *, count: int = DISTANCE_IMAGES
) -> dict[int, float]:
    """Return how far outputs move if one layer alone shares its kernel among all pixels.

    Args:
        graph: The exact graph.
        moments: Of its per-pixel layers, from :func:`second_moments`.
        batches: Training images, ``uint8 [n, h, w, 3]``.
        count: Number of images.

    Returns:
        Mean squared distances between outputs of unit length, in ascending order, by number from 0 of the layers that
        can share their kernel.
    """
    run, arrays = jax.jit(make_run(graph)), arrays_of(graph)
    images = [normalize(jnp.asarray(chunk)) for chunk in _chunks(batches, count)]
    expected = [unit(run(arrays, chunk)) for chunk in images]
    positions = [i for i, node in enumerate(graph.nodes) if node.kind == "per_pixel"]

    def distance(layer: int) -> float:
        i = positions[layer]
        weights = arrays[i]["weights"]
        kernel = shared_kernel(graph.nodes[i], moments[layer]).astype(np.float32)
        changed = {**arrays[i], "weights": jnp.broadcast_to(kernel, weights.shape)}
        outputs = (unit(run([*arrays[:i], changed, *arrays[i + 1 :]], chunk)) for chunk in images)
        squares = [jnp.sum(jnp.square(a - b), axis=1) for a, b in zip(outputs, expected, strict=True)]
        return float(jnp.mean(jnp.concatenate(squares)))

    can = likely_order(graph)
    distances = {layer: distance(layer) for layer in track(can, total=len(can), text="Judging layers")}
    return dict(sorted(distances.items(), key=lambda item: item[1]))


def _chunks(batches: Iterator[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """Yield at least ``count`` images in chunks of one size, for one program."""
    seen = 0
    for batch in batches:
        step = min(CHUNK, len(batch))
        for i in range(0, len(batch) - step + 1, step):
            yield batch[i : i + step]
            seen += step
            if seen >= count:
                return


def _products(x: jax.Array, node: Node) -> jax.Array:
    """Return sums over images, ``[ho, wo, k*k, k*k, c]``."""
    height, width, taps, _ = node.arrays["weights"].shape
    size, strides = round(taps**0.5), node.fields["strides"]
    x = jnp.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    ends = (strides * (height - 1) + 1, strides * (width - 1) + 1)
    offsets = [divmod(tap, size) for tap in range(taps)]
    patches = jnp.stack([x[:, i : i + ends[0] : strides, j : j + ends[1] : strides] for i, j in offsets], axis=3)
    return jnp.einsum("nhwtc,nhwuc->hwtuc", patches, patches)


def steps_of(rank: str, steps: int | None) -> int:
    """Return the steps of ``--fine-tune``; by default ``auto`` takes 200 and others none."""
    return steps if steps is not None else STEPS if rank == "auto" else 0


def check_steps(steps: int, ranks: Sequence[str]) -> None:
    """Raise a ``UserError`` for steps of ``--fine-tune`` that do not fit the ranks."""
    if steps < 0:
        raise UserError(f"--fine-tune={steps} must be at least 0, the number of batches.")
    if steps and set(ranks) == {"exact"}:
        raise UserError(f"--fine-tune={steps} is for low-rank kernels, and exact keeps all; give --rank=1, 2, ...")


def fine_tune(
    graph: Graph, exact: Graph, batches: Batches, *, steps: int, learning_rate: float = 1e-3, text: str = "Fine-tuning"
) -> Graph:
    """Return the truncated graph with all arrays trained by distillation: it learns the exact graph's outputs.

    The loss is least squares of outputs of unit length, the optimizer Adam with a cosine learning rate; a step takes a
    batch.

    Source: Hinton et al. 2015, https://arxiv.org/abs/1503.02531, for the idea.
    """
    if not steps:
        return graph
    target, constants = make_run(exact), arrays_of(exact)
    run, optimizer = make_run(graph), optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def loss(arrays: list, images: jax.Array) -> jax.Array:
        found, expected = (unit(outputs) for outputs in (run(arrays, images), target(constants, images)))
        return jnp.mean(jnp.sum(jnp.square(found - expected), axis=-1))

    @jax.jit
    def step(arrays: list, state: optax.OptState, images: jax.Array) -> tuple[list, optax.OptState]:
        grads = jax.grad(loss)(arrays, normalize(images))
        updates, state = optimizer.update(grads, state, arrays)
        return optax.apply_updates(arrays, updates), state

    arrays = arrays_of(graph)
    state = optimizer.init(arrays)
    with closing(batches()) as images:
        for _ in track(range(steps), total=steps, text=text):
            arrays, state = step(arrays, state, next(images))
    return with_arrays(graph, arrays)
