"""``data.cache=device``: its checks, and the batches of a run from images on the devices."""

from typing import Any

from ml_collections import ConfigDict

from tvconv_jax.data.pipeline import index_batches
from tvconv_jax.data.workers import WatchedBatches
from tvconv_jax.tasks.forward import check_choice
from tvconv_jax.tasks.keys import KEYS
from tvconv_jax.training.device_cache import DeviceBatches, load_images
from tvconv_jax.utils.errors import UserError

_NONE = "--config.data.cache=none"


def check_cache(config: ConfigDict) -> None:
    """Raise a ``UserError`` if the images of a config cannot lie on the devices as ``data.cache`` asks."""
    check_choice("data.cache", config.data.cache, KEYS["data.cache"].choices)
    if config.data.cache == "none":
        return
    if config.task == "segmentation":
        raise UserError(f"data.cache=device holds no masks yet, so the task segmentation needs {_NONE}; set it.")
    changed = {f"data.augment.{name}": value for name, value in config.data.get("augment", {}).items() if value}
    if changed:
        given = ", ".join(f"{key}={value:g}" for key, value in changed.items())
        flags = " ".join(f"--config.{key}=0" for key in changed)
        raise UserError(
            f"data.cache=device only mirrors images, and cannot apply data.augment ({given}); set {flags}, or {_NONE}."
        )


def feed(job: Any, batches: Any) -> Any:
    """Return a job's batches as they are, or those from images on the devices that go on at their position.

    Raises:
        UserError: If the images do not fit.
    """
    config, data = job.config, job.config.data
    if data.cache == "none":
        return batches
    options = {"workers": data.workers, "timeout": data.timeout, "name": job.source}
    images = load_images(job.data.train, data.image_size, job.mesh, **options)
    flip = job.augmentation.get("flip", True)
    drawn = index_batches(
        len(job.data.train), batch_size=job.batch_size, seed=config.seed, flip=flip, workers=data.workers
    )
    drawn = WatchedBatches(drawn, timeout=data.timeout, source=job.source)
    drawn.set_state(batches.get_state())
    return DeviceBatches(drawn, images, data.image_size, job.mesh)
