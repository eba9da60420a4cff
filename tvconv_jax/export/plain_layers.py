"""In which per-pixel layers one kernel for all pixels does: those where it moves the answers least.

Layers differ by orders of magnitude. In MobileNetV2 those that a shortcut goes around can do without kernels of their
own at every pixel, and those where the grid or the channels change cannot.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np

from tvconv_jax.data.tools.progress import track
from tvconv_jax.export.fine_tuning import unit
from tvconv_jax.export.graph import Graph
from tvconv_jax.export.interpreter import arrays_of, make_run
from tvconv_jax.export.low_rank import likely_order, plain_kernel
from tvconv_jax.export.moments import parts, second_moments
from tvconv_jax.tasks.parts import normalize

PICTURES = 128


def judged(
    graph: Graph, batches: Callable[[], Generator[np.ndarray, None, None]], *, plain: bool
) -> tuple[list[np.ndarray], dict[int, float]]:
    """Finds the second moments, and with ``plain`` the plain distances, both from the same training pictures.

    Args:
        graph: The exact graph.
        batches: Opens the training pictures, ``uint8 [n, s, s, 3]``, at the first; they are closed when seen.
        plain: Whether the distances are asked for; else there are none.
    """
    with closing(batches()) as pictures:
        moments = second_moments(graph, pictures)
    if not plain:
        return moments, {}
    with closing(batches()) as pictures:
        return moments, plain_distances(graph, moments, pictures)


def plain_distances(
    graph: Graph, moments: Sequence[np.ndarray], batches: Iterator[np.ndarray], *, pictures: int = PICTURES
) -> dict[int, float]:
    """How far answers move when a per-pixel layer, and no other, has one kernel for all pixels.

    Args:
        graph: The exact graph.
        moments: Of its per-pixel layers, as :func:`tvconv_jax.export.moments.second_moments` finds them.
        batches: ``uint8 [n, s, s, 3]``, training pictures.
        pictures: How many to look at.

    Returns:
        Mean square distances between answers of unit length, by number from 0 of the layers that can be plain, from
        the least on: the order in which they may become so.
    """
    run, arrays = jax.jit(make_run(graph)), arrays_of(graph)
    images = [normalize(jnp.asarray(part)) for part in parts(batches, pictures)]
    expected = [unit(run(arrays, part)) for part in images]
    places = [place for place, node in enumerate(graph.nodes) if node.kind == "per_pixel"]

    def moved(layer: int) -> float:
        place = places[layer]
        weights = arrays[place]["weights"]
        kernel = plain_kernel(graph.nodes[place], moments[layer]).astype(np.float32)
        other = {**arrays[place], "weights": jnp.broadcast_to(kernel, weights.shape)}
        answers = (unit(run([*arrays[:place], other, *arrays[place + 1 :]], part)) for part in images)
        squares = [jnp.sum(jnp.square(a - b), axis=1) for a, b in zip(answers, expected, strict=True)]
        return float(jnp.mean(jnp.concatenate(squares)))

    can = likely_order(graph)
    distances = {layer: moved(layer) for layer in track(can, total=len(can), text="Judging layers")}
    return dict(sorted(distances.items(), key=lambda item: item[1]))
