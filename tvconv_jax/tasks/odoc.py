"""Optic disc and cup: train on three clinics, test on the fourth, which the model never saw.

The segmentation job (:mod:`tvconv_jax.tasks.segmentation`) for the DoFE layout: two sigmoid maps, a threshold, masks
that are cleaned.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tvconv_jax.data import fundus, fundus_batches
from tvconv_jax.data.cache import cache_dir
from tvconv_jax.data.normalization import normalize
from tvconv_jax.metrics import segmentation as metrics
from tvconv_jax.tasks import evaluation
from tvconv_jax.tasks.evaluation import Measured, Predicted, dices, measure
from tvconv_jax.tasks.forward import Forward, check_choice
from tvconv_jax.tasks.keys import KEYS
from tvconv_jax.training.distributed import to_host
from tvconv_jax.training.mesh import local_rows, put_batch
from tvconv_jax.training.nonfinite import check_outputs
from tvconv_jax.training.step import LossFunction
from tvconv_jax.utils.errors import UserError

# eval.checkpoint: the state that is tested in the end, as results.json describes it.
SELECTIONS = {
    "last": "the last step",
    "held_out": "the best epoch on the test images of the training domains",
    "reference": "the best epoch on the test domain itself, as the reference selects: this flatters the result",
}


def make_loss(forward: Forward) -> LossFunction:
    """Return the mean binary cross entropy over the pixels of both maps; a batch holds ``image`` and ``mask``."""

    def loss(params: Any, batch_stats: Any, batch: Any, key: jax.Array) -> tuple:
        logits, batch_stats = forward(params, batch_stats, normalize(batch["image"]), dropout=key)
        true = jnp.stack([batch["mask"] == fundus.CUP, batch["mask"] != fundus.BACKGROUND], axis=-1)
        losses = optax.sigmoid_binary_cross_entropy(logits, true.astype(jnp.float32))
        return jnp.mean(losses), (batch_stats, {})

    return loss


class Odoc:
    """The part of a segmentation run for disc and cup of :func:`tvconv_jax.tasks.configs.odoc_config`."""

    batch_key = "data.per_domain times the training domains"
    metadata = MappingProxyType(
        {"task": "segmentation", "classes": list(evaluation.STRUCTURES), "activation": "sigmoid"}
    )

    def __init__(self, config: ConfigDict) -> None:
        """Check the config; nothing is read."""
        self.config = config
        check_choice("eval.checkpoint", config.eval.checkpoint, SELECTIONS)
        check_choice("eval.hd95", config.eval.hd95, metrics.DEFINITIONS)
        check_choice("eval.empty", config.eval.empty, metrics.EMPTY)
        check_choice("data.test_domain", config.data.test_domain, fundus.DOMAINS)
        check_choice("data.sampling", config.data.sampling, KEYS["data.sampling"].choices)
        check_choice("data.source", config.data.source, ("embedded", "folder"))
        check_choice("model.num_classes", config.model.num_classes, (2,))
        self.of_best = config.eval.checkpoint != "last"

    def load(self) -> None:
        """Read the data that the config names."""
        config = self.config
        if config.data.source == "folder":
            self.data = fundus.load_folder(config.data.root, cache_dir())
        else:
            self.data = fundus.load_embedded(config.data.size, cache_dir())
        self.train_sources = {d: s for d, s in self.data.train.items() if d != config.data.test_domain}
        self.train_names = fundus.names(self.train_sources)
        self.test_names = fundus.names({0: self.test})
        self.sizes = {f"pictures of domain {domain}": len(source) for domain, source in self.train_sources.items()}
        self.batch_size = config.data.per_domain * len(self.train_sources)

    def steps_per_epoch(self) -> int:
        """Return the steps of an epoch; check that a batch can be computed in parts."""
        parts = self.config.train.grad_accum_steps
        if parts % len(self.train_sources) == 0:  # domains are interleaved in a batch
            raise UserError(f"train.grad_accum_steps {parts} would give every part one domain alone; take 1, 2 or 4.")
        return fundus_batches.steps_per_epoch(self.train_sources, self.config.data.per_domain)

    @property
    def test(self) -> fundus.FundusSource:
        """Test images of the test domain."""
        return self.data.test[self.config.data.test_domain]

    @property
    def watched(self) -> Sequence[fundus.FundusSource]:
        """Images that are evaluated while training."""
        return [self.data.test[domain] for domain in self.watched_domains()]

    def watched_domains(self) -> Sequence[int]:
        """Return the domains whose test images are evaluated while training."""
        if self.config.eval.checkpoint == "reference":
            return [self.config.data.test_domain]
        return list(self.train_sources)

    @property
    def summary(self) -> str:
        """The data in a line."""
        domains = ", ".join(map(str, self.train_sources))
        return f"{self.data.description}; trained on {domains}, tested on {self.config.data.test_domain}"

    def optimizer(self, schedule: optax.Schedule, _: int) -> optax.GradientTransformation:
        """Return Adam, as the reference, with a learning rate by step."""
        return optax.adam(schedule, b1=self.config.optimizer.b1, b2=self.config.optimizer.b2)

    def batches(self, rows: np.ndarray) -> Any:
        """Return the training batches without end."""
        data = self.config.data
        return fundus_batches.train_batches(
            self.train_sources,
            per_domain=data.per_domain,
            image_size=data.image_size,
            seed=self.config.seed,
            sampling=data.sampling,
            scale_crop=data.scale_crop,
            workers=data.workers,
            rows=rows,
        )

    def loss(self, forward: Forward) -> LossFunction:
        """Return the loss of the model's forward pass."""
        return make_loss(forward)

    def outputs(self, logits: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """Return the probabilities of both maps at the size of the masks."""
        if logits.shape[1:3] != grid:
            logits = jax.image.resize(logits, (len(logits), *grid, logits.shape[3]), "bilinear", antialias=False)
        return jax.nn.sigmoid(logits)

    def predicted(
        self,
        outputs: Callable[[jax.Array, tuple[int, int]], jax.Array],
        source: fundus.FundusSource,
        mesh: Mesh,
        n: int,
    ) -> Iterator[Predicted]:
        """Yield the cleaned masks of every image, at the size of its own, by :meth:`outputs` for ``n`` images."""
        for batch in fundus_batches.eval_batches(source, batch_size=n, image_size=self.config.data.image_size):
            images = put_batch(batch.images[local_rows(n, mesh)], mesh)
            decoded = [fundus.decode_pair(record) for record in batch.records]
            for grid in {mask.shape for _, mask in decoded}:
                shares = to_host(outputs(images, grid))[: len(batch.records)]
                found = check_outputs("probabilities", shares) > self.config.eval.threshold
                for row, (record, (image, mask)) in enumerate(zip(batch.records, decoded, strict=True)):
                    if mask.shape == grid:
                        pred = np.stack([metrics.clean(found[row, ..., i]) for i in range(2)], axis=-1)
                        yield Predicted(record["name"], image, fundus.to_maps(mask), pred)

    def first_images(self) -> np.ndarray:
        """Return the first test images, ``uint8 [n, s, s, 3]``: eight, for 64 of 256x256 are slow to check."""
        size = {"batch_size": min(8, len(self.test)), "image_size": self.config.data.image_size}
        return next(fundus_batches.eval_batches(self.test, **size)).images

    def dice(self, predicted: Predicted) -> float:
        """Return the mean Dice of an image."""
        return float(np.mean(dices(predicted)))

    def scores(self, found: Iterator[Predicted]) -> dict[str, float]:
        """Return the numbers of an evaluation during training."""
        cup, disc = (float(value) for value in np.mean([dices(predicted) for predicted in found], axis=0))
        return {"cup_dice": cup, "disc_dice": disc, "score": (cup + disc) / 2}

    def measure(self, predicted: Predicted) -> Measured:
        """Return an image with all of its scores."""
        return measure(predicted, self.config.eval)

    def constant(self) -> np.ndarray:
        """Return the pixels where most training images have cup and disc, boolean ``[s, s, 2]``: a baseline."""
        size, total, images = self.config.data.image_size, 0, 0
        for source in self.train_sources.values():
            for index in range(len(source)):
                total = total + fundus.to_maps(fundus.decode_pair(source[index], size)[1]).astype(np.int32)
                images += 1
        return total * 2 > images

    def results(self, found: list[Measured], backbone: str) -> dict[str, Any]:
        """Return the part's own keys of ``results.json``."""
        config = self.config
        return {
            "selection": SELECTIONS[config.eval.checkpoint],
            "data": self.summary,
            "test_domain": config.data.test_domain,
            "operator": config.model.operator,
            "backbone": backbone,
            **evaluation.results_of(found, config.eval, self.constant()),
        }

    def recorded(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """Return what an artifact says of its accuracy, from ``results.json``."""
        return {"dice": {name: results[name]["dice"] for name in evaluation.STRUCTURES}}

    def write_files(self, workdir: Path, found: list[Measured]) -> None:
        """Write the scores of every image, and outlines to look at."""
        evaluation.write_csv(workdir / "scores.csv", found)
        if self.config.eval.num_images:
            evaluation.draw_outlines(workdir / "pictures.png", found, self.config.eval)

    def show(self, found: list[Measured], title: str) -> None:
        """Print the means."""
        evaluation.print_scores(found, self.config, f"Domain {self.config.data.test_domain}{title}")
