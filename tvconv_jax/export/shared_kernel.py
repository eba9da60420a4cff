"""Statistics of trained layers for their approximation: second moments of patches, and the cost of shared kernels.

Layers differ by orders of magnitude. In MobileNetV2 layers inside a shortcut can share one kernel among all pixels;
layers that change the grid or the channels cannot.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np

from tvconv_jax.data.normalization import normalize
from tvconv_jax.export.graph import Graph, Node
from tvconv_jax.export.interpreter import arrays_of, make_run, run_all, unit
from tvconv_jax.export.low_rank import likely_order, shared_kernel
from tvconv_jax.utils.progress import track

MOMENT_IMAGES, DISTANCE_IMAGES, CHUNK = 512, 128, 16


def measure(
    graph: Graph, batches: Callable[[], Generator[np.ndarray, None, None]], *, shared: bool
) -> tuple[list[np.ndarray], dict[int, float]]:
    """Return the second moments and, with ``shared``, the distances of shared kernels, on the same training images.

    Args:
        graph: The exact graph.
        batches: Opens training images, ``uint8 [n, s, s, 3]``, at the first; they are closed after use.
        shared: Whether to measure the distances; else there are none.
    """
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
        batches: Training images, ``uint8 [n, s, s, 3]``.
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
        batches: Training images, ``uint8 [n, s, s, 3]``.
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
