"""Frontal or profile: a classifier of head pose, by which training faces are purified (Chen et al. 2022, 4.1)."""

import functools
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from tvconv_jax.data.formats import folder
from tvconv_jax.data.normalization import normalize
from tvconv_jax.data.pipeline import steps_per_epoch
from tvconv_jax.data.source import Source
from tvconv_jax.data.tools import poses
from tvconv_jax.tasks.forward import Forward
from tvconv_jax.tasks.fresh import fresh_variables
from tvconv_jax.tasks.parts import model_of, optimizer_of
from tvconv_jax.tasks.run import Job
from tvconv_jax.training.loop import Best
from tvconv_jax.training.state import TrainState, create_state
from tvconv_jax.training.step import LossFunction


class Accuracy(NamedTuple):
    """Shares of correct images of held-out identities: of all, of the frontal ones, of the profiles."""

    all: float
    frontal: float
    profile: float


def random_crops(key: jax.Array, images: jax.Array, min_size: float) -> jax.Array:
    """Crop squares of images ``[n, s, s, c]`` at random and resize them to ``s``, bilinearly.

    Sizes are uniform between ``min_size`` and 1, as a share of ``s``; places are uniform too.
    """
    size = images.shape[1]

    def crop(key: jax.Array, image: jax.Array) -> jax.Array:
        shares = jax.random.uniform(key, (3,))
        scale = 1 / (min_size + (1 - min_size) * shares[0])
        shift = -(scale - 1) * size * shares[1:]
        return jax.image.scale_and_translate(
            image, image.shape, (0, 1), jnp.full(2, scale), shift, method="linear", antialias=False
        )

    return jax.vmap(crop)(jax.random.split(key, len(images)), images)


def make_loss(forward: Forward, *, crop: float) -> LossFunction:
    """Return the mean binary cross entropy over a batch of ``image`` and ``label``, with the metric ``accuracy``."""

    def loss(params: Any, batch_stats: Any, batch: Any, key: jax.Array) -> tuple:
        images = random_crops(key, normalize(batch["image"]), crop)
        embeddings, batch_stats = forward(params["model"], batch_stats, images)
        logits = embeddings @ params["kernel"] + params["bias"]
        losses = optax.sigmoid_binary_cross_entropy(logits, batch["label"].astype(jnp.float32))
        accuracy = jnp.mean((logits > 0) == (batch["label"] == 1), dtype=jnp.float32)
        return jnp.mean(losses), (batch_stats, {"accuracy": accuracy})

    return loss


class FrontalJob(Job):
    """A run of :func:`tvconv_jax.tasks.configs.frontal_config`; without data a job that only scores."""

    def __init__(self, config: ConfigDict, data: poses.Poses | None = None) -> None:
        super().__init__(config)
        self.data, self.batch_size, self.steps_per_epoch = data, config.data.batch_size, 1
        self.model = model_of(config)
        if data is not None:
            self.check_batch_size("data.batch_size")
            self.steps_per_epoch = steps_per_epoch(data.train, config.data.batch_size)
            self.sizes = {"pictures": len(data.train)}
        self.optimizer = optimizer_of(config, batch_size=self.batch_size, steps_per_epoch=self.steps_per_epoch)
        self._logits = jax.jit(self._both_ways)

    @classmethod
    def open(cls, config: ConfigDict) -> Self:
        base = folder.existing(config.data.root)
        return cls(config, poses.load_poses(base, test_share=config.data.test_share))

    @property
    def source(self) -> str:
        return self.config.data.root

    @property
    def notes(self) -> list[str]:
        train, test = self.data.identities
        counts = f"{len(self.data.train)} images of {train} identities"
        return [f"data: {self.source} ({counts}; tested on {len(self.data.test)} of {test} others)", *self.data.notes]

    def init_state(self) -> TrainState:
        config = self.config
        variables = fresh_variables(self.model, jax.random.key(config.seed), config.data.image_size)
        kernel, bias = jnp.zeros(config.model.embedding_size), jnp.zeros(())
        params = {"model": variables["params"], "kernel": kernel, "bias": bias}
        return create_state(params, variables["batch_stats"], self.optimizer, config.seed, self.mesh)

    def loss(self, forward: Forward) -> LossFunction:
        return make_loss(forward, crop=self.config.data.crop)

    def probabilities(self, state: TrainState, source: Source, start: int, stop: int) -> np.ndarray:
        """Return probabilities of being frontal, ``float32 [stop - start]``.

        They belong to the mean logit of an image and its mirror image.
        """
        variables, head = self.freeze(self.variables(state)), (state.params["kernel"], state.params["bias"])
        logits = functools.partial(self._logits, variables, head)
        return 1 / (1 + np.exp(-self.outputs("logits", logits, source, start=start, stop=stop)))

    def _both_ways(self, variables: Any, head: tuple, images: jax.Array) -> jax.Array:
        images = normalize(images)
        embeddings = [self.model.apply(variables, view, train=False) for view in (images, images[:, :, ::-1])]
        return (embeddings[0] + embeddings[1]) / 2 @ head[0] + head[1]

    def measure(self, state: TrainState) -> Accuracy:
        """Return the accuracy on the held-out identities."""
        test = self.data.test
        labels = np.array([test.label(index) for index in range(len(test))])
        correct = (self.probabilities(state, test, 0, len(test)) > 0.5) == (labels == 1)
        return Accuracy(*(float(np.mean(correct[chosen])) for chosen in (labels >= 0, labels == 1, labels == 0)))

    def scores(self, state: TrainState) -> dict[str, float]:
        found = self.measure(state)
        return {f"test_{name}": value for name, value in found._asdict().items()} | {"score": found.all}

    def results(self, found: Accuracy, state: TrainState, best: Best) -> dict[str, Any]:
        return {"step": int(state.step), "data": self.notes[0], "test": found._asdict(), "best": best._asdict()}

    def show(self, found: Accuracy, step: int, *, trained: bool) -> None:
        title = f"after step {step}" if trained else f"best checkpoint (step {step})"
        shares = ", ".join(f"{name} {value:.2%}" for name, value in found._asdict().items())
        print(f"Frontal or profile, {title}, held-out identities: {shares}")


train, evaluate, report = FrontalJob.train, FrontalJob.evaluate, FrontalJob.report
