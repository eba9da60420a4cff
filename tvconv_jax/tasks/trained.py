"""Trained run with its model, images and accuracy, for export and figures."""

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from tvconv_jax.metrics.paired import Comparison
from tvconv_jax.tasks import TASKS, load_task
from tvconv_jax.tasks.saved_config import read_config
from tvconv_jax.utils.errors import UserError

Embed = Callable[[jax.Array], jax.Array]  # uint8 images [n, h, w, 3] -> outputs [n, d] or [n, h, w, classes]
MAX_IMAGES = 64  # on which artifacts are checked


class Accuracy(NamedTuple):
    """Verification accuracy of single embeddings, as a device makes them: no mirrored image is added."""

    mean: float  # over the sets, 0 to 1
    sets: dict[str, float]  # by name of the set
    cosine: float  # threshold, mean over folds and sets; the same identity above it


class Trained(NamedTuple):
    """Trained run."""

    config: ConfigDict
    model: nn.Module
    variables: dict[str, Any]  # params and batch_stats
    step: int  # of the checkpoint
    images: np.ndarray  # uint8 [n, h, w, 3], test images of the run
    batches: Callable[[], Generator[np.ndarray, None, None]]  # endless training images, uint8 [n, h, w, 3]; close them
    verify: Callable[[Embed], Accuracy] | None  # accuracy on the run's own sets; None where there are none
    output: str  # "embeddings" or "logits"
    results: dict[str, Any]  # recorded, of this checkpoint, that verify does not measure: Dice, 0 to 1
    comparison: Comparison | None = None  # None where there is nothing to compare on
    # Further entries of an artifact's metadata, JSON: "task" ("classification", "segmentation" or "verification"),
    # "classes" (names in the order of the logits), "temperature" (divides the logits), "activation" ("softmax" or
    # "sigmoid", which makes probabilities of them).
    metadata: Mapping[str, Any] = MappingProxyType({})


def load(workdir: Path, *, best: bool = False) -> Trained:
    """Restore the last checkpoint of a workdir, or the best one.

    Raises:
        UserError: If there is no run in the folder, or its task has no ``trained`` function.
    """
    config = read_config(workdir)
    task = load_task(config.task)
    if not hasattr(task, "trained"):
        names = ", ".join(name for name in TASKS if hasattr(load_task(name), "trained"))
        raise UserError(f"{workdir} is a run of the task {config.task!r}; tasks that can be exported: {names}.")
    return task.trained(config, workdir.absolute(), best=best)


def check_trained(workdir: Path) -> None:
    """Raise a ``UserError`` if a workdir was never trained in."""
    if not (workdir / "checkpoints").is_dir():
        raise UserError(f"{workdir} holds no checkpoint; train first, with --mode=train.")


def training_images(job: Any) -> Generator[np.ndarray, None, None]:
    """Yield a job's batches of training images, ``uint8 [n, h, w, 3]``, without end."""
    with closing(job.task().batches) as batches:  # opened by the first next(), closed with this generator
        for batch in batches:
            yield batch["image"]
