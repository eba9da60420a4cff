"""Face recognition: train embeddings with AM-Softmax, verify them on pairs of other people."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from tvconv_jax.data.augment import check_magnitudes
from tvconv_jax.data.faces import FaceData, load_faces
from tvconv_jax.data.formats.pairs import check_folds
from tvconv_jax.data.pipeline import steps_per_epoch, train_batches
from tvconv_jax.data.watchdog import WatchedBatches
from tvconv_jax.metrics.complexity import count
from tvconv_jax.metrics.verification import Verification, cosine_scores, ten_fold
from tvconv_jax.nn.freeze import freeze
from tvconv_jax.report.run import write_report
from tvconv_jax.tasks import report_data as evidence
from tvconv_jax.tasks.affinity import AffinityStart, deviation
from tvconv_jax.tasks.embedding import embed_all, make_embed
from tvconv_jax.tasks.face_head import Head, init_class_weights, make_head
from tvconv_jax.tasks.finetune import describe_frozen, freeze_matching, start_from
from tvconv_jax.tasks.forward import Forward, forward_of
from tvconv_jax.tasks.fresh import fresh_variables
from tvconv_jax.tasks.report_data import ReportData
from tvconv_jax.tasks.run import (
    TrainResult,
    check_choice,
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
from tvconv_jax.training.distributed import is_first
from tvconv_jax.training.logging import check_metric_names, command_line, device_description
from tvconv_jax.training.mesh import check_batch_size, eval_batch_size, local_rows, norm_groups, replicated
from tvconv_jax.training.state import TrainState, create_state
from tvconv_jax.training.step import LossFunction, TrainStep, make_train_step
from tvconv_jax.utils.environment import versions
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import write_json


class Compared(NamedTuple):
    """A verification set, measured.

    Attributes:
        result: What came out.
        cosines: Of every pair, ``[n]``.
    """

    result: Verification
    cosines: np.ndarray


def make_loss(forward: Forward, head: Head) -> LossFunction:
    """Mean loss of the head over a batch of ``image`` and ``label``; also the share of them recognized."""

    def loss(params: Any, batch_stats: Any, batch: Any, _: jax.Array) -> tuple:
        embeddings, batch_stats = forward(params["model"], batch_stats, normalize(batch["image"]))
        losses, recognized = head(embeddings, params["class_weights"], batch["label"])
        return jnp.mean(losses), (batch_stats, {"accuracy": jnp.mean(recognized, dtype=jnp.float32)})

    return loss


class FaceJob:
    """A face run put together from its config: data, model, step, evaluation.

    Args:
        config: As :func:`tvconv_jax.tasks.configs.face_config` makes it.
        data: What to train on; ``None``: what the config names.

    Raises:
        UserError: If something in the config or the data does not fit.
    """

    def __init__(self, config: ConfigDict, data: FaceData | None = None) -> None:
        self.config, self.mesh, self.batch_size = config, mesh_of(config), config.data.batch_size
        cut = {"parts": config.train.accumulate, "batch_norm": config.train.batch_norm}
        check_batch_size("data.batch_size", self.batch_size, self.mesh, **cut)
        eval_batch_size(config.eval.batch_size, self.mesh)  # refused now, not after the first epoch
        check_choice("eval.protocol", config.eval.protocol, ("standard", "reference"))
        check_choice("eval.channel_order", config.eval.channel_order, ("rgb", "bgr"))
        self.magnitudes = check_magnitudes(config.data.augment.to_dict())
        self.model = model_of(config)
        self.data = load_faces(config.data) if data is None else data
        self._affinity = AffinityStart(config, self.data.train)
        check_metric_names("verification set", self.data.verification)
        for name, (_, pairs) in self.data.verification.items():
            check_folds(pairs.same, pairs.folds, f"verification set {name}")
        self.steps_per_epoch = steps_per_epoch(self.data.train, config.data.batch_size)
        self.optimizer = freeze_matching(optimizer_of(config, self.steps_per_epoch), config.start.freeze)
        mirror = config.eval.protocol == "standard"
        self._embed = make_embed(self.model, mirror=mirror, channel_order=config.eval.channel_order)
        self._freeze = jax.jit(lambda variables: freeze(self.model, variables).variables)

    def init_state(self) -> TrainState:
        """The state before the first step."""
        config, variables = self.config, self._fresh_variables()
        _, head_key = jax.random.split(jax.random.key(config.seed))
        classes = self.data.num_classes
        weights = init_class_weights(head_key, config.model.embedding_size, classes, self.mesh)
        params = {"model": variables["params"], "class_weights": weights}
        return create_state(
            params, variables["batch_stats"], self.optimizer, config.seed, self.mesh, columns={"class_weights": classes}
        )

    def _fresh_variables(self) -> Any:
        model_key, _ = jax.random.split(jax.random.key(self.config.seed))
        return fresh_variables(self.model, model_key, self.config.data.image_size)

    def init_fn(self, state: TrainState, say: Callable[[str], None]) -> TrainState:
        """The fresh state with what ``config`` puts into it, and a word about it."""
        start = self.config.start
        state = state.replace(params=self._affinity.put(state.params))
        if start.checkpoint:
            state = start_from(start.checkpoint, state, self.model, say)
        if start.freeze:
            say(describe_frozen(state.params, start.freeze))
        return state

    def start(self) -> dict[str, Any] | None:
        """How far this job's fresh model is from depthwise convolutions; ``None`` if no kernel of it is generated."""
        if self.config.start.checkpoint:
            return None
        variables = jax.device_put(self._fresh_variables(), replicated(self.mesh))  # where a state lies: compiled once
        return deviation(self._freeze({**variables, "params": self._affinity.put(variables["params"])}))

    def verify(self, state: TrainState) -> dict[str, Verification]:
        """Result on every verification set, with the frozen model."""
        return {name: one.result for name, one in self.compare(state).items()}

    def compare(self, state: TrainState) -> dict[str, Compared]:
        """Results and scores on every verification set, with the frozen model."""
        variables = self._freeze({"params": state.params["model"], "batch_stats": state.batch_stats})
        results = {}
        for name, (source, pairs) in self.data.verification.items():
            embeddings = embed_all(self._embed, variables, source, self.config, self.mesh)
            left, right = embeddings[pairs.left], embeddings[pairs.right]
            result = ten_fold(left, right, pairs.same, pairs.folds, protocol=self.config.eval.protocol)
            results[name] = Compared(result, cosine_scores(left, right))
        return results

    def evidence(self, state: TrainState, compared: Mapping[str, Compared]) -> ReportData:
        """What the report shows of a state besides its results."""
        schedule = schedule_of(self.config, batch_size=self.batch_size, steps_per_epoch=self.steps_per_epoch)
        found = evidence.of_run(schedule, self.plan().total, state.params)
        return found._replace(
            cosines={name: one.cosines for name, one in compared.items()},
            same={name: self.data.verification[name][1].same for name in compared},
        )

    def train_step(self) -> TrainStep:
        """What takes a step."""
        config, loss = self.config, self.config.loss
        head = make_head(self.mesh, classes=self.data.num_classes, margin=loss.margin, scale=loss.scale)
        return make_train_step(
            make_loss(forward_of(config, self.model, self.mesh), head),
            self.optimizer,
            self.mesh,
            accumulate=config.train.accumulate,
            nan=config.train.nan,
        )

    def task(self) -> loop.Task:
        """The job as the training loop sees it."""
        config = self.config
        batches = train_batches(
            self.data.train,
            batch_size=config.data.batch_size,
            image_size=config.data.image_size,
            seed=config.seed,
            flip=config.data.flip,
            magnitudes=self.magnitudes,
            workers=config.data.workers,
            rows=local_rows(config.data.batch_size, self.mesh),
        )
        batches = WatchedBatches(batches, timeout=config.data.timeout, source=self.data.description)

        def evaluate(state: TrainState) -> dict[str, float]:
            accuracies = {name: result.accuracy for name, result in self.verify(state).items()}
            return {**accuracies, "score": float(np.mean(list(accuracies.values())))} if accuracies else {}

        return loop.Task(
            train_step=self.train_step(),
            batches=batches,
            evaluate=evaluate,
            name_of=self.data.train.name,
            data={"pictures": len(self.data.train), "identities": self.data.num_classes},
            norm_groups=norm_groups(config.train.batch_norm, self.mesh),
        )

    def plan(self) -> loop.Plan:
        """When the loop logs, saves and evaluates."""
        return plan_of(self.config, self.steps_per_epoch)

    @property
    def notes(self) -> list[str]:
        """What the person at the terminal should know before the first step."""
        lists = "there is no verification set (SET.bin, SET_pair.txt, pairs.txt): nothing is verified, the best "
        lists += "checkpoint is the newest"
        return [f"data: {self.data.description}", *self.data.notes, *([] if self.data.verification else [lists])]


def train(config: ConfigDict, workdir: Path) -> None:
    """Trains from the newest checkpoint of the workdir, or from the beginning, and writes ``results.json``."""
    job = FaceJob(config)
    ended = run(job, workdir, init_fn=job.init_fn)
    _report(job, ended, workdir)


def evaluate(config: ConfigDict, workdir: Path) -> None:
    """Verifies the best checkpoint of a workdir and prints the table."""
    check_trained(workdir)
    job = FaceJob(config)
    state = restore_best(job, workdir)
    how = f"protocol {config.eval.protocol}, {config.eval.channel_order.upper()}"
    _print_table(job.verify(state), f"Verification, best checkpoint (step {int(state.step)}), {how}")


def report(config: ConfigDict, workdir: Path) -> None:
    """Writes the report of a run that ended again; the worst pairs only where the data still lies where it lay."""
    found, sets = evidence.load(workdir), None
    if found is None:
        job = FaceJob(config)
        state, sets = restore_last(job, workdir), job.data.verification
        found = job.evidence(state, job.compare(state))
        evidence.save(workdir, found)
    else:
        with suppress(UserError):
            sets = load_faces(config.data).verification
    write_report(workdir, config, found, sets)


def _report(job: FaceJob, ended: TrainResult, workdir: Path) -> None:
    config, state, compared = job.config, ended.state, job.compare(ended.state)
    start = job.start()
    if not is_first():
        return
    results = {name: one.result for name, one in compared.items()}
    write_json(
        workdir / "results.json",
        {
            "step": int(state.step),
            "data": job.data.description,
            "notes": job.data.notes,
            "protocol": config.eval.protocol,
            "mean_accuracy": float(np.mean([result.accuracy for result in results.values()])) if results else None,
            "verification": {name: dataclasses.asdict(result) for name, result in results.items()},
            "best": ended.best._asdict(),
            "start": start,
            "complexity": count(job.model, (1, config.data.image_size, config.data.image_size, 3))._asdict(),
            "images_per_second": ended.images_per_second,
            "device": device_description(),
            "seed": config.seed,
            "command": command_line(),
            "versions": versions(),
        },
    )
    found = job.evidence(state, compared)
    evidence.save(workdir, found)
    write_report(workdir, config, found, job.data.verification)
    _print_table(results, f"Verification after step {int(state.step)} ({job.data.description})")
    print(f"Everything is in {workdir}: report.html, results.json, metrics.jsonl, tensorboard/, checkpoints/")


def _print_table(results: dict[str, Verification], title: str) -> None:
    print(title)
    table = Table()
    for column in ("set", "accuracy %", "std", "threshold", "TAR % at FAR 1e-3"):
        table.add_column(column, justify="left" if column == "set" else "right")
    for name, result in results.items():
        cells = (result.accuracy * 100, result.std * 100, result.threshold, result.tar * 100)
        table.add_row(name, *(f"{value:.2f}" for value in cells))
    if results:
        table.add_row("mean", f"{np.mean([result.accuracy for result in results.values()]) * 100:.2f}")
    Console(width=None if Console().is_terminal else 100).print(table)
