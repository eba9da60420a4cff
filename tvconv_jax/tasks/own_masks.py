"""Images with masks of one's own: a softmax over any classes, scores by class.

The part of the segmentation job (:mod:`tvconv_jax.tasks.segmentation`) for :mod:`tvconv_jax.data.masks`.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tvconv_jax.data.augment import check_magnitudes
from tvconv_jax.data.cache import cache_dir
from tvconv_jax.data.mask_classes import IGNORE
from tvconv_jax.data.mask_files import MaskFile
from tvconv_jax.data.masks import MaskSet, decode_pair, resize_image, training_images
from tvconv_jax.data.normalization import normalize
from tvconv_jax.data.own_sets import open_set
from tvconv_jax.data.pipeline import mask_batches, steps_per_epoch
from tvconv_jax.metrics import segmentation as metrics
from tvconv_jax.metrics.label_maps import summarize
from tvconv_jax.tasks import mask_results
from tvconv_jax.tasks.forward import Forward, check_choice
from tvconv_jax.tasks.mask_results import MaskScores, Prediction
from tvconv_jax.tasks.parts import optimizer_of, set_sizes
from tvconv_jax.training.distributed import to_host
from tvconv_jax.training.mesh import local_rows, put_batch
from tvconv_jax.training.nonfinite import check_outputs
from tvconv_jax.training.step import LossFunction
from tvconv_jax.utils.sizes import height_width

MAX_IMAGES = 16  # on which artifacts are checked
SHOWN = 8  # classes with a curve in the report


class RunData(NamedTuple):
    """The set of a run as reports and errors name it."""

    description: str
    notes: list[str]


def class_weights(kind: str, shares: np.ndarray) -> np.ndarray:
    """Return the weight of every class, ``float32 [k]``; balanced, classes weigh the same whatever their pixels."""
    return (np.ones(len(shares)) if kind == "none" else 1 / (len(shares) * shares)).astype(np.float32)


def make_loss(forward: Forward, weights: np.ndarray) -> LossFunction:
    """Return the weighted mean cross entropy over the pixels that belong to a class; a batch holds image and mask."""

    def loss(params: Any, batch_stats: Any, batch: Any, key: jax.Array) -> tuple:
        logits, batch_stats = forward(params, batch_stats, normalize(batch["image"]), dropout=key)
        counted = batch["mask"] != IGNORE
        labels = jnp.where(counted, batch["mask"], 0).astype(jnp.int32)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        pixels = jnp.where(counted, jnp.asarray(weights)[labels], 0.0)
        return jnp.sum(losses * pixels) / jnp.maximum(jnp.sum(pixels), 1e-6), (batch_stats, {})

    return loss


class OwnMasks:
    """The part of a segmentation run of :func:`tvconv_jax.tasks.configs.segmentation_config`."""

    batch_key = "data.batch_size"
    of_best = False

    def __init__(self, config: ConfigDict) -> None:
        """Check the config; nothing is read."""
        self.config, self.image_size = config, height_width(config.data.image_size)
        check_choice("eval.hd95", config.eval.hd95, metrics.DEFINITIONS)
        check_choice("eval.empty", config.eval.empty, metrics.EMPTY)
        check_choice("data.source", config.data.source, ("embedded", "folder"))
        check_choice("loss.class_weights", config.loss.class_weights, ("none", "balanced"))
        magnitudes = check_magnitudes(config.data.augment.to_dict())
        self._augmentation = {"flip": config.data.flip, "magnitudes": magnitudes}
        self.batch_size = config.data.batch_size

    def load(self, data: tuple[MaskSet, Any] | None = None) -> None:
        """Read the data that the config names, unless it is given: a set, and its training images."""
        if data is None:
            found = open_set(self.config.data, cache_dir())
            data = found, training_images(found, self.image_size, cache_dir())
        self.set, self.train = data
        self.test = self.set.of(test=True)
        self.train_names, self.test_names = [file.name for file in self.set.of(test=False)], [f.name for f in self.test]
        self.sizes = set_sizes(len(self.train), self.classes)
        embedded = self.config.data.source == "embedded"
        title = "embedded boards (synthetic, drawn by tvconv_jax)" if embedded else str(self.config.data.root)
        notes = self.set.notes[:1] if embedded else self.set.notes
        self.data = RunData(f"{title} ({len(self.train)}+{len(self.test)} images, {len(self.classes)} classes)", notes)

    def steps_per_epoch(self) -> int:
        """Return the whole batches of an epoch."""
        return steps_per_epoch(self.train, self.batch_size)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.set.classes.names

    @property
    def foreground(self) -> list[int]:
        """Labels of the classes over which means are taken."""
        return self.set.classes.foreground

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Keys of an artifact about its outputs."""
        background = self.set.classes.background
        return {
            "task": "segmentation",
            "classes": list(self.classes),
            "activation": "softmax",
            "background": None if background is None else self.classes[background],
            "mask_values": self.set.classes.values,
        }

    @property
    def watched(self) -> list[list[MaskFile]]:
        """Images that are evaluated while training: they select nothing."""
        return [self.test]

    @property
    def summary(self) -> str:
        """The data in a line."""
        return self.data.description

    def optimizer(self, _: optax.Schedule, steps_per_epoch: int) -> optax.GradientTransformation:
        """Return the optimizer of ``optimizer.name``, with warm-up and cosine."""
        return optimizer_of(self.config, batch_size=self.batch_size, steps_per_epoch=steps_per_epoch)

    def batches(self, rows: np.ndarray) -> Any:
        """Return the training batches without end."""
        options = {"seed": self.config.seed, "workers": self.config.data.workers, "rows": rows, **self._augmentation}
        size = {"batch_size": self.batch_size, "image_size": self.image_size}
        return mask_batches(self.train, **size, **options)

    def loss(self, forward: Forward) -> LossFunction:
        """Return the loss of the model's forward pass."""
        return make_loss(forward, class_weights(self.config.loss.class_weights, self.set.shares))

    def outputs(self, logits: jax.Array, _: None) -> jax.Array:
        """Return the logits as they are: masks of many sizes are resized on the host."""
        return logits

    def predicted(
        self, outputs: Callable[[jax.Array, None], jax.Array], source: list[MaskFile], mesh: Mesh, n: int
    ) -> Iterator[Prediction]:
        """Yield the labels of every image, at the size of its mask, by :meth:`outputs` for ``n`` images."""
        for start in range(0, len(source), n):
            files = source[start : start + n]
            decoded = [decode_pair(file, self.set.classes) for file in files]
            images = np.zeros((n, *self.image_size, 3), np.uint8)
            for row, (image, _) in enumerate(decoded):
                images[row] = resize_image(image, self.image_size)
            logits = to_host(outputs(put_batch(images[local_rows(n, mesh)], mesh), None))[: len(files)]
            logits = check_outputs("logits", logits)
            for file, (_, true), row in zip(files, decoded, logits, strict=True):
                yield Prediction(file, true, labels_at(row, true.shape))

    def first_images(self) -> np.ndarray:
        """Return the first test images, ``uint8 [n, h, w, 3]``."""
        files = self.test[:MAX_IMAGES]
        return np.stack([resize_image(decode_pair(file, self.set.classes)[0], self.image_size) for file in files])

    def dice(self, predicted: Prediction) -> float:
        """Return the mean Dice of an image over the foreground classes in it; 1 if it and its prediction have none."""
        found = mask_results.scores_of(predicted, self.set.classes, distances=False)[self.foreground, 0]
        return float(np.mean(found[~np.isnan(found)])) if np.any(~np.isnan(found)) else 1.0

    def scores(self, found: Iterator[Prediction]) -> dict[str, float]:
        """Return the mean Dice over the test images during training, and that of the first classes."""
        rows = [mask_results.scores_of(predicted, self.set.classes, distances=False) for predicted in found]
        result = summarize(np.stack(rows), self.classes, self.foreground, bootstrap=0)
        by_class = {f"dice {self.classes[i]}": result["per_class"][self.classes[i]] for i in self.foreground[:SHOWN]}
        values = {"dice": result["mean"]["dice"]} | {name: row["dice"] for name, row in by_class.items()}
        return {name: value for name, value in values.items() if value is not None}

    def measure(self, predicted: Prediction) -> MaskScores:
        """Return the scores of an image."""
        return mask_results.measure(predicted, self.set.classes, self.constant, self.config.eval)

    @functools.cached_property
    def constant(self) -> np.ndarray:
        """Labels that most training masks have at each pixel, ``uint8 [h, w]``: a baseline."""
        counts = np.zeros((len(self.classes), *self.image_size), np.int32)
        for index in range(len(self.train)):
            mask = self.train[index][1]
            for label in range(len(self.classes)):
                counts[label] += mask == label
        return np.argmax(counts, axis=0).astype(np.uint8)

    def results(self, found: list[MaskScores], backbone: str) -> dict[str, Any]:
        """Return the part's own keys of ``results.json``."""
        about = {"data": self.summary, "notes": self.data.notes, "operator": self.config.model.operator}
        named = {"selection": "the last step", "backbone": backbone, "classes": list(self.classes)}
        return {**named, **about, **mask_results.results_of(found, self.set.classes, self.config)}

    def recorded(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """Return what an artifact says of its accuracy, from ``results.json``."""
        return {"dice": {name: results["per_class"][name]["dice"] for name in self.classes}}

    def write_files(self, workdir: Path, found: list[MaskScores]) -> None:
        """Write the scores of every image, and outlines to look at."""
        mask_results.write_csv(workdir / "scores.csv", found, self.classes)
        if self.config.eval.num_images:
            mask_results.draw_outlines(workdir / "pictures.png", found, self.set.classes, self.config.eval)

    def show(self, found: list[MaskScores], title: str) -> None:
        """Print the scores."""
        mask_results.print_scores(found, self.set.classes, self.config, f"Test images{title}")


def labels_at(logits: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the class of the largest logit, ``uint8``, once logits ``[h, w, k]`` are resized bilinearly to a shape."""
    for axis, length in enumerate(shape):
        if logits.shape[axis] != length:
            logits = np.moveaxis(np.tensordot(_interpolation(logits.shape[axis], length), logits, (1, axis)), 0, axis)
    return np.argmax(logits, axis=-1).astype(np.uint8)


def _interpolation(length: int, to: int) -> np.ndarray:
    """Return the weights ``float32 [to, length]`` of a linear interpolation between the centers of pixels."""
    at = np.clip((np.arange(to) + 0.5) * (length / to) - 0.5, 0, length - 1)
    return np.maximum(1 - np.abs(at[:, None] - np.arange(length)), 0).astype(np.float32)
