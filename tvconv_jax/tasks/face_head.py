"""The head of the face job: class weights and AM-Softmax, on one device or cut over several."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from tvconv_jax.losses import am_softmax_logits, sharded_am_softmax
from tvconv_jax.training.mesh import over_model
from tvconv_jax.training.state import pad_columns

# (embeddings [n, d], class_weights [d, columns], labels [n]) -> (losses [n], recognized bool [n])
Head = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def init_class_weights(key: jax.Array, embedding_size: int, classes: int, mesh: Mesh) -> jax.Array:
    """Columns uniform in [-1, 1], brought to unit length: ``[embedding_size, classes]`` and zeros behind.

    They are the same for every mesh, but for the rounding of their lengths, and cut along ``model`` from the beginning:
    no device draws those of another.
    """

    def draw(key: jax.Array) -> jax.Array:
        return pad_columns(jax.random.uniform(key, (embedding_size, classes), minval=-1.0, maxval=1.0), mesh)

    weights = jax.jit(draw, out_shardings=over_model(mesh))(key)
    lengths = jnp.linalg.norm(weights, axis=0, keepdims=True)
    return weights / jnp.where(lengths > 0, lengths, 1)


def make_head(mesh: Mesh, *, classes: int, margin: float, scale: float) -> Head:
    """AM-Softmax, one value per picture, and whether the largest logit is the target's.

    Args:
        mesh: Where the class weights lie; over one device along ``model`` they are whole.
        classes: True number of classes.
        margin: Taken off the target's cosine.
        scale: The inverse temperature.
    """
    if mesh.shape["model"] == 1:
        return functools.partial(_whole, margin=margin, scale=scale)
    return functools.partial(sharded_am_softmax, mesh=mesh, classes=classes, margin=margin, scale=scale)


def _whole(
    embeddings: jax.Array, class_weights: jax.Array, labels: jax.Array, *, margin: float, scale: float
) -> tuple[jax.Array, jax.Array]:
    logits = am_softmax_logits(embeddings, class_weights, labels, margin=margin, scale=scale)
    target = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - target, jnp.argmax(logits, axis=1) == labels
