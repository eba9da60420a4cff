"""Face recognition: train embeddings with AM-Softmax, verify them on pairs of other identities."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.table import Table

from tvconv_jax.data.augment import check_magnitudes
from tvconv_jax.data.faces import FaceData, load_faces
from tvconv_jax.data.formats.pairs import check_folds
from tvconv_jax.data.pipeline import eval_batches, steps_per_epoch, train_batches
from tvconv_jax.metrics.complexity import count
from tvconv_jax.metrics.verification import Verification, cosine_scores, ten_fold
from tvconv_jax.tasks import write_report
from tvconv_jax.tasks.affinity import AffinityInit, deviation
from tvconv_jax.tasks.face_model import Embed, embed_all, init_class_weights, make_embed, make_head, make_loss
from tvconv_jax.tasks.finetune import describe_frozen, freeze_matching, start_from
from tvconv_jax.tasks.fresh import fresh_variables
from tvconv_jax.tasks.parts import check_choice, model_of, optimizer_of
from tvconv_jax.tasks.report_data import ReportData
from tvconv_jax.tasks.run import (
    Job,
    check_trained,
    load_or_measure,
    print_files,
    restore_best,
    restore_last,
    run,
    write_results,
)
from tvconv_jax.tasks.trained import MAX_IMAGES, Accuracy, Trained, training_images
from tvconv_jax.training import loop
from tvconv_jax.training.distributed import is_first
from tvconv_jax.training.logging import check_metric_names
from tvconv_jax.training.mesh import local_rows, replicated
from tvconv_jax.training.state import TrainState, create_state
from tvconv_jax.training.step import TrainStep
from tvconv_jax.utils.console import print_table
from tvconv_jax.utils.errors import UserError


class Compared(NamedTuple):
    """Results on a verification set, and the cosine of every pair, ``[n]``."""

    result: Verification
    cosines: np.ndarray


class FaceJob(Job):
    """A face run put together from its config: data, model, step, evaluation.

    Args:
        config: Of :func:`tvconv_jax.tasks.configs.face_config`.
        data: Training and verification data; ``None``: those that the config names.

    Raises:
        UserError: If something in the config or the data does not fit.
    """

    def __init__(self, config: ConfigDict, data: FaceData | None = None) -> None:
        super().__init__(config)
        self.batch_size = config.data.batch_size
        self.check_batch_size("data.batch_size")
        check_choice("eval.protocol", config.eval.protocol, ("standard", "reference"))
        check_choice("eval.channel_order", config.eval.channel_order, ("rgb", "bgr"))
        self.magnitudes = check_magnitudes(config.data.augment.to_dict())
        self.model = model_of(config)
        self.data = load_faces(config.data) if data is None else data
        self._affinity = AffinityInit(config, self.data.train)
        check_metric_names("verification set", self.data.verification)
        for name, (_, pairs) in self.data.verification.items():
            check_folds(pairs.same, pairs.folds, f"verification set {name}")
        self.steps_per_epoch = steps_per_epoch(self.data.train, config.data.batch_size)
        self.optimizer = freeze_matching(optimizer_of(config, self.steps_per_epoch), config.finetune.freeze)
        mirror = config.eval.protocol == "standard"
        self._embed = make_embed(self.model, mirror=mirror, channel_order=config.eval.channel_order)

    def init_state(self) -> TrainState:
        """Return the state before the first step."""
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

    def init_fn(self, state: TrainState, log_fn: Callable[[str], None]) -> TrainState:
        """Return the fresh state with the affinity maps and weights that the config asks for, and print them."""
        finetune = self.config.finetune
        state = state.replace(params=self._affinity.put(state.params))
        if finetune.checkpoint:
            state = start_from(finetune.checkpoint, state, self.model, log_fn)
        if finetune.freeze:
            log_fn(describe_frozen(state.params, finetune.freeze))
        return state

    def start(self) -> dict[str, Any] | None:
        """Return the :func:`deviation` of the fresh model from depthwise convolutions; ``None`` if it has none."""
        if self.config.finetune.checkpoint:
            return None
        variables = jax.device_put(self._fresh_variables(), replicated(self.mesh))  # as a state's: compiled once
        return deviation(self.freeze({**variables, "params": self._affinity.put(variables["params"])}))

    def verify(self, state: TrainState) -> dict[str, Verification]:
        """Return the result on every verification set, with the frozen model."""
        return {name: compared.result for name, compared in self.compare(state).items()}

    def compare(self, state: TrainState) -> dict[str, Compared]:
        """Return results and scores on every verification set, with the frozen model."""
        variables = self.freeze({"params": state.params["model"], "batch_stats": state.batch_stats})
        return self.compare_embeddings(self._embed, variables, protocol=self.config.eval.protocol)

    def compare_embeddings(self, embed: Embed, variables: Any, *, protocol: str) -> dict[str, Compared]:
        """Return results and scores of an embedding function on every verification set."""
        results = {}
        for name, (source, pairs) in self.data.verification.items():
            embeddings = embed_all(embed, variables, source, self.config, self.mesh)
            left, right = embeddings[pairs.left], embeddings[pairs.right]
            result = ten_fold(left, right, pairs.same, pairs.folds, protocol=protocol)
            results[name] = Compared(result, cosine_scores(left, right))
        return results

    def report_data(self, state: TrainState, compared: Mapping[str, Compared]) -> ReportData:
        """Return what the report shows of a state besides its results."""
        return (
            super()
            .report_data(state)
            ._replace(
                cosines={name: of_set.cosines for name, of_set in compared.items()},
                same={name: self.data.verification[name][1].same for name in compared},
            )
        )

    def train_step(self) -> TrainStep:
        """Return the compiled step."""
        loss = self.config.loss
        head = make_head(self.mesh, classes=self.data.num_classes, margin=loss.margin, scale=loss.scale)
        return self.compile_step(make_loss(self.forward(), head))

    def task(self) -> loop.Task:
        """Return the job as the training loop sees it."""
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

        def evaluate(state: TrainState) -> dict[str, float]:
            accuracies = {name: result.accuracy for name, result in self.verify(state).items()}
            return {**accuracies, "score": float(np.mean(list(accuracies.values())))} if accuracies else {}

        sizes = {"pictures": len(self.data.train), "identities": self.data.num_classes}  # as checkpoints hold them
        train = self.data.train
        return self.loop_task(self.train_step(), batches, evaluate, train.name, sizes, self.data.description)

    @property
    def notes(self) -> list[str]:
        """Lines before the first step."""
        notes = [f"data: {self.data.description}", *self.data.notes]
        if not self.data.verification:
            notes.append(
                "there is no verification set (SET.bin, SET_pair.txt, pairs.txt): nothing is verified, the best "
                "checkpoint is the newest"
            )
        return notes


def train(config: ConfigDict, workdir: Path) -> None:
    """Train from the newest checkpoint of the workdir, or from the beginning, and write the results."""
    job = FaceJob(config)
    ended = run(job, workdir, init_fn=job.init_fn)
    state, compared, start = ended.state, job.compare(ended.state), job.start()
    if not is_first():
        return
    verification = {name: of_set.result for name, of_set in compared.items()}
    accuracies = [result.accuracy for result in verification.values()]
    results = {
        "step": int(state.step),
        "data": job.data.description,
        "notes": job.data.notes,
        "protocol": config.eval.protocol,
        "mean_accuracy": float(np.mean(accuracies)) if accuracies else None,
        "verification": {name: dataclasses.asdict(result) for name, result in verification.items()},
        "best": ended.best._asdict(),
        "start": start,
        "complexity": count(job.model, (1, config.data.image_size, config.data.image_size, 3))._asdict(),
    }
    write_results(job, ended, workdir, results, job.report_data(state, compared), job.data.verification)
    _print_table(verification, f"Verification after step {int(state.step)} ({job.data.description})")
    print_files(workdir, ("report.html", "results.json", "metrics.jsonl", "tensorboard/", "checkpoints/"))


def evaluate(config: ConfigDict, workdir: Path) -> None:
    """Verify the best checkpoint of a workdir and print the table."""
    check_trained(workdir)
    job = FaceJob(config)
    state = restore_best(job, workdir)
    how = f"protocol {config.eval.protocol}, {config.eval.channel_order.upper()}"
    _print_table(job.verify(state), f"Verification, best checkpoint (step {int(state.step)}), {how}")


def report(config: ConfigDict, workdir: Path) -> None:
    """Write the report of a run that ended again; the worst pairs only if its data is still there."""
    data, sets = load_or_measure(workdir, lambda: _measure(config, workdir)), None
    with suppress(UserError):
        sets = load_faces(config.data).verification
    write_report(workdir, config, data, sets)


def trained(config: ConfigDict, workdir: Path, *, best: bool) -> Trained:
    """Return a trained run; its accuracy is that of single embeddings."""
    check_trained(workdir)
    job = FaceJob(config)
    state = (restore_best if best else restore_last)(job, workdir)
    source = next(iter(job.data.verification.values()), (job.data.train,))[0]
    count = min(MAX_IMAGES, len(source))
    (batch,) = eval_batches(source, batch_size=count, image_size=config.data.image_size, stop=count)

    def verify(embed: Callable[[jax.Array], jax.Array]) -> Accuracy:
        compared = job.compare_embeddings(lambda _, images: embed(images), None, protocol="standard")
        sets = {name: one.result.accuracy for name, one in compared.items()}
        thresholds = [one.result.threshold for one in compared.values()]
        return Accuracy(float(np.mean(list(sets.values()))), sets, float(np.mean(thresholds)))

    return Trained(
        config,
        job.model,
        {"params": state.params["model"], "batch_stats": state.batch_stats},
        int(state.step),
        batch["image"],
        lambda: training_images(job),
        verify if job.data.verification else None,
        "embeddings",
        {},
    )


def _measure(config: ConfigDict, workdir: Path) -> ReportData:
    job = FaceJob(config)
    state = restore_last(job, workdir)
    return job.report_data(state, job.compare(state))


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
    print_table(table, width=100)
