"""Losses over embeddings: pure functions, one value per example, so that the caller weighs and averages."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

# A shorter vector is divided by this number instead, as in torch.nn.functional.normalize.
NORM_FLOOR = 1e-12


def am_softmax_logits(
    embeddings: jax.Array, class_weights: jax.Array, labels: jax.Array, *, margin: float = 0.35, scale: float = 32.0
) -> jax.Array:
    r"""Return scaled cosines to every class, with a margin subtracted from the target's.

    .. math::
        z_{ij} = s\,(\cos\theta_{ij} - m\,[j = y_i]), \quad
        \cos\theta_{ij} = \mathrm{clip}\Bigl(\frac{e_i}{|e_i|} \cdot \frac{w_j}{|w_j|}, -1, 1\Bigr)

    Arguments and errors are those of :func:`am_softmax`; the result is ``[n, classes]`` float32.
    """
    _check(embeddings, class_weights, labels, scale, margin)
    labels = indices(labels)
    # bfloat16 keeps 8 bits of a cosine, and the scale makes that an error of 0.1 in the logit: everything is float32,
    # the product on accelerators too, whose default would round its inputs.
    units = _normalize(embeddings, axis=1), _normalize(class_weights, axis=0)
    cosines = jnp.matmul(*units, precision=lax.Precision.HIGHEST)
    # Rounding leaves [-1, 1] by an ulp. Unlike jnp.clip, this passes the whole gradient at the bounds
    # themselves, as torch.clamp does.
    cosines = jnp.where(jnp.abs(cosines) > 1, jnp.sign(cosines), cosines)
    return scale * (cosines - margin * _is_target(labels, class_weights.shape[1]))


def am_softmax(
    embeddings: jax.Array, class_weights: jax.Array, labels: jax.Array, *, margin: float = 0.35, scale: float = 32.0
) -> jax.Array:
    r"""Return the additive margin softmax: cross entropy over cosines, with a margin subtracted from the target's.

    .. math::
        L_i = -\log \frac{e^{s(\cos\theta_{iy} - m)}}
            {e^{s(\cos\theta_{iy} - m)} + \sum_{j \ne y} e^{s\cos\theta_{ij}}}

    Args:
        embeddings: ``[n, d]``, floating, of any length.
        class_weights: ``[d, classes]``, floating, one column per class, of any length.
        labels: ``[n]``, integers in ``0..classes-1``; one outside makes that example's loss nan.
        margin: ``m``, subtracted from the target's cosine.
        scale: ``s``, the inverse temperature.

    Returns:
        ``[n]`` float32, not averaged.

    Raises:
        ValueError: If a shape, a dtype, ``scale`` or ``margin`` does not fit.

    References:
        Wang, Cheng, Liu, Liu, "Additive Margin Softmax for Face Verification", 2018,
        https://arxiv.org/abs/1801.05599. Margin 0.35 and scale 32 are those of FaceX-Zoo
        (https://github.com/JDAI-CV/FaceX-Zoo), from which the TVConv reference took its head.
    """
    logits = am_softmax_logits(embeddings, class_weights, labels, margin=margin, scale=scale)
    labels, classes = indices(labels), logits.shape[1]
    target = jnp.sum(logits * _is_target(labels, classes), axis=1)
    loss = jax.nn.logsumexp(logits, axis=1) - target
    return jnp.where((labels >= 0) & (labels < classes), loss, jnp.nan)


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
    """Return :func:`am_softmax` with classes sharded along ``model``, and whether each target has the largest logit.

    No device holds all class weights or a whole row of logits, as in Partial FC. Images are sharded over all devices,
    so each runs the backbone once. The embeddings, ``n * d`` numbers, are gathered along ``model``, and every device
    computes the cosines to its own classes. Devices then exchange three numbers per image: the maximum, the sum of
    exponentials and the target's logit.

    Args:
        embeddings: ``[n, d]``, floating, sharded over all devices; their number divides ``n``.
        class_weights: ``[d, columns]``, floating, a column per class, sharded along ``model``, whose size divides
            ``columns``.
        labels: ``[n]``, integers in ``0..classes-1``; one outside makes that example's loss nan.
        mesh: Has the axes ``data`` and ``model``.
        classes: Number of classes; later columns are padding, without probability and gradient.
        margin, scale: As in :func:`am_softmax`.

    Returns:
        ``(losses, recognized)``: ``[n]`` float32, not averaged, and ``[n]`` bool, whether the (first) largest logit is
        the target's, margin included. Both are sharded along ``data``.

    Raises:
        ValueError: If a shape, a dtype, ``scale`` or ``classes`` does not fit.

    References:
        An et al., "Partial FC: Training 10 Million Identities on a Single Machine", 2021,
        https://arxiv.org/abs/2010.05222, section 3.1.
    """
    if not 1 <= classes <= class_weights.shape[1]:
        raise ValueError(f"classes={classes} must be 1 to {class_weights.shape[1]}, the columns of class_weights.")
    padded, rows = class_weights.shape[1] > classes, PartitionSpec("data")
    shard = functools.partial(_am_softmax_shard, classes=classes, padded=padded, margin=margin, scale=scale)
    in_specs = (PartitionSpec(("data", "model")), PartitionSpec(None, "model"), rows)
    shards = jax.shard_map(shard, mesh=mesh, in_specs=in_specs, out_specs=(rows, rows))
    return shards(embeddings, class_weights, indices(labels))


def _am_softmax_shard(
    embeddings: jax.Array, class_weights: jax.Array, labels: jax.Array, *, classes: int, padded: bool, **options: float
) -> tuple[jax.Array, jax.Array]:
    """Compute one device's part; ``labels`` are those of all rows that it gathers along ``model``."""
    embeddings = lax.all_gather(embeddings, "model", axis=0, tiled=True)
    width = class_weights.shape[1]
    first = lax.axis_index("model") * width
    shifted = labels - first  # a label of another shard's class is outside 0..width-1, and gets no margin here
    logits = am_softmax_logits(embeddings, class_weights, shifted, **options)
    columns = jnp.arange(width)
    if padded:
        logits = jnp.where((columns < classes - first)[None], logits, -jnp.inf)

    target = lax.psum(jnp.sum(jnp.where(columns[None] == shifted[:, None], logits, 0), axis=1), "model")
    fixed = lax.stop_gradient(logits)
    highest = jnp.max(fixed, axis=1)
    maximum = lax.pmax(highest, "model")
    total = lax.psum(jnp.sum(jnp.exp(logits - maximum[:, None]), axis=1), "model")
    losses = jnp.log(total) + maximum - target
    losses = jnp.where((labels >= 0) & (labels < classes), losses, jnp.nan)

    best = jnp.where(highest == maximum, first + jnp.argmax(fixed, axis=1), jnp.iinfo(jnp.int32).max)
    return losses, lax.pmin(best, "model") == labels


def _normalize(x: jax.Array, axis: int) -> jax.Array:
    """Scale ``x`` along ``axis`` to unit length, in float32."""
    x = x.astype(jnp.float32)
    # The floor is under the root, so that the gradient at a zero vector is finite.
    squared = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
    squared = jnp.where(jnp.isinf(squared), jnp.nan, squared)  # a length that overflows would make zeros of x
    return x / jnp.sqrt(jnp.maximum(squared, NORM_FLOOR**2))


def indices(labels: jax.Array) -> jax.Array:
    """Return labels in 32 bits or more: in 8 bits, a label would also match the class 256 later."""
    return labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels


def _is_target(labels: jax.Array, classes: int) -> jax.Array:
    return jax.nn.one_hot(labels, classes, dtype=jnp.float32)


def _check(embeddings: jax.Array, class_weights: jax.Array, labels: jax.Array, scale: float, margin: float) -> None:
    if embeddings.ndim != 2:
        raise ValueError(f"embeddings have shape {embeddings.shape}; they must be [n, d].")
    if class_weights.ndim != 2 or class_weights.shape[0] != embeddings.shape[1]:
        raise ValueError(
            f"class_weights have shape {class_weights.shape}; they must be [d, classes], "
            f"and the embeddings' d is {embeddings.shape[1]}."
        )
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(f"labels have shape {labels.shape}; they must be [n], here ({embeddings.shape[0]},).")
    for name, value in (("embeddings", embeddings), ("class_weights", class_weights)):
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(f"{name} are {value.dtype}; they must be floating. Cast them.")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels are {labels.dtype}; they must be integers, the index of each class.")
    if not 0 < scale < jnp.inf:
        raise ValueError(f"scale={scale} must be positive and finite.")
    if not -jnp.inf < margin < jnp.inf:
        raise ValueError(f"margin={margin} must be finite.")
