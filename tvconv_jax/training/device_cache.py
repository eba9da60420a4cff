"""Training images that lie decoded on the devices, each with its share of them, and batches that are taken there.

A step is fed with row numbers and flips alone, so the host decodes nothing and copies no image.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from tvconv_jax.data.pipeline import decoded_parts
from tvconv_jax.data.source import Source
from tvconv_jax.data.workers import WatchedBatches
from tvconv_jax.training.mesh import AXES, local_rows, over_devices, replicated
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.progress import track
from tvconv_jax.utils.sizes import Size, describe_size, height_width

PART = 1 << 22  # bytes that are decoded, and written to a device, at once
MARGIN = 0.1  # share of a device's memory that is left for a step
_MEMORY = Path("/proc/meminfo")


class DeviceImages(NamedTuple):
    """Images and labels, the rows sharded over all devices of a mesh; zeros behind them make equal shares."""

    images: jax.Array  # uint8 [rows, h * w * 3]: a last axis of 3 would be padded to many times its size on a TPU
    labels: jax.Array  # int32 [rows]


def load_images(
    source: Source, image_size: Size, mesh: Mesh, *, workers: int = 0, timeout: float = 0.0, name: str = "the images"
) -> DeviceImages:
    """Decode all images of a source, once, onto the devices; every process decodes the shares of its own devices.

    Args:
        source: The images.
        image_size: Height and width to which they are resized.
        mesh: The devices that share them.
        workers: Processes that decode; 0: threads.
        timeout: Seconds to wait for a part of them; 0: no limit.
        name: Name of the data, for messages.

    Raises:
        UserError: If they do not fit, or one cannot be decoded.
    """
    width = 3 * math.prod(height_width(image_size))
    share = -(-len(source) // mesh.size)
    shape, sharding = (share * mesh.size, width), over_devices(mesh)
    check_room(len(source), image_size, mesh)
    spans = {device: span[0] for device, span in sharding.addressable_devices_indices_map(shape).items()}
    images = {device: jnp.zeros((share, width), jnp.uint8, device=device) for device in spans}
    labels = np.zeros(shape[0], np.int32)
    parts = [(device, part) for device, span in spans.items() for part in _parts(span, len(source), width)]
    decoded = decoded_parts(source, [part for _, part in parts], image_size=image_size, workers=workers)
    with closing(WatchedBatches(decoded, timeout=timeout, source=name)) as batches:
        text = f"Decoding {len(source):,} training images onto {mesh.size} device{'s' * (mesh.size > 1)}, parts"
        for device, part in track(parts, total=len(parts), text=text):
            batch, first = next(batches), spans[device].indices(shape[0])[0]
            rows = jax.device_put(batch["image"].reshape(len(part), width), device)
            images[device] = _write(images[device], rows, part.start - first, 0)
            labels[part.start : part.stop] = batch["label"]
    return DeviceImages(
        jax.make_array_from_single_device_arrays(shape, sharding, list(images.values())),
        jax.make_array_from_callback(labels.shape, sharding, labels.__getitem__),
    )


def _parts(span: slice, count: int, width: int) -> list[range]:
    """Cut a device's rows, without those behind the last image, into parts of about :data:`PART` bytes."""
    first, stop, _ = span.indices(count)
    step = max(1, PART // width)
    return [range(start, min(start + step, stop)) for start in range(first, stop, step)]


_write = jax.jit(lax.dynamic_update_slice_in_dim, static_argnums=3, donate_argnums=0)


def check_room(count: int, image_size: Size, mesh: Mesh) -> None:
    """Check that so many images fit beside what the devices of this process hold already, such as the model.

    A tenth of the memory (:data:`MARGIN`) is left for a step.

    Raises:
        UserError: If they do not fit.
    """
    share = -(-count // mesh.size) * (3 * math.prod(height_width(image_size)) + 4)
    of = f"the {count:,} training images of {describe_size(image_size)} take {share:,} bytes"
    for device in mesh.local_devices:
        stats = device.memory_stats() or {}
        free, limit = (_host_memory(),) * 2
        if "bytes_limit" in stats:
            limit = stats["bytes_limit"]
            free, needed, owner = limit - stats.get("bytes_in_use", 0), share, f"{device.device_kind} {device.id}"
        else:
            needed, owner = share * len(mesh.local_devices), "this machine"
        if limit is not None and needed > free - MARGIN * limit:
            raise UserError(
                f"data.cache=device: {of} on each of {mesh.size} devices, and {owner} has {free:,} of {limit:,} bytes "
                f"free, of which a tenth is left for a step; set --config.data.cache=none, or take more devices."
            )


def _host_memory() -> int | None:
    """Return the available bytes of host memory; ``None`` if they are unknown."""
    try:
        lines = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return None


def make_take(mesh: Mesh, image_size: Size) -> Callable[[DeviceImages, jax.Array], tuple[jax.Array, jax.Array]]:
    """Return a compiled function that takes a batch from :class:`DeviceImages`.

    Its second argument, ``int32 [2, n]``, the same on every device, holds the rows and whether they are mirrored. It
    returns images ``uint8 [n, h, w, 3]`` and labels ``int32 [n]``, sharded as a batch.

    Every device takes the rows that it has, zeros for the others, and a reduce-scatter hands each device its share of
    the batch: no device gathers the set, or keeps the whole batch.
    """
    height, width = height_width(image_size)

    def take(images: jax.Array, labels: jax.Array, rows: jax.Array, mirrored: jax.Array) -> tuple[jax.Array, jax.Array]:
        own = rows - lax.axis_index(AXES) * len(images)
        own = jnp.where((own >= 0) & (own < len(images)), own, len(images))  # beyond the end: filled with zeros
        found = [jnp.take(array, own, axis=0, mode="fill", fill_value=0) for array in (images, labels)]
        if mesh.size > 1:
            found = [lax.psum_scatter(array, AXES, tiled=True) for array in found]
        pixels, labels = found
        pixels = pixels.reshape(-1, height, width, 3)
        return jnp.where(mirrored[:, None, None, None], pixels[:, :, ::-1], pixels), labels

    shard = PartitionSpec(AXES)
    taken = jax.shard_map(take, mesh=mesh, in_specs=(shard, shard, PartitionSpec(), shard), out_specs=shard)
    return jax.jit(
        lambda data, drawn: taken(data.images, data.labels, drawn[0], drawn[1] > 0), out_shardings=over_devices(mesh)
    )


class DeviceBatches(Iterator):
    """Batches from images on the devices, of an iterator of :func:`.index_batches`, whose position is theirs.

    They are those of :func:`.train_batches`, with ``image`` and ``label`` as arrays on the devices.
    """

    def __init__(self, batches: Any, data: DeviceImages, image_size: Size, mesh: Mesh) -> None:
        self._batches, self._data, self._mesh = batches, data, mesh
        self._take = make_take(mesh, image_size)
        self.get_state, self.set_state, self.close = batches.get_state, batches.set_state, batches.close

    def __next__(self) -> dict[str, Any]:
        """Return the next batch; its images may still be on their way."""
        drawn = next(self._batches)
        index, mirrored = drawn["index"], drawn["mirrored"]
        both = np.stack([index, mirrored.astype(np.int32)])
        images, labels = self._take(self._data, jax.make_array_from_process_local_data(replicated(self._mesh), both))
        return {"image": images, "label": labels, "index": index[local_rows(len(index), self._mesh)]}
