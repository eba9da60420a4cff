"""Segmentation: one job for images with masks of one's own, and for the optic disc and cup of four clinics.

What differs stands in the part of the run: :class:`tvconv_jax.tasks.own_masks.OwnMasks` (a softmax over any classes),
or :class:`tvconv_jax.tasks.odoc.Odoc` (two sigmoid maps, four domains).
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from tvconv_jax.convert.torch_checkpoint import read_torch_checkpoint
from tvconv_jax.convert.torchvision import backbone_from_torchvision
from tvconv_jax.data.normalization import normalize
from tvconv_jax.metrics.complexity import count
from tvconv_jax.metrics.paired import Comparison
from tvconv_jax.tasks import mask_defaults
from tvconv_jax.tasks.forward import Forward, check_choice
from tvconv_jax.tasks.fresh import fresh_variables
from tvconv_jax.tasks.odoc import SELECTIONS, Odoc, make_loss
from tvconv_jax.tasks.own_masks import OwnMasks
from tvconv_jax.tasks.parts import model_of
from tvconv_jax.tasks.run import Job
from tvconv_jax.tasks.trained import Embed
from tvconv_jax.training import loop
from tvconv_jax.training.distributed import is_first
from tvconv_jax.training.mesh import local_rows
from tvconv_jax.training.state import TrainState, create_state
from tvconv_jax.training.step import LossFunction
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import parse_json, user_path
from tvconv_jax.utils.sizes import height_width

__all__ = ["SELECTIONS", "SegmentationJob", "evaluate", "make_loss", "report", "train", "trained"]


def is_odoc(config: ConfigDict) -> bool:
    """Return whether a config of this task is of disc and cup, the only one with domains."""
    return hasattr(config.data, "test_domain")


class SegmentationJob(Job):
    """A run of :func:`tvconv_jax.tasks.configs.segmentation_config` or :func:`tvconv_jax.tasks.configs.odoc_config`."""

    files = ("report.html", "results.json", "scores.csv", "pictures.png", "metrics.jsonl", "checkpoints/")

    def __init__(self, config: ConfigDict, data: Any = None) -> None:
        """Put a run together; ``data`` is for :meth:`OwnMasks.load`, in the place of what the config names."""
        super().__init__(config)
        self.part = part = (Odoc if is_odoc(config) else OwnMasks)(config)
        self.model, self._pretrained = model_of(config), None
        self.results_of_best = self.eval_of_best = part.of_best
        if config.model.pretrained:
            self._pretrained = read_torch_checkpoint(user_path(config.model.pretrained))
            for key, value in (("depth", config.model.depth), ("width", getattr(config.model, "width", 1.0))):
                if value != 1:
                    raise UserError(
                        f"model.pretrained is of {key} 1, model.{key} is {value}; set --config.model.{key}=1."
                    )
        part.load(*([] if data is None else [data]))
        self.data, self.sizes, self.name_of = part.data, part.sizes, part.train_names.__getitem__
        for name in filter(None, config.eval.visualize.split(",")):  # "Domain4/000.png,Domain4/007.png"
            check_choice("eval.visualize", name, part.test_names)
        self.batch_size = part.batch_size
        self.check_batch_size(part.batch_key)
        self.steps_per_epoch = part.steps_per_epoch()
        self.optimizer = part.optimizer(self.schedule(), self.steps_per_epoch)
        self._outputs = jax.jit(self._forward, static_argnums=2)

    @classmethod
    def prepare(cls, config: ConfigDict, workdir: Path, *, train: bool) -> ConfigDict:
        if is_odoc(config):
            return config
        return mask_defaults.prepare(config, workdir, print if train and is_first() else lambda _: None)

    @property
    def notes(self) -> list[str]:
        return [f"data: {self.part.summary}", f"backbone: {self.backbone}", *self.data.notes]

    @property
    def backbone(self) -> str:
        return f"weights of {self.config.model.pretrained}" if self.config.model.pretrained else "from scratch"

    def init_state(self) -> TrainState:
        size = height_width(self.config.data.image_size)
        variables = fresh_variables(self.model, jax.random.key(self.config.seed), size)
        if self._pretrained is not None:
            variables = backbone_from_torchvision(self._pretrained, variables)
        return create_state(variables["params"], variables["batch_stats"], self.optimizer, self.config.seed, self.mesh)

    def batches(self) -> Any:
        return self.part.batches(local_rows(self.batch_size, self.mesh))

    def loss(self, forward: Forward) -> LossFunction:
        return self.part.loss(forward)

    def scores(self, state: TrainState) -> dict[str, float]:
        return self.part.scores(found for source in self.part.watched for found in self.predict(state, source))

    def predict(self, state: TrainState, source: Any) -> Iterator[Any]:
        """Yield the predicted mask of every image, at the size of its own mask."""
        outputs = functools.partial(self._outputs, self.freeze(self.variables(state)))
        return self.part.predicted(outputs, source, self.mesh, self.eval_batch_size)

    def measure(self, state: TrainState) -> list[Any]:
        """Return the test images with their scores."""
        return [self.part.measure(predicted) for predicted in self.predict(state, self.part.test)]

    def _forward(self, variables: Any, images: jax.Array, grid: tuple[int, int]) -> jax.Array:
        with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):  # for operators that loop over the batch
            logits = self.model.apply(variables, normalize(images), train=False)
        return self.part.outputs(logits, grid)

    def results(self, found: list[Any], state: TrainState, _: loop.Best) -> dict[str, Any]:
        shape = (1, *height_width(self.config.data.image_size), 3)
        own = self.part.results(found, self.backbone)
        return {"step": int(state.step), **own, "complexity": count(self.model, shape)._asdict()}

    def write_files(self, workdir: Path, found: list[Any]) -> None:
        self.part.write_files(workdir, found)

    def show(self, found: list[Any], step: int, *, trained: bool) -> None:
        self.part.show(found, f" after step {step}" if trained else f", checkpoint of step {step}")

    def artifact(self, workdir: Path, step: int) -> dict[str, Any]:
        found = {"images": self.part.first_images(), "verify": None, "output": "logits"}
        found |= {"results": self._recorded(workdir, step), "metadata": dict(self.part.metadata)}
        return found | {"comparison": self._comparison()}

    def _comparison(self) -> Comparison:
        outputs, part = jax.jit(self.part.outputs, static_argnums=1), self.part

        def scores(logits: Embed) -> np.ndarray:
            def at(images: jax.Array, grid: tuple[int, int]) -> jax.Array:
                return outputs(logits(images), grid)

            return np.array([part.dice(one) for one in part.predicted(at, part.test, self.mesh, self.eval_batch_size)])

        count = len(part.test)
        return Comparison(scores, np.full(count, 1 / count), "images", "Dice", 0.0)

    def _recorded(self, workdir: Path, step: int) -> dict[str, Any]:
        try:
            results = parse_json((workdir / "results.json").read_text())
            return self.part.recorded(results) if results["step"] == step else {}
        except (OSError, ValueError, KeyError, TypeError):  # a run that has not ended
            return {}


train, evaluate = SegmentationJob.train, SegmentationJob.evaluate
report, trained = SegmentationJob.report, SegmentationJob.trained
