"""Runs on real faces: both operators from the same images, each at a learning rate chosen on training data."""

import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tvconv_jax.bench.gpu.face_files import decode, read_faces
from tvconv_jax.bench.gpu.item import Item, Sizes
from tvconv_jax.bench.gpu.worker import Measure, TooLateError
from tvconv_jax.bench.settings import EMBEDDING_SIZE, MOMENTUM, WEIGHT_DECAY
from tvconv_jax.metrics.verification import ten_fold
from tvconv_jax.models import create_model
from tvconv_jax.nn.freeze import freeze
from tvconv_jax.tasks.face_model import init_class_weights, make_embed, make_head, make_loss
from tvconv_jax.tasks.forward import make_forward
from tvconv_jax.tasks.fresh import fresh_variables
from tvconv_jax.training.mesh import make_mesh
from tvconv_jax.training.optimizer import sgd, step_schedule
from tvconv_jax.training.state import TrainState, create_state
from tvconv_jax.training.step import make_train_step

WIDTH, MILESTONES, EPOCHS = 0.1, (22, 30, 35), 38  # as in the paper
EMBEDDED = 500  # test images that are embedded together
SPARE = 1.15  # a run is begun if this many times the longest one fits into the time left


class Operator:
    """The compiled training step and embedding of MobileNetV2 with one operator."""

    def __init__(self, operator: str, sizes: Sizes, classes: int, steps_per_epoch: int) -> None:
        self.mesh, self._sizes, self._classes = make_mesh(devices=jax.devices()[:1]), sizes, classes
        self.model = create_model("mobilenetv2", width=WIDTH, depth=sizes.depth, operator=operator)
        scale = sizes.epochs / EPOCHS
        epochs = {"milestones": [scale * epoch for epoch in MILESTONES], "warmup_epochs": scale}
        schedule = step_schedule(1.0, factor=0.1, steps_per_epoch=steps_per_epoch, **epochs)
        # The learning rate lies in the state, so that all of them share one program.
        rate = optax.inject_hyperparams(optax.scale)(step_size=1.0)
        self._optimizer = optax.chain(sgd(schedule, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY), rate)
        head = make_head(self.mesh, classes=classes, margin=0.35, scale=32.0)
        step = make_train_step(make_loss(make_forward(self.model, self.mesh), head), self._optimizer, self.mesh)
        start = time.perf_counter()
        size = (sizes.face_batch, sizes.image_size, sizes.image_size, 3)
        batch = {"image": jax.ShapeDtypeStruct(size, jnp.uint8), "label": jax.ShapeDtypeStruct(size[:1], jnp.int32)}
        self.step = step.lower(self.fresh(0, 1.0), batch).compile()
        self.compile_seconds = time.perf_counter() - start
        self.embed = make_embed(self.model, mirror=True)

    def fresh(self, seed: int, learning_rate: float) -> TrainState:
        """Return the state before the first step."""
        key = jax.random.key(seed)
        variables = fresh_variables(self.model, key, self._sizes.image_size)
        weights = init_class_weights(jax.random.fold_in(key, 1), EMBEDDING_SIZE, self._classes, self.mesh)
        params = {"model": variables["params"], "class_weights": weights}
        state = create_state(params, variables["batch_stats"], self._optimizer, seed, self.mesh)
        value = jax.device_put(np.float32(learning_rate), jax.tree.leaves(state.opt_state)[0].sharding)
        return state.replace(opt_state=optax.tree.set(state.opt_state, step_size=value))


class Runs:
    """All runs on one set of faces, which lie on the device."""

    def __init__(self, path: str, sizes: Sizes, deadline: float) -> None:
        faces = read_faces(Path(path))
        self._images, self._test = (decode(part, sizes.image_size, Path(path)) for part in (faces.images, faces.test))
        self._faces, self._sizes, self._deadline, self._longest = faces, sizes, deadline, 0.0
        self._steps_per_epoch = max(1, len(self._images) // sizes.face_batch)
        self._on_device = (jnp.asarray(self._images), jnp.asarray(faces.labels))
        self._operator = functools.cache(self._compile)

    def _compile(self, operator: str) -> Operator:
        classes = int(self._faces.labels.max()) + 1
        return Operator(operator, self._sizes, classes, self._steps_per_epoch)

    def prepare(self, item: Item) -> Measure:
        """Compile the step of the item's operator, unless it is there."""
        operator = self._operator(item.settings["operator"])
        return functools.partial(self._measure, operator, item)

    def _measure(self, operator: Operator, item: Item) -> dict[str, Any]:
        if time.time() + SPARE * self._longest > self._deadline:
            raise TooLateError
        start = time.time()
        learning_rate = item.settings["asked_rate"] or item.learning_rate
        if learning_rate is None:
            raise ValueError("no learning rate ended with a finite training loss")
        state, losses, speed = self._train(operator, item.settings["seed"], learning_rate)
        loss = float(np.mean(losses[-self._steps_per_epoch :]))  # of the last epoch; it chooses the learning rate
        figures = {"learning_rate": learning_rate, "loss": loss, "images_per_s": round(speed)}
        figures |= self._test_accuracy(operator, state) if np.isfinite(loss) else {"accuracy": None}
        self._longest = max(self._longest, time.time() - start)
        return {**figures, "compile_s": round(operator.compile_seconds, 1), "seconds": round(time.time() - start, 1)}

    def _train(self, operator: Operator, seed: int, learning_rate: float) -> tuple[TrainState, np.ndarray, float]:
        state, losses = operator.fresh(seed, learning_rate), []
        start = time.perf_counter()
        for rows, flips in self._batches(seed):
            state, metrics = operator.step(state, _take(*self._on_device, rows, flips))
            losses.append(metrics["loss"])
        losses = np.asarray(jax.device_get(losses))
        return state, losses, len(losses) * self._sizes.face_batch / (time.perf_counter() - start)

    def _batches(self, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield rows and flips of every step: each epoch has its own order, without the rest of the last batch."""
        size, total = self._sizes.face_batch, max(1, round(self._sizes.epochs * self._steps_per_epoch))
        for step in range(total):
            epoch, at = divmod(step, self._steps_per_epoch)
            if at == 0:
                random = np.random.default_rng([seed, epoch])
                order = np.resize(random.permutation(len(self._images)), max(size, len(self._images))).astype(np.int32)
            yield order[at * size :][:size], random.random(size) < 0.5

    def _test_accuracy(self, operator: Operator, state: TrainState) -> dict[str, Any]:
        frozen = freeze(operator.model, {"params": state.params["model"], "batch_stats": state.batch_stats})
        missing = -len(self._test) % EMBEDDED
        images = np.concatenate([self._test, np.zeros((missing, *self._test.shape[1:]), np.uint8)])
        parts = [images[i : i + EMBEDDED] for i in range(0, len(images), EMBEDDED)]
        found = np.concatenate([np.asarray(operator.embed(frozen.variables, part)) for part in parts])
        faces = self._faces
        result = ten_fold(found[faces.left], found[faces.right], faces.same, faces.folds, protocol="standard")
        return {"accuracy": round(100 * result.accuracy, 2), "std": round(100 * result.std, 2)}


@jax.jit
def _take(images: jax.Array, labels: jax.Array, rows: jax.Array, flips: jax.Array) -> dict[str, jax.Array]:
    """Gather a batch on the device."""
    batch = images[rows]
    return {"image": jnp.where(flips[:, None, None, None], batch[:, :, ::-1], batch), "label": labels[rows]}
