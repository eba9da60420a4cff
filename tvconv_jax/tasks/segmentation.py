"""Optic disc and cup: train on three clinics, measure on the fourth, which the model never saw."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from tvconv_jax.convert.torch_checkpoint import read_torch_checkpoint
from tvconv_jax.convert.torchvision import backbone_from_torchvision
from tvconv_jax.data import fundus, fundus_batches
from tvconv_jax.data.cache import cache_dir
from tvconv_jax.data.watchdog import WatchedBatches
from tvconv_jax.metrics import segmentation as metrics
from tvconv_jax.nn.freeze import freeze
from tvconv_jax.report.run import write_report
from tvconv_jax.tasks import report_data as evidence
from tvconv_jax.tasks.evaluation import Predicted, chosen_names, dices, measure, print_table, write_results
from tvconv_jax.tasks.forward import Forward, forward_of
from tvconv_jax.tasks.fresh import fresh_variables
from tvconv_jax.tasks.run import (
    check_choice,
    check_trained,
    mesh_of,
    model_of,
    normalize,
    plan_of,
    restore_best,
    restore_last,
    run,
    schedule_of,
)
from tvconv_jax.training import loop
from tvconv_jax.training.distributed import is_first, to_host
from tvconv_jax.training.mesh import check_batch_size, eval_batch_size, local_rows, norm_groups, put_batch
from tvconv_jax.training.nonfinite import check_outputs
from tvconv_jax.training.state import TrainState, create_state
from tvconv_jax.training.step import LossFunction, make_train_step
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import user_path

# Which state is measured in the end, and what that means for the figure.
SELECTIONS = {
    "last": "the last step",
    "held_out": "the best epoch on the test pictures of the training domains",
    "reference": "the best epoch on the test domain itself, as the reference selects: this flatters the result",
}


def make_loss(forward: Forward) -> LossFunction:
    """Mean binary cross entropy over the pixels of both maps; a batch holds ``image`` and ``mask``."""

    def loss(params: Any, batch_stats: Any, batch: Any, key: jax.Array) -> tuple:
        logits, batch_stats = forward(params, batch_stats, normalize(batch["image"]), dropout=key)
        true = jnp.stack([batch["mask"] == fundus.CUP, batch["mask"] != fundus.BACKGROUND], axis=-1)
        losses = optax.sigmoid_binary_cross_entropy(logits, true.astype(jnp.float32))
        return jnp.mean(losses), (batch_stats, {})

    return loss


class SegmentationJob:
    """A segmentation run put together from its config.

    Args:
        config: As :func:`tvconv_jax.tasks.configs.odoc_config` makes it.

    Raises:
        UserError: If something in the config or the data does not fit.
    """

    def __init__(self, config: ConfigDict) -> None:
        self.config, self.mesh = config, mesh_of(config)
        check_choice("eval.select", config.eval.select, SELECTIONS)
        check_choice("eval.hd95", config.eval.hd95, metrics.DEFINITIONS)
        check_choice("eval.empty", config.eval.empty, metrics.EMPTY)
        check_choice("data.test_domain", config.data.test_domain, fundus.DOMAINS)
        check_choice("data.sampling", config.data.sampling, ("shuffled", "replacement"))
        check_choice("data.source", config.data.source, ("embedded", "folder"))
        check_choice("model.num_classes", config.model.num_classes, (2,))
        self.model = model_of(config)
        self._pretrained = (
            read_torch_checkpoint(user_path(config.model.pretrained)) if config.model.pretrained else None
        )
        if config.model.pretrained and config.model.depth != 1:
            raise UserError(
                f"model.pretrained is of depth 1, model.depth is {config.model.depth}; set --config.model.depth=1."
            )
        if config.data.source == "folder":
            self.data = fundus.load_folder(config.data.root, cache_dir())
        else:
            self.data = fundus.load_embedded(config.data.size, cache_dir())
        self.train_sources = {d: s for d, s in self.data.train.items() if d != config.data.test_domain}
        tested = fundus.names({0: self.data.test[config.data.test_domain]})
        for name in chosen_names(config.eval.show):
            check_choice("eval.show", name, tested)
        self.batch_size = config.data.per_domain * len(self.train_sources)
        parts = config.train.accumulate
        name, norm = "data.per_domain times the training domains", config.train.batch_norm
        check_batch_size(name, self.batch_size, self.mesh, parts=parts, batch_norm=norm)
        if parts % len(self.train_sources) == 0:  # they take turns in a batch
            raise UserError(f"train.accumulate {parts} would give every part one domain alone; take 1, 2 or 4.")
        self._eval_batch_size = eval_batch_size(config.eval.batch_size, self.mesh)
        self.steps_per_epoch = fundus_batches.steps_per_epoch(self.train_sources, config.data.per_domain)
        o = config.optimizer
        schedule = schedule_of(config, batch_size=self.batch_size, steps_per_epoch=self.steps_per_epoch)
        self.optimizer = optax.adam(schedule, b1=o.b1, b2=o.b2)
        self._freeze = jax.jit(lambda variables: freeze(self.model, variables).variables)
        self._probabilities = jax.jit(self._forward, static_argnums=2)

    @property
    def notes(self) -> list[str]:
        """What the person at the terminal should know before the first step."""
        return [
            f"data: {self.data.description}; trained on {', '.join(map(str, self.train_sources))}, tested on "
            f"{self.config.data.test_domain}",
            f"backbone: {self.backbone}",
            *self.data.notes,
        ]

    @property
    def backbone(self) -> str:
        """What the backbone starts from."""
        return f"weights of {self.config.model.pretrained}" if self.config.model.pretrained else "from scratch"

    def init_state(self) -> TrainState:
        """The state before the first step."""
        variables = fresh_variables(self.model, jax.random.key(self.config.seed), self.config.data.image_size)
        if self._pretrained is not None:
            variables = backbone_from_torchvision(self._pretrained, variables)
        return create_state(variables["params"], variables["batch_stats"], self.optimizer, self.config.seed, self.mesh)

    def task(self) -> loop.Task:
        """The job as the training loop sees it."""
        data = self.config.data
        batches = fundus_batches.train_batches(
            self.train_sources,
            per_domain=data.per_domain,
            image_size=data.image_size,
            seed=self.config.seed,
            sampling=data.sampling,
            scale_crop=data.scale_crop,
            workers=data.workers,
            rows=local_rows(self.batch_size, self.mesh),
        )
        batches = WatchedBatches(batches, timeout=data.timeout, source=self.data.description)
        names = fundus.names(self.train_sources)
        watched = [self.data.test[d] for d in self._watched_domains()]

        def evaluate(state: TrainState) -> dict[str, float]:
            found = [dices(one) for source in watched for one in self.predict(state, source)]
            cup, disc = (float(value) for value in np.mean(found, axis=0))
            return {"cup_dice": cup, "disc_dice": disc, "score": (cup + disc) / 2}

        step = make_train_step(
            make_loss(forward_of(self.config, self.model, self.mesh)),
            self.optimizer,
            self.mesh,
            accumulate=self.config.train.accumulate,
            nan=self.config.train.nan,
        )
        sizes = {f"pictures of domain {domain}": len(source) for domain, source in self.train_sources.items()}
        groups = norm_groups(self.config.train.batch_norm, self.mesh)
        return loop.Task(step, batches, evaluate, name_of=lambda index: names[index], data=sizes, norm_groups=groups)

    def plan(self) -> loop.Plan:
        """When the loop logs, saves and evaluates."""
        return plan_of(self.config, self.steps_per_epoch)

    def evidence(self, state: TrainState) -> evidence.ReportData:
        """What the report shows of a state besides its results."""
        schedule = schedule_of(self.config, batch_size=self.batch_size, steps_per_epoch=self.steps_per_epoch)
        return evidence.of_run(schedule, self.plan().total, state.params)

    def selected(self, state: TrainState, workdir: Path) -> TrainState:
        """The state that ``eval.select`` chooses, given the last one."""
        return state if self.config.eval.select == "last" else restore_best(self, workdir)

    def predict(self, state: TrainState, source: fundus.FundusSource) -> Iterator[Predicted]:
        """Cleaned masks of every picture, at the size of its own mask."""
        config = self.config
        variables = self._freeze({"params": state.params, "batch_stats": state.batch_stats})
        size = {"batch_size": self._eval_batch_size, "image_size": config.data.image_size}
        rows = local_rows(self._eval_batch_size, self.mesh)
        for batch in fundus_batches.eval_batches(source, **size):
            images = put_batch(batch.images[rows], self.mesh)
            decoded = [fundus.decode_pair(record) for record in batch.records]
            for grid in {mask.shape for _, mask in decoded}:
                probabilities = to_host(self._probabilities(variables, images, grid))[: len(batch.records)]
                found = check_outputs("probabilities", probabilities) > config.eval.threshold
                for row, (record, (image, mask)) in enumerate(zip(batch.records, decoded, strict=True)):
                    if mask.shape == grid:
                        pred = np.stack([metrics.clean(found[row, ..., i]) for i in range(2)], axis=-1)
                        yield Predicted(record["name"], image, fundus.to_maps(mask), pred)

    def constant(self) -> np.ndarray:
        """Boolean ``[s, s, 2]``: where most training pictures have cup and disc; what any model has to beat."""
        side, total, count_of = self.config.data.image_size, 0, 0
        for source in self.train_sources.values():
            for index in range(len(source)):
                total = total + fundus.to_maps(fundus.decode_pair(source[index], side)[1]).astype(np.int32)
                count_of += 1
        return total * 2 > count_of

    def _watched_domains(self) -> list[int]:
        """Whose test pictures are looked at while training."""
        if self.config.eval.select == "reference":
            return [self.config.data.test_domain]
        return list(self.train_sources)

    def _forward(self, variables: Any, images: jax.Array, grid: tuple[int, int]) -> jax.Array:
        with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):  # told to operators that loop over the batch
            logits = self.model.apply(variables, normalize(images), train=False)
        if logits.shape[1:3] != grid:
            logits = jax.image.resize(logits, (len(logits), *grid, logits.shape[3]), "bilinear", antialias=False)
        return jax.nn.sigmoid(logits)


def train(config: ConfigDict, workdir: Path) -> None:
    """Trains from the newest checkpoint of the workdir, or from the beginning, and writes ``results.json``."""
    job = SegmentationJob(config)
    ended = run(job, workdir)
    state = job.selected(ended.state, workdir)
    found = [measure(one, config.eval) for one in job.predict(state, job.data.test[config.data.test_domain])]
    if not is_first():
        return
    write_results(
        workdir,
        found,
        config,
        constant=job.constant(),
        step=int(state.step),
        selection=SELECTIONS[config.eval.select],
        data=job.notes[0].removeprefix("data: "),
        backbone=job.backbone,
        model=job.model,
        images_per_second=ended.images_per_second,
    )
    shown = job.evidence(state)
    evidence.save(workdir, shown)
    write_report(workdir, config, shown)
    print_table(found, config, f"Domain {config.data.test_domain} after step {int(state.step)}")
    print(
        f"Everything is in {workdir}: report.html, results.json, scores.csv, pictures.png, metrics.jsonl, checkpoints/"
    )


def report(config: ConfigDict, workdir: Path) -> None:
    """Writes the report of a run that ended again."""
    found = evidence.load(workdir)
    if found is None:
        job = SegmentationJob(config)
        found = job.evidence(restore_last(job, workdir) if config.eval.select == "last" else restore_best(job, workdir))
        evidence.save(workdir, found)
    write_report(workdir, config, found)


def evaluate(config: ConfigDict, workdir: Path) -> None:
    """Measures the chosen checkpoint of a workdir and prints the table."""
    check_trained(workdir)
    job = SegmentationJob(config)
    state = restore_last(job, workdir) if config.eval.select == "last" else restore_best(job, workdir)
    found = [measure(one, config.eval) for one in job.predict(state, job.data.test[config.data.test_domain])]
    print_table(found, config, f"Domain {config.data.test_domain}, checkpoint of step {int(state.step)}")
