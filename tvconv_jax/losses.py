"""Losses over embeddings: pure functions, one value per example, so that the caller weighs and averages."""

import jax
import jax.numpy as jnp
from jax import lax

# Below this length a vector is divided by this number instead (torch.nn.functional.normalize does the same).
NORM_FLOOR = 1e-12


def am_softmax_logits(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    *,
    margin: float = 0.35,
    scale: float = 32.0,
) -> jax.Array:
    r"""Scaled cosines to every class, the target's less a margin.

    .. math::
        z_{ij} = s\,(\cos\theta_{ij} - m\,[j = y_i]), \quad
        \cos\theta_{ij} = \mathrm{clip}\Bigl(\frac{e_i}{|e_i|} \cdot \frac{w_j}{|w_j|}, -1, 1\Bigr)

    Args:
        embeddings: ``[n, d]``, floating, of any length.
        class_weights: ``[d, classes]``, floating, one column per class, of any length.
        labels: ``[n]``, integers in ``0..classes-1``.
        margin: ``m``, taken off the target's cosine.
        scale: ``s``, the inverse temperature.

    Returns:
        ``[n, classes]`` float32.

    Raises:
        ValueError: If a shape, a dtype, ``scale`` or ``margin`` does not fit.
    """
    _check(embeddings, class_weights, labels, scale, margin)
    labels = indices(labels)
    # bfloat16 keeps 8 bits of a cosine, which the scale turns into a logit off by 0.1: everything is float32,
    # the product on accelerators too, whose default would round its inputs.
    cosines = jnp.matmul(
        _normalize(embeddings, axis=1), _normalize(class_weights, axis=0), precision=lax.Precision.HIGHEST
    )
    # Rounding leaves [-1, 1] by an ulp. Unlike jnp.clip, this passes the whole gradient at the bounds
    # themselves, as torch.clamp does.
    cosines = jnp.where(jnp.abs(cosines) > 1, jnp.sign(cosines), cosines)
    return scale * (cosines - margin * _is_target(labels, class_weights.shape[1]))


def am_softmax(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    *,
    margin: float = 0.35,
    scale: float = 32.0,
) -> jax.Array:
    r"""Additive margin softmax: cross entropy over cosines, with the target's cosine lowered by a margin.

    .. math::
        L_i = -\log \frac{e^{s(\cos\theta_{iy} - m)}}
            {e^{s(\cos\theta_{iy} - m)} + \sum_{j \ne y} e^{s\cos\theta_{ij}}}

    Args:
        embeddings: ``[n, d]``, floating, of any length.
        class_weights: ``[d, classes]``, floating, one column per class, of any length.
        labels: ``[n]``, integers in ``0..classes-1``. Values cannot be checked under ``jit``: one outside the
            range makes that example's loss nan.
        margin: ``m``, taken off the target's cosine.
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


def _normalize(x: jax.Array, axis: int) -> jax.Array:
    """``x`` along ``axis`` at unit length, in float32."""
    x = x.astype(jnp.float32)
    # The floor is under the root, so that the gradient at a zero vector is finite.
    squared = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
    squared = jnp.where(jnp.isinf(squared), jnp.nan, squared)  # a length that overflows would make zeros of x
    return x / jnp.sqrt(jnp.maximum(squared, NORM_FLOOR**2))


def indices(labels: jax.Array) -> jax.Array:
    """In 32 bits or more: in eight, a label would also stand for the class 256 behind it."""
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
