"""The job of a planned run: the training step itself, with shapes in place of data and state."""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from tvconv_jax.nn.layers import WeightGenerator
from tvconv_jax.tasks import load_task
from tvconv_jax.training.mesh import over_devices
from tvconv_jax.training.state import state_shardings
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.sizes import Size, height_width

MAX_IDENTITIES = 10**9  # labels are numbers of 32 bits
WITH_HEAD = ("face", "verification")  # tasks with class weights beside the model
TASKS = (*WITH_HEAD, "classification", "segmentation")


def make_job(config: ConfigDict, identities: int, devices: Sequence[jax.Device]) -> Any:
    """Return the task's job for data of one step an epoch, on devices that may be described only.

    Raises:
        UserError: If the config is of a task that is not planned, or does not fit the devices.
    """
    if config.task not in TASKS or "test_domain" in config.data:
        name = "odoc" if "test_domain" in config.data else config.task
        raise UserError(f"--mode=plan knows configs of the tasks {', '.join(TASKS)}; this one is of {name}.")
    if not 2 <= identities <= MAX_IDENTITIES:
        raise UserError(f"--identities={identities} must be 2 at least, and at most {MAX_IDENTITIES}.")
    config = config.copy_and_resolve_references()
    config.eval.batch_size = len(devices)  # evaluation is not planned
    if config.task in WITH_HEAD:
        data = SimpleNamespace(train=range(config.data.batch_size), num_classes=identities, verification={})
        return _on(devices, load_task("face").FaceJob)(config, data)
    config.model.num_classes = identities
    train = _Images(config.data.batch_size, identities)
    if config.task == "segmentation":
        shares, names = np.full(identities, 1 / identities), tuple(map(str, range(identities)))
        classes = SimpleNamespace(names=names, foreground=[], background=None)
        found = SimpleNamespace(classes=classes, shares=shares, notes=[], of=lambda test: [])
        return _on(devices, load_task("segmentation").SegmentationJob)(config, (found, train))
    data = SimpleNamespace(train=train, validation=None, test=train, classes=range(identities))
    return _on(devices, load_task("classification").ClassificationJob)(config, data)


def _on(devices: Sequence[jax.Device], job: type) -> type:
    return type(job.__name__, (job,), {"devices": devices})


class _Images:
    """Number of images and their labels."""

    def __init__(self, count: int, classes: int) -> None:
        self.labels = np.arange(count) % classes

    def __len__(self) -> int:
        return len(self.labels)


def step_shapes(job: Any) -> tuple[Any, dict[str, jax.ShapeDtypeStruct]]:
    """Return state and batch as shapes, each with its sharding."""
    state = jax.eval_shape(job.init_state)
    state = jax.tree.map(_sharded, state, state_shardings(state, job.mesh))
    batch_size, grid = job.config.data.batch_size, height_width(job.config.data.image_size)
    batch = {"image": jax.ShapeDtypeStruct((batch_size, *grid, 3), jnp.uint8)}
    if job.config.task == "segmentation":
        batch["mask"] = jax.ShapeDtypeStruct((batch_size, *grid), jnp.uint8)
    else:
        batch["label"] = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    return state, jax.tree.map(lambda leaf: _sharded(leaf, over_devices(job.mesh)), batch)


def _sharded(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def generator_macs(model: nn.Module, image_size: Size) -> int:
    """Return the multiply-accumulates of all weight generators of a model in one step."""
    macs = 0

    def add(call: Any, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        nonlocal macs
        module = context.module
        if type(module) is WeightGenerator and context.method_name == "declare":
            height, width, channels = args[0]
            hidden, layers = module.hidden_channels, module.hidden_layers
            inputs = channels * hidden + layers * hidden * hidden + hidden * math.prod(module.features)
            macs += 9 * height * width * inputs
        return call(*args, **kwargs)

    images = jax.ShapeDtypeStruct((1, *height_width(image_size), 3), jnp.float32)
    with nn.intercept_methods(add):
        jax.eval_shape(model.init, jax.random.key(0), images)
    return macs
