"""AM-Softmax whose classes lie on several devices: no device ever holds all class weights, or a whole row of logits."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from tvconv_jax.losses import am_softmax_logits, indices


def sharded_am_softmax(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    *,
    mesh: Mesh,
    classes: int,
    margin: float = 0.35,
    scale: float = 32.0,
) -> tuple[jax.Array, jax.Array]:
    """:func:`tvconv_jax.losses.am_softmax` with the columns of ``class_weights`` cut along ``model``.

    The pictures are cut over all devices, so that none runs the backbone on what another one has; here the embeddings,
    ``n * d`` numbers, are gathered along ``model``, and every device takes the cosines to its own classes only, as in
    Partial FC. Of the logits, devices exchange three numbers a picture: the maximum, the sum of exponentials and the
    target's logit, which only the owner of the label has.

    Args:
        embeddings: ``[n, d]``, floating, cut over all devices; their number divides ``n``.
        class_weights: ``[d, columns]``, floating, a column per class, cut along ``model``, whose size divides
            ``columns``.
        labels: ``[n]``, integers in ``0..classes-1``; one outside makes that example's loss nan.
        mesh: With the axes ``data`` and ``model``.
        classes: How many of the columns are classes; those behind them get no probability and no gradient.
        margin: Taken off the target's cosine.
        scale: The inverse temperature.

    Returns:
        ``(losses, recognized)``: ``[n]`` float32, not averaged, and ``[n]`` bool, whether the largest logit (the first
        of them) is the target's, margin included. Both are cut along ``data``.

    Raises:
        ValueError: If a shape, a dtype, ``scale`` or ``classes`` does not fit.

    References:
        An et al., "Partial FC: Training 10 Million Identities on a Single Machine", 2021,
        https://arxiv.org/abs/2010.05222, section 3.1: the classes over the devices, the embeddings gathered.
    """
    if not 1 <= classes <= class_weights.shape[1]:
        raise ValueError(f"classes={classes} must be 1 to {class_weights.shape[1]}, the columns of class_weights.")
    local = functools.partial(
        _local, classes=classes, padded=class_weights.shape[1] > classes, margin=margin, scale=scale
    )
    rows = PartitionSpec("data")
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(PartitionSpec(("data", "model")), PartitionSpec(None, "model"), rows),
        out_specs=(rows, rows),
    )(embeddings, class_weights, indices(labels))


def _local(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    *,
    classes: int,
    padded: bool,
    margin: float,
    scale: float,
) -> tuple[jax.Array, jax.Array]:
    """One device's part; ``labels`` are those of all rows that it gathers along ``model``."""
    embeddings = lax.all_gather(embeddings, "model", axis=0, tiled=True)
    width = class_weights.shape[1]
    first = lax.axis_index("model") * width
    own = labels - first  # a label of another shard's class is outside 0..width-1, and gets no margin here
    logits = am_softmax_logits(embeddings, class_weights, own, margin=margin, scale=scale)
    columns = jnp.arange(width)
    if padded:
        logits = jnp.where((columns < classes - first)[None], logits, -jnp.inf)

    target = jnp.sum(jnp.where(columns[None] == own[:, None], logits, 0), axis=1)
    target = lax.psum(target, "model")
    fixed = lax.stop_gradient(logits)
    highest = jnp.max(fixed, axis=1)
    maximum = lax.pmax(highest, "model")
    total = lax.psum(jnp.sum(jnp.exp(logits - maximum[:, None]), axis=1), "model")
    losses = jnp.log(total) + maximum - target
    losses = jnp.where((labels >= 0) & (labels < classes), losses, jnp.nan)

    best = jnp.where(highest == maximum, first + jnp.argmax(fixed, axis=1), jnp.iinfo(jnp.int32).max)
    return losses, lax.pmin(best, "model") == labels
