"""What the taps of per-pixel kernels see in pictures: the second moments by which truncation judges what matters."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from tvconv_jax.export.graph import Graph, Node
from tvconv_jax.export.interpreter import arrays_of, run_all
from tvconv_jax.tasks.parts import normalize

PICTURES, AT_ONCE = 512, 16


def second_moments(graph: Graph, batches: Iterator[np.ndarray], *, pictures: int = PICTURES) -> list[np.ndarray]:
    """Means over pictures of the products of what two taps see, at every pixel, channel by channel.

    Args:
        graph: With per-pixel layers.
        batches: ``uint8 [n, s, s, 3]``, training pictures.
        pictures: How many to look at.

    Returns:
        ``[ho, wo, k*k, k*k, c]`` for every per-pixel layer; 324 bytes for each of its answers where ``k`` is 3.
    """
    layers = [node for node in graph.nodes if node.kind == "per_pixel"]

    @jax.jit
    def sums(arrays: list, images: jax.Array) -> list[jax.Array]:
        values = run_all(graph, arrays, normalize(images))
        return [_products(values[node.inputs[0]], node) for node in layers]

    arrays, totals, seen = arrays_of(graph), [np.float32(0)] * len(layers), 0
    for part in parts(batches, pictures):
        totals = [total + np.asarray(more) for total, more in zip(totals, sums(arrays, part), strict=True)]
        seen += len(part)
    return [total / seen for total in totals]


def parts(batches: Iterator[np.ndarray], pictures: int) -> Iterator[np.ndarray]:
    """So many pictures or a few more, in parts of one size, for one program."""
    seen = 0
    for batch in batches:
        step = min(AT_ONCE, len(batch))
        for i in range(0, len(batch) - step + 1, step):
            yield batch[i : i + step]
            seen += step
            if seen >= pictures:
                return


def _products(x: jax.Array, node: Node) -> jax.Array:
    """Sums over pictures, ``[ho, wo, k*k, k*k, c]``."""
    height, width, taps, _ = node.arrays["weights"].shape
    side, strides = round(taps**0.5), node.fields["strides"]
    x = jnp.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)))
    ends = (strides * (height - 1) + 1, strides * (width - 1) + 1)
    places = [divmod(tap, side) for tap in range(taps)]
    patches = jnp.stack([x[:, i : i + ends[0] : strides, j : j + ends[1] : strides] for i, j in places], axis=3)
    return jnp.einsum("nhwtc,nhwuc->hwtuc", patches, patches)
