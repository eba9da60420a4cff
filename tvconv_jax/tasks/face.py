"""Verification of faces and other identities: train embeddings with AM-Softmax, verify them on pairs of others."""

import dataclasses
import functools
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from tvconv_jax.data.augment import check_magnitudes
from tvconv_jax.data.faces import FaceData, load_faces
from tvconv_jax.data.formats.pairs import check_folds
from tvconv_jax.data.pipeline import eval_batches, steps_per_epoch
from tvconv_jax.metrics.complexity import count
from tvconv_jax.metrics.paired import Comparison
from tvconv_jax.metrics.verification import Verification, correct_pairs, cosine_scores, pair_weights, ten_fold
from tvconv_jax.tasks import small_data
from tvconv_jax.tasks.affinity import AffinityInit, deviation
from tvconv_jax.tasks.face_model import init_class_weights, make_embed, make_head, make_loss
from tvconv_jax.tasks.finetune import describe_frozen, freeze_matching, start_from
from tvconv_jax.tasks.forward import Forward, check_choice
from tvconv_jax.tasks.fresh import fresh_variables
from tvconv_jax.tasks.keys import KEYS
from tvconv_jax.tasks.parts import model_of, optimizer_of
from tvconv_jax.tasks.report_data import ReportData
from tvconv_jax.tasks.run import Job
from tvconv_jax.tasks.trained import MAX_IMAGES, Accuracy, Embed
from tvconv_jax.training.distributed import is_first
from tvconv_jax.training.logging import check_metric_names
from tvconv_jax.training.loop import Best
from tvconv_jax.training.mesh import replicated
from tvconv_jax.training.state import TrainState, create_state
from tvconv_jax.training.step import LossFunction
from tvconv_jax.utils.console import make_table, print_table
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.sizes import height_width


class Compared(NamedTuple):
    """Results on a verification set, and the cosine of every pair, ``[n]``."""

    result: Verification
    cosines: np.ndarray


class FaceJob(Job):
    """A run of :func:`tvconv_jax.tasks.configs.face_config` or ``verification_config``, with data or what it names."""

    def __init__(self, config: ConfigDict, data: FaceData | None = None) -> None:
        super().__init__(config)
        self.batch_size = config.data.batch_size
        self.check_batch_size("data.batch_size")
        for key in ("protocol", "channel_order"):
            check_choice(f"eval.{key}", getattr(config.eval, key), KEYS[f"eval.{key}"].choices)
        magnitudes = check_magnitudes(config.data.augment.to_dict())
        self.augmentation = {"flip": config.data.flip, "magnitudes": magnitudes}
        self.model = model_of(config)
        self.data = load_faces(config.data, small_data.suffixes_of(config.task)) if data is None else data
        self.sets = self.data.verification
        self.sizes = {"pictures": len(self.data.train), "identities": self.data.num_classes}
        self._affinity = AffinityInit(config, self.data.train)
        check_metric_names("verification set", self.sets)
        for name, (_, pairs) in self.sets.items():
            check_folds(pairs.same, pairs.folds, f"verification set {name}")
        self.steps_per_epoch = steps_per_epoch(self.data.train, config.data.batch_size)
        optimizer = optimizer_of(config, batch_size=self.batch_size, steps_per_epoch=self.steps_per_epoch)
        self.optimizer = freeze_matching(optimizer, config.finetune.freeze)
        mirror = config.eval.get("mirror", config.eval.protocol == "standard")
        self._embed = make_embed(self.model, mirror=mirror, channel_order=config.eval.channel_order)

    @classmethod
    def prepare(cls, config: ConfigDict, workdir: Path, *, train: bool) -> ConfigDict:
        if train:
            return small_data.prepare(config, workdir, print if is_first() else lambda _: None)
        return small_data.resume_verified(config, workdir)

    def init_state(self) -> TrainState:
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

    def _start(self) -> dict[str, Any] | None:
        """Return the :func:`deviation` of the fresh model from depthwise convolutions; ``None`` if it has none."""
        if self.config.finetune.checkpoint:
            return None
        variables = jax.device_put(self._fresh_variables(), replicated(self.mesh))  # as a state's: compiled once
        return deviation(self.freeze({**variables, "params": self._affinity.put(variables["params"])}))

    def loss(self, forward: Forward) -> LossFunction:
        margin, scale = self.config.loss.margin, self.config.loss.scale
        return make_loss(forward, make_head(self.mesh, classes=self.data.num_classes, margin=margin, scale=scale))

    def scores(self, state: TrainState) -> dict[str, float]:
        accuracies = {name: compared.result.accuracy for name, compared in self.measure(state).items()}
        return {**accuracies, "score": _mean(accuracies)} if accuracies else {}

    def measure(self, state: TrainState) -> dict[str, Compared]:
        """Return results and scores on every verification set, with the frozen model."""
        embed = functools.partial(self._embed, self.freeze(self.variables(state)))
        return self._compare(embed, self.config.eval.protocol)

    def _compare(self, embed: Embed, protocol: str) -> dict[str, Compared]:
        results = {}
        for name, (source, pairs) in self.sets.items():
            embeddings = self.outputs("embeddings", embed, source)
            left, right = embeddings[pairs.left], embeddings[pairs.right]
            result = ten_fold(left, right, pairs.same, pairs.folds, protocol=protocol)
            results[name] = Compared(result, cosine_scores(left, right))
        return results

    def results(self, found: dict[str, Compared], state: TrainState, best: Best) -> dict[str, Any]:
        accuracies = {name: compared.result.accuracy for name, compared in found.items()}
        size = height_width(self.config.data.image_size)
        return {
            "step": int(state.step),
            "data": self.data.description,
            "notes": self.data.notes,
            "protocol": self.config.eval.protocol,
            "mean_accuracy": _mean(accuracies) if accuracies else None,
            "verification": {name: dataclasses.asdict(compared.result) for name, compared in found.items()},
            "best": best._asdict(),
            "start": self._start(),
            "complexity": count(self.model, (1, *size, 3))._asdict(),
        }

    def report_data(self, state: TrainState, found: dict[str, Compared] | None = None) -> ReportData:
        found = self.measure(state) if found is None else found
        cosines = {name: compared.cosines for name, compared in found.items()}
        return (
            super().report_data(state)._replace(cosines=cosines, same={name: self.sets[name][1].same for name in found})
        )

    @classmethod
    def load_sets(cls, config: ConfigDict) -> Any:
        with suppress(UserError):
            return load_faces(config.data, small_data.suffixes_of(config.task)).verification

    def show(self, found: dict[str, Compared], step: int, *, trained: bool) -> None:
        options = self.config.eval
        about = f"best checkpoint (step {step}), protocol {options.protocol}, {options.channel_order.upper()}"
        print(f"Verification after step {step} ({self.data.description})" if trained else f"Verification, {about}")
        if not found:
            print(f"Nothing was verified: there is no verification set; {small_data.pairs_hint(self.config.data)}")
            return
        table = make_table(("set", "accuracy %", "std", "threshold", "TAR % at FAR 1e-3"), left=["set"])
        for name, (result, _) in found.items():
            cells = (result.accuracy * 100, result.std * 100, result.threshold, result.tar * 100)
            table.add_row(name, *(f"{value:.2f}" for value in cells))
        table.add_row("mean", f"{np.mean([compared.result.accuracy for compared in found.values()]) * 100:.2f}")
        print_table(table, width=100)

    def artifact(self, workdir: Path, step: int) -> dict[str, Any]:
        source = next(iter(self.sets.values()), (self.data.train,))[0]
        size = min(MAX_IMAGES, len(source))
        (batch,) = eval_batches(source, batch_size=size, image_size=self.config.data.image_size, stop=size)

        def verify(embed: Embed) -> Accuracy:
            compared = self._compare(embed, "standard")
            sets = {name: one.result.accuracy for name, one in compared.items()}
            return Accuracy(_mean(sets), sets, float(np.mean([one.result.threshold for one in compared.values()])))

        verify, comparison = (verify, self._comparison()) if self.sets else (None, None)
        found = {"images": batch["image"], "verify": verify, "output": "embeddings", "results": {}}
        return found | {"comparison": comparison, "metadata": {"task": "verification"}}

    def _comparison(self) -> Comparison:
        pairs = [pairs for _, pairs in self.sets.values()]

        def scores(embed: Embed) -> np.ndarray:
            found = self._compare(embed, "standard").values()
            correct = [
                correct_pairs(one.cosines, of.same, of.folds, one.result.thresholds)
                for one, of in zip(found, pairs, strict=True)
            ]
            return np.concatenate(correct).astype(np.float64)

        weights = np.concatenate([pair_weights(of.folds) for of in pairs]) / len(pairs)
        return Comparison(scores, weights, "pairs", "accuracy", float(weights.max()))


def _mean(accuracies: dict[str, float]) -> float:
    return float(np.mean(list(accuracies.values())))


train, evaluate, report, trained = FaceJob.train, FaceJob.evaluate, FaceJob.report, FaceJob.trained
