"""What a workdir holds, ready to be exported: the model, its variables, pictures of the run, its verification."""

from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from tvconv_jax.data import fundus_batches
from tvconv_jax.data.pipeline import eval_batches
from tvconv_jax.metrics.verification import ten_fold
from tvconv_jax.tasks.evaluation import STRUCTURES
from tvconv_jax.tasks.face import FaceJob
from tvconv_jax.tasks.face_model import embed_all
from tvconv_jax.tasks.run import check_trained, restore_best, restore_last
from tvconv_jax.tasks.saved_config import read_config
from tvconv_jax.tasks.segmentation import SegmentationJob
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.plain_files import parse_json

# (uint8 images [n, s, s, 3]) -> embeddings [n, d]
Embed = Callable[[jax.Array], jax.Array]
PICTURES = 64  # that artifacts are checked on


class Accuracy(NamedTuple):
    """Verification of single embeddings, as a device makes them: no mirrored picture is added.

    Attributes:
        mean: Over the sets, 0 to 1.
        sets: Of every set.
        cosine: Threshold, mean over folds and sets; the same person above it.
    """

    mean: float
    sets: dict[str, float]
    cosine: float


class Trained(NamedTuple):
    """A run to export.

    Attributes:
        config: Of the run.
        model: The linen module.
        variables: ``params`` and ``batch_stats``.
        step: Of the checkpoint.
        images: ``uint8 [n, s, s, 3]``, test pictures of the run.
        batches: Opens training pictures without end, ``uint8 [n, s, s, 3]``, for fine-tuning; close them.
        verify: Accuracy of an embedding function on the run's own sets; ``None`` where there are none.
        output: ``"embeddings"`` or ``"logits"``.
        results: What the run says of this checkpoint and verification does not measure again: Dice, 0 to 1, where
            there is one.
    """

    config: ConfigDict
    model: nn.Module
    variables: dict[str, Any]
    step: int
    images: np.ndarray
    batches: Callable[[], Generator[np.ndarray, None, None]]
    verify: Callable[[Embed], Accuracy] | None
    output: str
    results: dict[str, Any]


def load(workdir: Path, *, best: bool = False) -> Trained:
    """Restores the last checkpoint of a workdir, or the best one.

    Raises:
        UserError: If there is no run in the folder, or one of a task that is not exported.
    """
    config = read_config(workdir)
    task = config.task
    if task not in LOADERS:
        raise UserError(f"{workdir} is a run of the task {task!r}; what is exported: {', '.join(LOADERS)}.")
    check_trained(workdir)
    return LOADERS[task](config, workdir.absolute(), restore_best if best else restore_last)


def _face(config: ConfigDict, workdir: Path, restore: Callable) -> Trained:
    job = FaceJob(config)
    state = restore(job, workdir)
    source = next(iter(job.data.verification.values()), (job.data.train,))[0]
    stop = min(PICTURES, len(source))
    (batch,) = eval_batches(source, batch_size=stop, image_size=config.data.image_size, stop=stop)

    def verify(embed: Embed) -> Accuracy:
        found = {}
        for name, (source, pairs) in job.data.verification.items():
            embeddings = embed_all(lambda _, images: embed(images), None, source, config, job.mesh)
            left, right = embeddings[pairs.left], embeddings[pairs.right]
            found[name] = ten_fold(left, right, pairs.same, pairs.folds, protocol="standard")
        accuracies = {name: result.accuracy for name, result in found.items()}
        thresholds = [result.threshold for result in found.values()]
        return Accuracy(float(np.mean(list(accuracies.values()))), accuracies, float(np.mean(thresholds)))

    return Trained(
        config,
        job.model,
        {"params": state.params["model"], "batch_stats": state.batch_stats},
        int(state.step),
        batch["image"],
        lambda: _pictures(job),
        verify if job.data.verification else None,
        "embeddings",
        {},
    )


def _segmentation(config: ConfigDict, workdir: Path, restore: Callable) -> Trained:
    job = SegmentationJob(config)
    state = restore(job, workdir)
    source = job.data.test[config.data.test_domain]
    size = {"batch_size": min(8, len(source)), "image_size": config.data.image_size}  # 64 of 256x256 are slow to check
    images = next(fundus_batches.eval_batches(source, **size)).images
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    step, results = int(state.step), _dice(workdir, int(state.step))
    return Trained(config, job.model, variables, step, images, lambda: _pictures(job), None, "logits", results)


def _dice(workdir: Path, step: int) -> dict[str, Any]:
    """Of the unseen domain, if ``results.json`` is of that step."""
    try:
        results = parse_json((workdir / "results.json").read_text())
        return {"dice": {name: results[name]["dice"] for name in STRUCTURES}} if results["step"] == step else {}
    except (OSError, ValueError, KeyError, TypeError):  # a run that has not ended
        return {}


def _pictures(job: FaceJob | SegmentationJob) -> Generator[np.ndarray, None, None]:
    with closing(job.task().batches) as batches:  # opened by the first next(), closed with this generator
        for batch in batches:
            yield batch["image"]


LOADERS = {"face": _face, "segmentation": _segmentation}
