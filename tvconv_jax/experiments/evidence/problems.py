"""Differences between the tasks: fields of the model, loss, and the score of every test item."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tvconv_jax.experiments.evidence.sets import ImageSet, Part
from tvconv_jax.losses import am_softmax
from tvconv_jax.metrics.segmentation import dice
from tvconv_jax.metrics.verification import correct_pairs, cosine_scores, ten_fold

Predict = Callable[[np.ndarray], np.ndarray]  # images uint8 [n, h, w, 3] -> outputs float32
EMBEDDING_SIZE, LABEL_SMOOTHING, DEPTH = 128, 0.1, 0.5


class Scores(NamedTuple):
    """The score of every item of a part, 0 to 1, and the mean loss, which decides between equal learning rates."""

    items: np.ndarray
    loss: float


class Problem(NamedTuple):
    """A task on a set."""

    measure: str  # what the mean of the scores is
    fields: Mapping[str, Any]  # of create_model
    head: Callable[[jax.Array], Any]  # random key -> parameters beside the model's
    loss: Callable[[jax.Array, Any, jax.Array], jax.Array]  # outputs, head, labels -> mean loss
    score: Callable[[Predict, Part], Scores]


def problem_of(found: ImageSet) -> Problem:
    """Return the problem of a set."""
    return {"classification": _classification, "segmentation": _segmentation, "verification": _verification}[
        found.spec.task
    ](found)


def _cross_entropy(logits: jax.Array, _: Any, labels: jax.Array) -> jax.Array:
    smoothed = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), LABEL_SMOOTHING)
    return jnp.mean(optax.softmax_cross_entropy(logits, smoothed))


def log_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the cross entropy of logits ``[..., classes]`` and labels ``[...]``, in NumPy."""
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    target = np.take_along_axis(shifted, labels[..., None], axis=-1)[..., 0]
    return np.log(np.exp(shifted).sum(axis=-1)) - target


def score_classes(predict: Predict, part: Part) -> Scores:
    """Score an image 1 if its class is predicted, else 0."""
    logits = predict(part.images)
    correct = (logits.argmax(axis=-1) == part.labels) & np.isfinite(logits).all(axis=-1)
    return Scores(correct.astype(np.float64), float(log_losses(logits, part.labels).mean()))


def _classification(found: ImageSet) -> Problem:
    fields = {"name": "mobilenetv2", "width": 0.1, "depth": DEPTH, "num_classes": found.classes}
    return Problem("accuracy", fields, lambda key: {}, _cross_entropy, score_classes)


def _segmentation(found: ImageSet) -> Problem:
    def score(predict: Predict, part: Part) -> Scores:
        logits = predict(part.images)
        masks = np.where(np.isfinite(logits).all(axis=-1), logits.argmax(axis=-1), 0)
        items = [_dice(masks[part.groups == g], part.labels[part.groups == g]) for g in np.unique(part.groups)]
        return Scores(np.array(items), float(log_losses(logits, part.labels).mean()))

    def _dice(masks: np.ndarray, true: np.ndarray) -> float:
        """Return the mean over classes of the Dice of all images of a person, ``[n, h, w]``, together."""
        masks, true = (a.reshape(-1, a.shape[-1]) for a in (masks, true))
        return float(np.mean([dice(masks == k, true == k) for k in range(1, found.classes)]))

    fields = {"name": "deeplabv3plus", "width": 0.25, "depth": DEPTH, "num_classes": found.classes}
    return Problem("Dice of a person", fields, lambda key: {}, _cross_entropy, score)


def _verification(found: ImageSet) -> Problem:
    classes = found.classes

    def head(key: jax.Array) -> Any:
        return jax.random.normal(key, (EMBEDDING_SIZE, classes))

    def loss(embeddings: jax.Array, weights: Any, labels: jax.Array) -> jax.Array:
        return jnp.mean(am_softmax(embeddings, weights, labels))

    fields = {"name": "mobilenetv2", "width": 0.1, "depth": DEPTH, "embedding_size": EMBEDDING_SIZE}
    return Problem("accuracy of pairs", fields, head, loss, score_pairs)


def score_pairs(predict: Predict, part: Part) -> Scores:
    """Score a pair 1 if it is correct at its fold's threshold, else 0."""
    embeddings, (left, right, same, folds) = predict(part.images), part.pairs
    if not np.isfinite(embeddings).all():
        return Scores(np.zeros(len(same)), np.inf)
    found = ten_fold(embeddings[left], embeddings[right], same, folds, protocol="standard")
    cosines = cosine_scores(embeddings[left], embeddings[right])
    correct = correct_pairs(cosines, same, folds, found.thresholds)
    return Scores(correct.astype(np.float64), 1 - found.tar)
