"""One code path from one device to many: a mesh with the axis ``data``, batches cut along it."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tvconv_jax.errors import UserError


def make_mesh() -> Mesh:
    """All devices along ``data``; one device is a mesh of one."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def over_data(mesh: Mesh) -> NamedSharding:
    """The leading axis cut along ``data``."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """A batch of host arrays, each cut along its leading axis."""
    return jax.device_put(batch, over_data(mesh))


def check_batch_size(name: str, batch_size: int, mesh: Mesh) -> None:
    """Raises a ``UserError`` unless the devices can share the batch equally."""
    devices = mesh.shape["data"]
    if batch_size < 1 or batch_size % devices:
        raise UserError(f"{name} {batch_size} must be a positive multiple of the {devices} devices; change it.")
