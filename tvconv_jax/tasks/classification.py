"""Classification of images that share a layout: cross entropy, scores on test images, calibrated probabilities."""

import csv
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from tvconv_jax.data.augment import check_magnitudes
from tvconv_jax.data.cache import cache_dir
from tvconv_jax.data.classes import ClassData
from tvconv_jax.data.decoded import DecodedImages
from tvconv_jax.data.listing import printable
from tvconv_jax.data.normalization import normalize
from tvconv_jax.data.own_sets import load_data
from tvconv_jax.data.pipeline import eval_batches, steps_per_epoch
from tvconv_jax.metrics.classification import evaluate as evaluate_scores
from tvconv_jax.metrics.classification import fit_temperature
from tvconv_jax.metrics.complexity import count
from tvconv_jax.metrics.paired import Comparison
from tvconv_jax.tasks import class_defaults
from tvconv_jax.tasks.forward import Forward, check_choice
from tvconv_jax.tasks.fresh import fresh_variables
from tvconv_jax.tasks.parts import model_of, optimizer_of, set_sizes
from tvconv_jax.tasks.report_data import ReportData
from tvconv_jax.tasks.run import Job, restore
from tvconv_jax.tasks.trained import MAX_IMAGES, Accuracy, Embed
from tvconv_jax.training.distributed import is_first
from tvconv_jax.training.loop import Best, Plan
from tvconv_jax.training.state import TrainState, create_state
from tvconv_jax.training.step import LossFunction
from tvconv_jax.utils.console import make_table, print_table
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import parse_json, replacing
from tvconv_jax.utils.sizes import height_width

PREDICTIONS = "predictions.csv"
SHOWN = 20  # classes in the printed table


class Tested(NamedTuple):
    """Outputs on the test images and their scores."""

    logits: np.ndarray  # float64 [n, k]
    temperature: float
    scores: dict[str, Any]  # of metrics.classification.evaluate

    @property
    def probabilities(self) -> np.ndarray:
        """Softmax of the logits over the temperature, ``float64 [n, k]``."""
        return softmax(self.logits / self.temperature)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def class_weights(kind: str, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return a weight for every class, ``float32 [classes]``, with mean 1 over the images."""
    counts = np.bincount(labels, minlength=classes)
    balanced = len(labels) / (classes * np.maximum(counts, 1))
    return np.ones(classes, np.float32) if kind == "none" else balanced.astype(np.float32)


def make_loss(forward: Forward, weights: np.ndarray, *, label_smoothing: float) -> LossFunction:
    """Return the mean cross entropy over a batch of ``image`` and ``label``, with the metric ``accuracy``."""
    balanced = not np.all(weights == 1)

    def loss(params: Any, batch_stats: Any, batch: Any, _: jax.Array) -> tuple:
        logits, batch_stats = forward(params, batch_stats, normalize(batch["image"]))
        targets = optax.smooth_labels(jax.nn.one_hot(batch["label"], len(weights)), label_smoothing)
        losses = optax.softmax_cross_entropy(logits, targets)
        losses = losses * jnp.asarray(weights)[batch["label"]] if balanced else losses
        accuracy = jnp.mean(jnp.argmax(logits, axis=1) == batch["label"], dtype=jnp.float32)
        return jnp.mean(losses), (batch_stats, {"accuracy": accuracy})

    return loss


class ClassificationJob(Job):
    """A run of :func:`tvconv_jax.tasks.configs.classification_config`, with data in the place of those it names."""

    files = ("report.html", "results.json", PREDICTIONS, "metrics.jsonl", "tensorboard/", "checkpoints/")

    def __init__(self, config: ConfigDict, data: ClassData | None = None) -> None:
        super().__init__(config)
        self.batch_size = config.data.batch_size
        self.check_batch_size("data.batch_size")
        check_choice("eval.checkpoint", config.eval.checkpoint, ("last", "held_out"))
        magnitudes = check_magnitudes(config.data.augment.to_dict())
        self.augmentation = {"flip": config.data.flip, "magnitudes": magnitudes}
        self.model = model_of(config)
        self.data = load_data(config.data, cache_dir()) if data is None else data
        self.sets = {"test": self.data.test}
        self.results_of_best = self.eval_of_best = config.eval.checkpoint != "last"
        if self.results_of_best and self.data.validation is None:
            raise UserError("eval.checkpoint held_out needs validation images; set --config.data.validation_share=0.1.")
        self.sizes = set_sizes(len(self.data.train), self.data.classes)
        self.steps_per_epoch = steps_per_epoch(self.data.train, self.batch_size)
        self.optimizer = optimizer_of(config, batch_size=self.batch_size, steps_per_epoch=self.steps_per_epoch)
        self._logits = jax.jit(self._forward)

    def plan(self) -> Plan:
        """Return the intervals of the loop, evaluations equally far from each other."""
        plan = super().plan()
        return plan._replace(eval_every=math.ceil(plan.total / max(1, round(plan.total / plan.eval_every))))

    @classmethod
    def prepare(cls, config: ConfigDict, workdir: Path, *, train: bool) -> ConfigDict:
        return class_defaults.prepare(config, workdir, print if train and is_first() else lambda _: None)

    def init_state(self) -> TrainState:
        size = height_width(self.config.data.image_size)
        variables = fresh_variables(self.model, jax.random.key(self.config.seed), size)
        statistics = variables.get("batch_stats", {})  # a classifying MLP-Mixer has none
        return create_state(variables["params"], statistics, self.optimizer, self.config.seed, self.mesh)

    def loss(self, forward: Forward) -> LossFunction:
        loss = self.config.loss
        weights = class_weights(loss.class_weights, self.data.train.labels, len(self.data.classes))
        return make_loss(forward, weights, label_smoothing=loss.label_smoothing)

    def _forward(self, variables: Any, images: jax.Array) -> jax.Array:
        with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):  # for operators that loop over the batch
            return self.model.apply(variables, normalize(images), train=False)

    def logits(self, state: TrainState, source: DecodedImages) -> np.ndarray:
        """Return the logits of every image of a source, ``float64 [n, k]``, with the frozen model."""
        variables = self.freeze(self.variables(state))
        return self.outputs("logits", lambda images: self._logits(variables, images), source).astype(np.float64)

    def scores(self, state: TrainState) -> dict[str, float]:
        """Return accuracies on the validation images; without them on the test images, which then select nothing."""
        held = self.data.validation
        name, source = ("test", self.data.test) if held is None else ("validation", held)
        right = np.argmax(self.logits(state, source), axis=1) == source.labels
        balanced = float(np.mean([np.mean(right[source.labels == label]) for label in np.unique(source.labels)]))
        found = {f"{name}_accuracy": float(np.mean(right)), f"{name}_balanced_accuracy": balanced}
        return found if held is None else found | {"score": balanced}

    def measure(self, state: TrainState) -> Tested:
        temperature, logits = self.fitted_temperature(state), self.logits(state, self.data.test)
        options = {"groups": self.data.groups, "bootstrap": self.config.eval.bootstrap, "seed": self.config.seed}
        probabilities = softmax(logits / temperature)
        scores = evaluate_scores(probabilities, self.data.test.labels, self.data.classes, **options)
        return Tested(logits, temperature, scores)

    def fitted_temperature(self, state: TrainState) -> float:
        """Return the temperature that fits the validation images; 1 without them."""
        held = self.data.validation
        return 1.0 if held is None else fit_temperature(self.logits(state, held), held.labels)

    def results(self, found: Tested, state: TrainState, best: Best) -> dict[str, Any]:
        return {
            "step": int(state.step),
            "data": self.data.description,
            "notes": self.data.notes,
            "classes": self.data.classes,
            "temperature": found.temperature,
            "mean_accuracy": found.scores["accuracy"],
            "test": found.scores,
            "best": best._asdict(),
            "complexity": count(self.model, (1, *height_width(self.config.data.image_size), 3))._asdict(),
        }

    def report_data(self, state: TrainState, found: Tested | None = None) -> ReportData:
        found = found or self.measure(state)
        test = {"probabilities": found.probabilities, "labels": self.data.test.labels, "names": self.data.test.names}
        return super().report_data(state)._replace(test={name: np.array(values) for name, values in test.items()})

    @classmethod
    def load_sets(cls, config: ConfigDict) -> Any:
        with suppress(UserError):
            return {"test": load_data(config.data, cache_dir()).test}

    def write_files(self, workdir: Path, found: Tested) -> None:
        write_predictions(workdir / PREDICTIONS, self.data, found.probabilities)

    def show(self, found: Tested, step: int, *, trained: bool) -> None:
        state = "best checkpoint on the validation images" if self.eval_of_best else "checkpoint"
        print(f"Test images, {'after step' if trained else f'{state}, step'} {step} ({self.data.description})")
        print_scores(found.scores, found.temperature)

    def artifact(self, workdir: Path, step: int) -> dict[str, Any]:
        test = self.data.test
        size = min(MAX_IMAGES, len(test))
        (batch,) = eval_batches(test, batch_size=size, image_size=self.config.data.image_size, stop=size)

        def correct(logits: Embed) -> np.ndarray:
            found = self.outputs("logits", logits, test)
            return (np.argmax(found, axis=1) == test.labels).astype(np.float64)

        def verify(logits: Embed) -> Accuracy:
            accuracy = float(np.mean(correct(logits)))
            return Accuracy(accuracy, {"test": accuracy}, 0.0)

        weights = np.full(len(test), 1 / len(test))
        comparison = Comparison(correct, weights, "images", "accuracy", float(weights.max()))
        found = {"images": batch["image"], "verify": verify, "output": "logits", "results": {}}
        metadata = {"task": "classification", "classes": self.data.classes, "activation": "softmax"}
        metadata |= {"temperature": self._temperature(workdir, step)}
        return found | {"comparison": comparison, "metadata": metadata}

    def _temperature(self, workdir: Path, step: int) -> float:
        """Return the temperature of a checkpoint: recorded, or fitted again."""
        with suppress(OSError, ValueError, KeyError, TypeError):  # a run that has not ended
            recorded = parse_json((workdir / "results.json").read_text())
            if recorded["step"] == step:
                return float(recorded["temperature"])
        states = (restore(self, workdir, best=best) for best in (False, True))
        return self.fitted_temperature(next(state for state in states if int(state.step) == step))


def print_scores(scores: Mapping[str, Any], temperature: float) -> None:
    """Print the main scores with their intervals, and the recall of the worst classes."""
    table = make_table(("score", "value", "95 % interval"), left=["score"])
    for name, interval in scores["intervals"].items():
        factor, unit = (1, "") if name in ("log_loss", "auroc", "average_precision") else (100, " %")
        low_high = "-" if interval is None else " to ".join(f"{factor * value:.4g}" for value in interval) + unit
        value = "-" if scores[name] is None else f"{factor * scores[name]:.4g}{unit}"
        table.add_row(name.replace("_", " "), value, low_high)
    print_table(table, width=100)
    recalls = {name: found["recall"] for name, found in scores["per_class"].items() if found["recall"] is not None}
    worst = sorted(recalls, key=recalls.__getitem__)[:SHOWN]
    shown = ", ".join(f"{printable(name)} {100 * recalls[name]:.1f} %" for name in worst)
    print(f"Recall by class, the lowest first: {shown}{' ...' if len(recalls) > SHOWN else ''}")
    print(f"Temperature of the probabilities: {temperature:.3g}")


def write_predictions(path: Path, data: ClassData, probabilities: np.ndarray) -> None:
    """Write a row for every test image: name, class, predicted class, and the probability of every class."""
    with replacing(path) as part, part.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["name", "class", "predicted", *(f"p {name}" for name in data.classes)])
        for name, label, row in zip(data.test.names, data.test.labels, probabilities, strict=True):
            predicted = data.classes[int(np.argmax(row))]
            table.writerow([name, data.classes[label], predicted, *(f"{value:.6g}" for value in row)])


train, evaluate = ClassificationJob.train, ClassificationJob.evaluate
report, trained = ClassificationJob.report, ClassificationJob.trained
