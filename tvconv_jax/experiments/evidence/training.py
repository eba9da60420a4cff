"""Trainings of a variant on a set: one compiled program for all learning rates and seeds.

The recipe is that of ``configs/classification.py`` in fewer steps, and without augmentation that moves pixels: the
layout is the one that is measured. No checkpoints and no reports: a run ends in a minute, and leaves a line.
"""

import functools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from tvconv_jax.data import augment
from tvconv_jax.data.normalization import normalize
from tvconv_jax.experiments.evidence.problems import Scores, problem_of
from tvconv_jax.experiments.evidence.sets import DIVIDED, LIMIT, ImageSet, Part
from tvconv_jax.metrics.complexity import Complexity, count
from tvconv_jax.models import create_model
from tvconv_jax.tasks.configs.own import AUGMENT
from tvconv_jax.tasks.forward import make_forward
from tvconv_jax.tasks.fresh import fresh_variables
from tvconv_jax.training.mesh import make_mesh, replicated
from tvconv_jax.training.optimizer import decoupled
from tvconv_jax.training.state import TrainState, create_state
from tvconv_jax.training.step import LossFunction, make_train_step

_SHADES = augment.Magnitudes(**AUGMENT)  # of these brightness and contrast
HIDDEN_CHANNELS = 8  # of the weight generator
EVAL_BATCH = 250
# Fields of create_model, by variant. "tvconv_late" has TVConv in the last three stages alone.
VARIANTS: dict[str, dict[str, Any]] = {
    "depthwise": {"operator": "depthwise"},
    "tvconv": {"operator": "tvconv", "hidden_channels": HIDDEN_CHANNELS},
    "tvconv_late": {"operator": "tvconv", "hidden_channels": HIDDEN_CHANNELS, "stages": (5, 6, 7)},
    "locally_connected": {"operator": "locally_connected"},
    "coordinates": {"operator": "depthwise", "coordinates": True},
    "gdc": {"operator": "depthwise", "head_pool": "gdc"},
    "flatten": {"operator": "depthwise", "head_pool": "flatten"},
}
PRETRAINED = "pretrained"
FACES_ONLY = ("tvconv_late", "coordinates", "gdc", "flatten")  # not in segmentation models


def variants_of(task: str) -> list[str]:
    """Return the variants that a task has."""
    if task == "segmentation":
        return [name for name in VARIANTS if name not in FACES_ONLY]
    return [*VARIANTS, PRETRAINED]


class Recipe(NamedTuple):
    """Settings that all runs share."""

    steps: int = 600
    batch_size: int = 32
    weight_decay: float = 0.05
    warmup: float = 0.05  # share of the steps
    limit: int = LIMIT  # training images


class Trained(NamedTuple):
    """A run's outcome."""

    scores: Scores
    seconds: float


class Trainer:
    """Trains a variant on a set again and again."""

    def __init__(self, found: ImageSet, variant: str, recipe: Recipe) -> None:
        self.set, self.problem = found, problem_of(found)
        self._steps, self._batch = (
            -(-number // DIVIDED[found.spec.task]) for number in (recipe.steps, recipe.batch_size)
        )
        fields = dict(self.problem.fields)
        self.model = create_model(fields.pop("name"), **fields, **VARIANTS[variant])
        self._mesh = make_mesh(devices=jax.devices()[:1])
        warmup = round(recipe.warmup * self._steps)
        numbers = {"warmup_steps": warmup, "total_steps": self._steps, "weight_decay": recipe.weight_decay}
        self._optimizer = decoupled("adamw", 1.0, **numbers)
        self._step = make_train_step(self._loss(), self._optimizer, self._mesh)
        self._outputs = jax.jit(lambda variables, images: self.model.apply(variables, normalize(images), train=False))

    @property
    def complexity(self) -> Complexity:
        """The cost of the model for one image."""
        return count(self.model, (1, *self.set.spec.image_size, 3))

    def run(self, learning_rate: float, seed: int, train: Part, test: Part) -> Trained:
        """Train on a part and score another one."""
        start = time.monotonic()
        state = self._fresh(learning_rate, seed)
        batches = draw_batches(train, self._batch, seed)
        for _ in range(self._steps):
            state, _ = self._step(state, next(batches))
        variables = {"params": state.params["model"], "batch_stats": state.batch_stats}
        scores = self.problem.score(functools.partial(self._predict, variables), test)
        return Trained(scores, time.monotonic() - start)

    def _loss(self) -> LossFunction:
        forward, problem = make_forward(self.model, self._mesh), self.problem

        def loss(params: Any, batch_stats: Any, batch: Any, key: jax.Array) -> tuple:
            outputs, batch_stats = forward(params["model"], batch_stats, normalize(batch["image"]), dropout=key)
            return problem.loss(outputs, params["head"], batch["label"]), (batch_stats, {})

        return loss

    def _fresh(self, learning_rate: float, seed: int) -> TrainState:
        key = jax.random.key(seed)
        variables = fresh_variables(self.model, key, self.set.spec.image_size)
        params = {"model": variables["params"], "head": self.problem.head(jax.random.fold_in(key, 1))}
        state = create_state(params, variables["batch_stats"], self._optimizer, seed, self._mesh)
        peak = jax.device_put(np.float32(learning_rate), replicated(self._mesh))  # as the step returns it: one program
        return state.replace(opt_state=optax.tree.set(state.opt_state, peak=peak))

    def _predict(self, variables: Any, images: np.ndarray) -> np.ndarray:
        outputs = []
        for start in range(0, len(images), EVAL_BATCH):
            batch = images[start : start + EVAL_BATCH]
            padded = np.concatenate([batch, np.zeros((EVAL_BATCH - len(batch), *batch.shape[1:]), batch.dtype)])
            outputs.append(np.asarray(self._outputs(variables, padded))[: len(batch)])
        return np.concatenate(outputs)


def draw_batches(part: Part, batch_size: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield batches without end: all images in one random order after another, in other brightness and contrast."""
    random, rows = np.random.default_rng(seed), np.zeros(0, int)
    while True:
        while len(rows) < batch_size:
            rows = np.concatenate([rows, random.permutation(len(part.images))])
        taken, rows = rows[:batch_size], rows[batch_size:]
        drawn = zip(part.images[taken], augment.draw_shades(random, batch_size), strict=True)
        images = np.stack([augment.shade(image, _SHADES, numbers) for image, numbers in drawn])
        yield {"image": images, "label": part.labels[taken]}
