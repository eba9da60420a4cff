"""The face model in training and verification: class weights, AM-Softmax, embeddings."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from tvconv_jax.data.normalization import normalize
from tvconv_jax.losses import am_softmax_logits, sharded_am_softmax
from tvconv_jax.tasks.forward import Forward
from tvconv_jax.training.mesh import over_model
from tvconv_jax.training.state import pad_columns
from tvconv_jax.training.step import LossFunction

# (embeddings [n, d], class_weights [d, columns], labels [n]) -> (losses [n], correct bool [n])
Head = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
Embed = Callable[[Any, jax.Array], jax.Array]  # (variables, images uint8 RGB [n, s, s, 3]) -> [n, d]


def init_class_weights(key: jax.Array, embedding_size: int, classes: int, mesh: Mesh) -> jax.Array:
    """Draw columns uniform in [-1, 1], normalized to unit length: ``[embedding_size, classes]`` and zeros behind.

    They are the same for every mesh, except for the rounding of their lengths, and sharded along ``model`` from the
    beginning: no device draws those of another.
    """

    def draw(key: jax.Array) -> jax.Array:
        return pad_columns(jax.random.uniform(key, (embedding_size, classes), minval=-1.0, maxval=1.0), mesh)

    weights = jax.jit(draw, out_shardings=over_model(mesh))(key)
    lengths = jnp.linalg.norm(weights, axis=0, keepdims=True)
    return weights / jnp.where(lengths > 0, lengths, 1)


def make_head(mesh: Mesh, *, classes: int, margin: float, scale: float) -> Head:
    """Return AM-Softmax over a true number of classes, see :data:`Head`, with class weights sharded along ``model``.

    ``margin`` is subtracted from the target's cosine; ``scale`` is the inverse temperature.
    """
    if mesh.shape["model"] > 1:
        return functools.partial(sharded_am_softmax, mesh=mesh, classes=classes, margin=margin, scale=scale)

    def whole(embeddings: jax.Array, class_weights: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = am_softmax_logits(embeddings, class_weights, labels, margin=margin, scale=scale)
        target = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        return jax.nn.logsumexp(logits, axis=1) - target, jnp.argmax(logits, axis=1) == labels

    return whole


def make_loss(forward: Forward, head: Head) -> LossFunction:
    """Return the mean loss over a batch of ``image`` and ``label``, with the metric ``accuracy``."""

    def loss(params: Any, batch_stats: Any, batch: Any, _: jax.Array) -> tuple:
        embeddings, batch_stats = forward(params["model"], batch_stats, normalize(batch["image"]))
        losses, correct = head(embeddings, params["class_weights"], batch["label"])
        return jnp.mean(losses), (batch_stats, {"accuracy": jnp.mean(correct, dtype=jnp.float32)})

    return loss


def make_embed(model: nn.Module, *, mirror: bool, channel_order: str = "rgb") -> Embed:
    """Return a function from frozen variables and images to embeddings.

    ``mirror`` adds the embedding of the mirrored image. With the channel order ``"bgr"`` the reference verified,
    although it trained RGB.
    """

    @jax.jit
    def embed(variables: Any, images: jax.Array) -> jax.Array:
        images = normalize(images if channel_order == "rgb" else images[..., ::-1])
        embeddings = model.apply(variables, images, train=False)
        return embeddings + model.apply(variables, images[:, :, ::-1], train=False) if mirror else embeddings

    return embed
