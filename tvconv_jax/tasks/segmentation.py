"""Optic disc and cup: train on three clinics, test on the fourth, which the model never saw."""

import functools
from collections.abc import Callable, Iterator, Sequence
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
from tvconv_jax.data.normalization import normalize
from tvconv_jax.metrics import segmentation as metrics
from tvconv_jax.metrics.complexity import count
from tvconv_jax.metrics.paired import Comparison
from tvconv_jax.tasks import evaluation
from tvconv_jax.tasks.evaluation import Measured, Predicted, dices, measure
from tvconv_jax.tasks.fresh import fresh_variables
from tvconv_jax.tasks.keys import KEYS
from tvconv_jax.tasks.parts import Forward, check_choice, model_of
from tvconv_jax.tasks.run import Job
from tvconv_jax.tasks.trained import Embed
from tvconv_jax.training import loop
from tvconv_jax.training.distributed import to_host
from tvconv_jax.training.mesh import local_rows, put_batch
from tvconv_jax.training.nonfinite import check_outputs
from tvconv_jax.training.state import TrainState, create_state
from tvconv_jax.training.step import LossFunction
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import parse_json, user_path

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


class SegmentationJob(Job):
    """A run of :func:`tvconv_jax.tasks.configs.odoc_config`."""

    files = ("report.html", "results.json", "scores.csv", "pictures.png", "metrics.jsonl", "checkpoints/")

    def __init__(self, config: ConfigDict) -> None:
        super().__init__(config)
        check_choice("eval.checkpoint", config.eval.checkpoint, SELECTIONS)
        check_choice("eval.hd95", config.eval.hd95, metrics.DEFINITIONS)
        check_choice("eval.empty", config.eval.empty, metrics.EMPTY)
        check_choice("data.test_domain", config.data.test_domain, fundus.DOMAINS)
        check_choice("data.sampling", config.data.sampling, KEYS["data.sampling"].choices)
        check_choice("data.source", config.data.source, ("embedded", "folder"))
        check_choice("model.num_classes", config.model.num_classes, (2,))
        self.model, self._pretrained = model_of(config), None
        self.results_of_best = self.eval_of_best = config.eval.checkpoint != "last"
        if config.model.pretrained:
            self._pretrained = read_torch_checkpoint(user_path(config.model.pretrained))
            if (depth := config.model.depth) != 1:
                raise UserError(f"model.pretrained is of depth 1, model.depth is {depth}; set --config.model.depth=1.")
        if config.data.source == "folder":
            self.data = fundus.load_folder(config.data.root, cache_dir())
        else:
            self.data = fundus.load_embedded(config.data.size, cache_dir())
        self.train_sources = {d: s for d, s in self.data.train.items() if d != config.data.test_domain}
        self.name_of = fundus.names(self.train_sources).__getitem__
        self.sizes = {f"pictures of domain {domain}": len(source) for domain, source in self.train_sources.items()}
        tested = fundus.names({0: self.test_source})
        for name in filter(None, config.eval.visualize.split(",")):  # "Domain4/000.png,Domain4/007.png"
            check_choice("eval.visualize", name, tested)
        self.batch_size, parts = config.data.per_domain * len(self.train_sources), config.train.grad_accum_steps
        self.check_batch_size("data.per_domain times the training domains")
        if parts % len(self.train_sources) == 0:  # domains are interleaved in a batch
            raise UserError(f"train.grad_accum_steps {parts} would give every part one domain alone; take 1, 2 or 4.")
        self.steps_per_epoch = fundus_batches.steps_per_epoch(self.train_sources, config.data.per_domain)
        self.optimizer = optax.adam(self.schedule(), b1=config.optimizer.b1, b2=config.optimizer.b2)
        self._probabilities = jax.jit(self._forward, static_argnums=2)

    @property
    def test_source(self) -> fundus.FundusSource:
        """Test images of the test domain."""
        return self.data.test[self.config.data.test_domain]

    @property
    def notes(self) -> list[str]:
        return [
            f"data: {self.data.description}; trained on {', '.join(map(str, self.train_sources))}, tested on "
            f"{self.config.data.test_domain}",
            f"backbone: {self.backbone}",
            *self.data.notes,
        ]

    @property
    def backbone(self) -> str:
        return f"weights of {self.config.model.pretrained}" if self.config.model.pretrained else "from scratch"

    def init_state(self) -> TrainState:
        variables = fresh_variables(self.model, jax.random.key(self.config.seed), self.config.data.image_size)
        if self._pretrained is not None:
            variables = backbone_from_torchvision(self._pretrained, variables)
        return create_state(variables["params"], variables["batch_stats"], self.optimizer, self.config.seed, self.mesh)

    def batches(self) -> Iterator[dict[str, np.ndarray]]:
        data = self.config.data
        return fundus_batches.train_batches(
            self.train_sources,
            per_domain=data.per_domain,
            image_size=data.image_size,
            seed=self.config.seed,
            sampling=data.sampling,
            scale_crop=data.scale_crop,
            workers=data.workers,
            rows=local_rows(self.batch_size, self.mesh),
        )

    def loss(self, forward: Forward) -> LossFunction:
        return make_loss(forward)

    def scores(self, state: TrainState) -> dict[str, float]:
        watched = [self.data.test[domain] for domain in self._watched_domains()]
        found = [dices(predicted) for source in watched for predicted in self.predict(state, source)]
        cup, disc = (float(value) for value in np.mean(found, axis=0))
        return {"cup_dice": cup, "disc_dice": disc, "score": (cup + disc) / 2}

    def predict(self, state: TrainState, source: fundus.FundusSource) -> Iterator[Predicted]:
        """Yield cleaned masks of every image, at the size of its own mask."""
        return self._predicted(functools.partial(self._probabilities, self.freeze(self.variables(state))), source)

    def _predicted(
        self, probabilities: Callable[[jax.Array, tuple[int, int]], jax.Array], source: fundus.FundusSource
    ) -> Iterator[Predicted]:
        """Yield the masks of a function of images and of the size of the masks."""
        config = self.config
        size = {"batch_size": self.eval_batch_size, "image_size": config.data.image_size}
        rows = local_rows(self.eval_batch_size, self.mesh)
        for batch in fundus_batches.eval_batches(source, **size):
            images = put_batch(batch.images[rows], self.mesh)
            decoded = [fundus.decode_pair(record) for record in batch.records]
            for grid in {mask.shape for _, mask in decoded}:
                shares = to_host(probabilities(images, grid))[: len(batch.records)]
                found = check_outputs("probabilities", shares) > config.eval.threshold
                for row, (record, (image, mask)) in enumerate(zip(batch.records, decoded, strict=True)):
                    if mask.shape == grid:
                        pred = np.stack([metrics.clean(found[row, ..., i]) for i in range(2)], axis=-1)
                        yield Predicted(record["name"], image, fundus.to_maps(mask), pred)

    def measure(self, state: TrainState) -> list[Measured]:
        """Return the test images of the test domain with their scores."""
        return [measure(predicted, self.config.eval) for predicted in self.predict(state, self.test_source)]

    def constant(self) -> np.ndarray:
        """Return the pixels where most training images have cup and disc, boolean ``[s, s, 2]``: a baseline."""
        size, total, images = self.config.data.image_size, 0, 0
        for source in self.train_sources.values():
            for index in range(len(source)):
                total = total + fundus.to_maps(fundus.decode_pair(source[index], size)[1]).astype(np.int32)
                images += 1
        return total * 2 > images

    def _watched_domains(self) -> Sequence[int]:
        """Return the domains whose test images are evaluated while training."""
        if self.config.eval.checkpoint == "reference":
            return [self.config.data.test_domain]
        return list(self.train_sources)

    def _forward(self, variables: Any, images: jax.Array, grid: tuple[int, int]) -> jax.Array:
        with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):  # for operators that loop over the batch
            logits = self.model.apply(variables, normalize(images), train=False)
        return _probabilities(logits, grid)

    def results(self, found: list[Measured], state: TrainState, _: loop.Best) -> dict[str, Any]:
        config, size = self.config, self.config.data.image_size
        return {
            "step": int(state.step),
            "selection": SELECTIONS[config.eval.checkpoint],
            "data": self.notes[0].removeprefix("data: "),
            "test_domain": config.data.test_domain,
            "operator": config.model.operator,
            "backbone": self.backbone,
            **evaluation.results_of(found, config.eval, self.constant()),
            "complexity": count(self.model, (1, size, size, 3))._asdict(),
        }

    def write_files(self, workdir: Path, found: list[Measured]) -> None:
        evaluation.write_csv(workdir / "scores.csv", found)
        if self.config.eval.num_images:
            evaluation.draw_outlines(workdir / "pictures.png", found, self.config.eval)

    def show(self, found: list[Measured], step: int, *, trained: bool) -> None:
        title = f" after step {step}" if trained else f", checkpoint of step {step}"
        evaluation.print_scores(found, self.config, f"Domain {self.config.data.test_domain}{title}")

    def artifact(self, workdir: Path, step: int) -> dict[str, Any]:
        # 64 images of 256x256 are slow to check
        size = {"batch_size": min(8, len(self.test_source)), "image_size": self.config.data.image_size}
        images = next(fundus_batches.eval_batches(self.test_source, **size)).images
        found = {"images": images, "verify": None, "output": "logits", "results": _recorded_dice(workdir, step)}
        return found | {"comparison": self._comparison()}

    def _comparison(self) -> Comparison:
        probabilities = jax.jit(_probabilities, static_argnums=1)

        def scores(logits: Embed) -> np.ndarray:
            found = self._predicted(lambda images, grid: probabilities(logits(images), grid), self.test_source)
            return np.array([np.mean(dices(predicted)) for predicted in found])

        count = len(self.test_source)
        return Comparison(scores, np.full(count, 1 / count), "images", "Dice", 0.0)


def _probabilities(logits: jax.Array, grid: tuple[int, int]) -> jax.Array:
    if logits.shape[1:3] != grid:
        logits = jax.image.resize(logits, (len(logits), *grid, logits.shape[3]), "bilinear", antialias=False)
    return jax.nn.sigmoid(logits)


def _recorded_dice(workdir: Path, step: int) -> dict[str, Any]:
    try:
        results = parse_json((workdir / "results.json").read_text())
        dice = {name: results[name]["dice"] for name in evaluation.STRUCTURES}
        return {"dice": dice} if results["step"] == step else {}
    except (OSError, ValueError, KeyError, TypeError):  # a run that has not ended
        return {}


train, evaluate = SegmentationJob.train, SegmentationJob.evaluate
report, trained = SegmentationJob.report, SegmentationJob.trained
