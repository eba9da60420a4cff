"""Frontal or profile: a classifier of head pose, by which training faces are purified (Chen et al. 2022, 4.1)."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from tvconv_jax.data.formats import folder
from tvconv_jax.data.pipeline import eval_batches, steps_per_epoch, train_batches
from tvconv_jax.data.source import Source
from tvconv_jax.data.tools import poses
from tvconv_jax.data.watchdog import WatchedBatches
from tvconv_jax.nn.freeze import freeze
from tvconv_jax.report.run import write_report
from tvconv_jax.tasks import report_data as evidence
from tvconv_jax.tasks.forward import Forward, forward_of
from tvconv_jax.tasks.fresh import fresh_variables
from tvconv_jax.tasks.run import (
    check_trained,
    mesh_of,
    model_of,
    normalize,
    optimizer_of,
    plan_of,
    restore_best,
    restore_last,
    run,
    schedule_of,
)
from tvconv_jax.training import loop
from tvconv_jax.training.distributed import is_first, to_host
from tvconv_jax.training.logging import command_line, device_description
from tvconv_jax.training.mesh import check_batch_size, eval_batch_size, local_rows, norm_groups, put_batch
from tvconv_jax.training.nonfinite import check_outputs
from tvconv_jax.training.state import TrainState, create_state
from tvconv_jax.training.step import LossFunction, make_train_step
from tvconv_jax.utils.environment import versions
from tvconv_jax.utils.files import write_json


class Accuracy(NamedTuple):
    """Shares of pictures recognized, of people who were not in training.

    Attributes:
        all: Of all pictures.
        frontal: Of the frontal ones.
        profile: Of the profiles.
    """

    all: float
    frontal: float
    profile: float


def random_crops(key: jax.Array, images: jax.Array, least: float) -> jax.Array:
    """Square crops brought back to the pictures' size.

    Args:
        key: Random key.
        images: ``[n, s, s, c]``.
        least: Smallest side of a crop, as a share of ``s``; sides are uniform between it and 1, places too.

    Returns:
        ``[n, s, s, c]``, bilinear.
    """
    side = images.shape[1]

    def crop(key: jax.Array, image: jax.Array) -> jax.Array:
        shares = jax.random.uniform(key, (3,))
        scale = 1 / (least + (1 - least) * shares[0])
        shift = -(scale - 1) * side * shares[1:]
        return jax.image.scale_and_translate(
            image, image.shape, (0, 1), jnp.full(2, scale), shift, method="linear", antialias=False
        )

    return jax.vmap(crop)(jax.random.split(key, len(images)), images)


def make_loss(forward: Forward, *, crop: float) -> LossFunction:
    """Mean binary cross entropy over a batch of ``image`` and ``label``; also the share of them recognized."""

    def loss(params: Any, batch_stats: Any, batch: Any, key: jax.Array) -> tuple:
        images = random_crops(key, normalize(batch["image"]), crop)
        embeddings, batch_stats = forward(params["model"], batch_stats, images)
        logits = embeddings @ params["kernel"] + params["bias"]
        losses = optax.sigmoid_binary_cross_entropy(logits, batch["label"].astype(jnp.float32))
        accuracy = jnp.mean((logits > 0) == (batch["label"] == 1), dtype=jnp.float32)
        return jnp.mean(losses), (batch_stats, {"accuracy": accuracy})

    return loss


class FrontalJob:
    """A frontal run put together from its config.

    Args:
        config: As :func:`tvconv_jax.tasks.configs.frontal_config` makes it.
        data: What to train and test on; ``None`` for a job that only scores.

    Raises:
        UserError: If something in the config or the data does not fit.
    """

    def __init__(self, config: ConfigDict, data: poses.Poses | None = None) -> None:
        self.config, self.mesh, self.data = config, mesh_of(config), data
        self.batch_size = config.data.batch_size
        self._eval_batch_size = eval_batch_size(config.eval.batch_size, self.mesh)
        self.model = model_of(config)
        self.steps_per_epoch = 1
        if data is not None:
            cut = {"parts": config.train.accumulate, "batch_norm": config.train.batch_norm}
            check_batch_size("data.batch_size", self.batch_size, self.mesh, **cut)
            self.steps_per_epoch = steps_per_epoch(data.train, config.data.batch_size)
        self.optimizer = optimizer_of(config, self.steps_per_epoch)
        self._freeze = jax.jit(lambda variables: freeze(self.model, variables).variables)
        self._logits = jax.jit(self._both_ways)

    @property
    def notes(self) -> list[str]:
        """What the person at the terminal should know before the first step."""
        train, test = self.data.people
        counts = f"{len(self.data.train)} pictures of {train} people; tested on {len(self.data.test)} of {test} others"
        return [f"data: {self.config.data.root} ({counts})", *self.data.notes]

    def init_state(self) -> TrainState:
        """The state before the first step."""
        config = self.config
        variables = fresh_variables(self.model, jax.random.key(config.seed), config.data.image_size)
        params = {
            "model": variables["params"],
            "kernel": jnp.zeros(config.model.embedding_size),
            "bias": jnp.zeros(()),
        }
        return create_state(params, variables["batch_stats"], self.optimizer, config.seed, self.mesh)

    def probabilities(self, state: TrainState, source: Source, start: int, stop: int) -> np.ndarray:
        """Of being frontal, ``float32 [stop - start]``, by the mean logit of a picture and its mirror image."""
        variables = self._freeze({"params": state.params["model"], "batch_stats": state.batch_stats})
        head = state.params["kernel"], state.params["bias"]
        size = {"batch_size": self._eval_batch_size, "image_size": self.config.data.image_size}
        parts = []
        rows = local_rows(self._eval_batch_size, self.mesh)
        for batch in eval_batches(source, **size, start=start, stop=stop, rows=rows):
            logits = to_host(self._logits(variables, head, put_batch(batch["image"], self.mesh)))
            parts.append(check_outputs("logits", logits[batch["mask"]]))
        return 1 / (1 + np.exp(-np.concatenate(parts, dtype=np.float32)))

    def _both_ways(self, variables: Any, head: tuple, images: jax.Array) -> jax.Array:
        images = normalize(images)
        embeddings = [self.model.apply(variables, view, train=False) for view in (images, images[:, :, ::-1])]
        return (embeddings[0] + embeddings[1]) / 2 @ head[0] + head[1]

    def accuracy(self, state: TrainState) -> Accuracy:
        """On the people held out."""
        test = self.data.test
        labels = np.array([test.label(index) for index in range(len(test))])
        right = (self.probabilities(state, test, 0, len(test)) > 0.5) == (labels == 1)
        return Accuracy(*(float(np.mean(right[chosen])) for chosen in (labels >= 0, labels == 1, labels == 0)))

    def evidence(self, state: TrainState) -> evidence.ReportData:
        """What the report shows of a state besides its results."""
        schedule = schedule_of(self.config, batch_size=self.batch_size, steps_per_epoch=self.steps_per_epoch)
        return evidence.of_run(schedule, self.plan().total, state.params)

    def task(self) -> loop.Task:
        """The job as the training loop sees it."""
        config = self.config
        batches = train_batches(
            self.data.train,
            batch_size=config.data.batch_size,
            image_size=config.data.image_size,
            seed=config.seed,
            workers=config.data.workers,
            rows=local_rows(config.data.batch_size, self.mesh),
        )

        batches = WatchedBatches(batches, timeout=config.data.timeout, source=config.data.root)

        def evaluate(state: TrainState) -> dict[str, float]:
            result = self.accuracy(state)
            return {f"test_{name}": value for name, value in result._asdict().items()} | {"score": result.all}

        step = make_train_step(
            make_loss(forward_of(config, self.model, self.mesh), crop=config.data.crop),
            self.optimizer,
            self.mesh,
            accumulate=config.train.accumulate,
            nan=config.train.nan,
        )
        train = self.data.train
        groups = norm_groups(config.train.batch_norm, self.mesh)
        return loop.Task(step, batches, evaluate, train.name, data={"pictures": len(train)}, norm_groups=groups)

    def plan(self) -> loop.Plan:
        """When the loop logs, saves and evaluates."""
        return plan_of(self.config, self.steps_per_epoch)


def train(config: ConfigDict, workdir: Path) -> None:
    """Trains from the newest checkpoint of the workdir, or from the beginning, and writes ``results.json``."""
    job = _job(config)
    ended = run(job, workdir)
    result = job.accuracy(ended.state)
    if not is_first():
        return
    write_json(
        workdir / "results.json",
        {
            "step": int(ended.state.step),
            "data": job.notes[0],
            "test": result._asdict(),
            "best": ended.best._asdict(),
            "images_per_second": ended.images_per_second,
            "device": device_description(),
            "seed": config.seed,
            "command": command_line(),
            "versions": versions(),
        },
    )
    found = job.evidence(ended.state)
    evidence.save(workdir, found)
    write_report(workdir, config, found)
    _print(result, f"after step {int(ended.state.step)}")
    print(f"Everything is in {workdir}: report.html, results.json, metrics.jsonl, tensorboard/, checkpoints/")


def report(config: ConfigDict, workdir: Path) -> None:
    """Writes the report of a run that ended again."""
    found = evidence.load(workdir)
    if found is None:
        job = _job(config)
        found = job.evidence(restore_last(job, workdir))
        evidence.save(workdir, found)
    write_report(workdir, config, found)


def evaluate(config: ConfigDict, workdir: Path) -> None:
    """Tests the best checkpoint of a workdir."""
    check_trained(workdir)
    job = _job(config)
    state = restore_best(job, workdir)
    _print(job.accuracy(state), f"best checkpoint (step {int(state.step)})")


def _job(config: ConfigDict) -> FrontalJob:
    base = folder.existing(config.data.root)
    return FrontalJob(config, poses.load(base, test_share=config.data.test_share))


def _print(result: Accuracy, what: str) -> None:
    share = ", ".join(f"{name} {value:.2%}" for name, value in result._asdict().items())
    print(f"Frontal or profile, {what}, people who were not in training: {share}")
