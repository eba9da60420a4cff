"""One code path from one device to many: a mesh of ``data`` and ``model``; a laptop is a mesh of 1x1.

The images of a batch are sharded over all devices, along both axes. ``model`` shards the class weights, too (see
:mod:`tvconv_jax.losses`). Everything else is the same on every device.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tvconv_jax.utils.errors import UserError

AXES = ("data", "model")


def make_mesh(*, data: int = -1, model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return a mesh of ``data`` times ``model`` devices.

    Args:
        data: Devices along ``data``; -1: all that ``model`` leaves.
        model: Devices along ``model``, over which class weights are sharded.
        devices: ``None``: all.

    Raises:
        UserError: If their number does not fit.
    """
    devices = jax.devices() if devices is None else devices
    for name, size in (("data", data), ("model", model)):
        if size < 1 and (name, size) != ("data", -1):
            raise UserError(f"mesh.{name} {size} must be a positive number{' or -1' * (name == 'data')}; change it.")
    if data == -1:
        if len(devices) % model:
            raise UserError(f"mesh.model {model} does not divide the {len(devices)} devices; change it.")
        data = len(devices) // model
    if data * model != len(devices):
        raise UserError(
            f"mesh.data {data} times mesh.model {model} is {data * model}, but the number of devices is "
            f"{len(devices)}; set mesh.data to -1 to use them all."
        )
    return jax.make_mesh((data, model), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of what is the same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def over_devices(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch: the leading axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def over_model(mesh: Mesh) -> NamedSharding:
    """Return the sharding of class weights ``[d, classes]``: the second axis along ``model``."""
    # Spelt as the compiler spells it where there is nothing to shard, so that a step is compiled once.
    return NamedSharding(mesh, PartitionSpec(None, "model") if mesh.shape["model"] > 1 else PartitionSpec())


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Shard host arrays along their leading axis; of several processes each gives its :func:`local_rows`.

    Arrays that lie on the devices stay as they are.
    """
    sharding = over_devices(mesh)

    def put(leaf: Any) -> jax.Array:
        return leaf if isinstance(leaf, jax.Array) else jax.make_array_from_process_local_data(sharding, leaf)

    return jax.tree.map(put, batch)


def local_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """Return the rows of a global batch that this process's devices hold, ``int [rows]``, in ascending order."""
    spans = over_devices(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[span] for span in spans]))


def eval_batch_size(batch_size: int, mesh: Mesh) -> int:
    """Round ``eval.batch_size`` up to a multiple of the devices; the rest of a batch is masked.

    Raises:
        UserError: If it is not positive.
    """
    if batch_size < 1:
        raise UserError(f"eval.batch_size {batch_size} must be a positive number; change it.")
    return -(-batch_size // mesh.size) * mesh.size


def norm_groups(batch_norm: str | int, mesh: Mesh) -> int:
    """Return the number of groups of a batch over which batch norms take statistics.

    Args:
        batch_norm: ``train.batch_norm``: ``"global"``, one; ``"per_replica"``, one for every device; or a number.
        mesh: Of the batch.

    Raises:
        UserError: If it is something else.
    """
    named = {"global": 1, "per_replica": mesh.size}
    if batch_norm in named:
        return named[batch_norm]
    if not str(batch_norm).isdecimal() or int(batch_norm) < 1:
        raise UserError(
            f"train.batch_norm {batch_norm!r} is unknown; there are: global, per_replica, or a number of groups, as in "
            "--config.train.batch_norm=8."
        )
    return int(batch_norm)


def norm_note(batch_norm: str | int, mesh: Mesh) -> list[str]:
    """Return a line where ``per_replica`` changes nothing, because there is one device."""
    if batch_norm != "per_replica" or mesh.size > 1:
        return []
    return [
        "train.batch_norm per_replica: there is one device, so statistics are of the whole batch, as with global; "
        "--config.train.batch_norm=8 takes those of 8 groups of images, on any number of devices"
    ]


def check_batch_size(
    name: str, batch_size: int, mesh: Mesh, *, parts: int = 1, batch_norm: str | int = "global"
) -> None:
    """Check that a training batch can be split as asked, and that batch norms have something to average over.

    Args:
        name: Of the batch size in the config.
        batch_size: Images in a step.
        mesh: Its devices share every part of the batch equally.
        parts: ``train.grad_accum_steps``.
        batch_norm: As :func:`norm_groups` takes it.

    Raises:
        UserError: If parts or groups are not equal, or a group is a single image: its normalized embedding would be
            the bias whatever the image.
    """
    if parts < 1:
        raise UserError(
            f"train.grad_accum_steps {parts} must be a positive number of parts; 1 takes a batch in one piece."
        )
    if batch_size < 1 or batch_size % (mesh.size * parts):
        times = f" times the {parts} parts of train.grad_accum_steps" if parts > 1 else ""
        raise UserError(
            f"{name} {batch_size} must be a positive multiple of the {mesh.size} devices{times}; change it."
        )
    groups, images = norm_groups(batch_norm, mesh), batch_size // parts
    cut = f" in {parts} parts of train.grad_accum_steps" * (parts > 1)
    cut += f" in {groups} groups of train.batch_norm={batch_norm}" * (groups > 1)
    if images % groups:
        raise UserError(f"{name} {batch_size}{cut} cannot be cut into equal groups; change one of them.")
    if images // groups < 2:
        raise UserError(
            f"{name} {batch_size}{cut} leaves batch norms 1 image to average over, and nothing can be learned; take "
            "at least 2: a larger batch, or fewer parts or groups."
        )
