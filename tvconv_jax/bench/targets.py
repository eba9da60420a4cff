"""Devices that are described, not present: XLA's own GPU and TPU compilers make programs for them on any machine.

Their plugins come with the extras ``plan-gpu`` and ``plan-tpu``. They need no device, driver or CUDA library.
"""

import importlib.metadata
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tvconv_jax.bench.device_specs import device_spec, tpu_slice
from tvconv_jax.utils.errors import UserError

if TYPE_CHECKING:
    import jax

# Of the process: TPUs must not be looked for on this machine, and XLA's log would only say that compiling is slow.
ENVIRONMENT = {
    **{"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"},
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",  # any: libtpu would warn that this machine has none
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # libtpu would let one process at a time use the TPU
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
# XLA tries candidates of a kernel on the device itself, unless told otherwise.
GPU_OPTIONS = {"xla_gpu_autotune_level": 0}
GPUS_A_HOST = 8

# What the CUDA driver says about a GPU (cudaDeviceProp), under the names of XLA's GpuTargetConfigProto
# (xla/stream_executor/device_description.proto).
GPUS = {
    "h200": {
        "gpu_device_info": {
            "cuda_compute_capability": {"major": 9, "minor": 0},
            "core_count": 132,
            "fpus_per_core": 128,
            "clock_rate_ghz": 1.98,
            "device_memory_size": 150_754_820_096,
            "memory_bandwidth": 4_800_000_000_000,
            "l2_cache_size": 60 * 2**20,
            "shared_memory_per_core": 228 * 2**10,
            "shared_memory_per_block": 48 * 2**10,
            "shared_memory_per_block_optin": 227 * 2**10,
            "registers_per_core_limit": 2**16,
            "registers_per_block_limit": 2**16,
            "threads_per_core_limit": 2048,
            "threads_per_block_limit": 1024,
            "threads_per_warp": 32,
            "block_dim_limit_x": 2**31 - 1,
            "block_dim_limit_y": 2**16 - 1,
            "block_dim_limit_z": 2**16 - 1,
        },
        "platform_name": "CUDA",
        "device_description_str": "NVIDIA H200",
        "runtime_version": {"major": 13, "minor": 0},
        "dnn_version_info": {"major": 9, "minor": 10},
    }
}


class Target(NamedTuple):
    """Devices that a plugin compiles for."""

    name: str  # of --device-kind
    platform: str  # "cuda" or "tpu"
    axes: tuple[int, ...]  # slices, hosts and GPUs a host; or chips along the axes of a TPU slice

    @property
    def devices(self) -> int:
        return math.prod(self.axes)

    @property
    def extra(self) -> str:
        return {"cuda": "plan-gpu", "tpu": "plan-tpu"}[self.platform]

    @property
    def packages(self) -> tuple[str, ...]:
        """Distributions that bring the plugin."""
        return {"cuda": ("jax-cuda13-plugin", "jax-cuda13-pjrt"), "tpu": ("libtpu",)}[self.platform]

    @property
    def compiler(self) -> str:
        """Package and version of the compiler."""
        return f"{self.packages[-1]} {importlib.metadata.version(self.packages[-1])}"

    @property
    def options(self) -> dict[str, Any]:
        """Compiler options."""
        return dict(GPU_OPTIONS) if self.platform == "cuda" else {}


def find_target(name: str, devices: int | None = None) -> Target | None:
    """Return what a plugin would compile for; ``None`` for kinds of which only an estimate is made.

    Args:
        name: A key of :data:`GPUS`, or a TPU slice as in ``v5e:8x8``.
        devices: Their number; ``None``: one GPU, or all chips of the slice.

    Raises:
        UserError: If the kind is unknown, the number of devices is another than the slice's, or GPUs do not fill their
            hosts.
    """
    device_spec(name)
    if name in GPUS:
        count = 1 if devices is None else devices
        hosts = max(1, count // GPUS_A_HOST)
        if count < 1 or count % hosts or count // hosts > GPUS_A_HOST:
            raise UserError(
                f"--devices={count} must be 1 to {GPUS_A_HOST} GPUs of a host, or a multiple of {GPUS_A_HOST}."
            )
        return Target(name, "cuda", (1, hosts, count // hosts))
    if found := tpu_slice(name):
        target = Target(name, "tpu", found[1])
        if devices not in (None, target.devices):
            raise UserError(f"--devices={devices} is not the size of {name}, which has {target.devices}; leave it out.")
        return target
    return None


def is_installed(target: Target) -> bool:
    """Return whether the plugin is there.

    Raises:
        UserError: If it is of another version than the installed JAX needs.
    """
    for package in target.packages:
        try:
            version, needed = importlib.metadata.version(package), _needed_version(package)
        except importlib.metadata.PackageNotFoundError:
            return False
        if needed and not f"{version}.".startswith(f"{needed}."):
            jax_version = importlib.metadata.version("jax")
            raise UserError(
                f"{package} {version} does not belong to jax {jax_version}, which needs {needed}: "
                f"pip install --upgrade 'tvconv_jax[{target.extra}]'."
            )
    return True


def _needed_version(package: str) -> str:
    """Return the version, or its first numbers, that the installed JAX needs; empty if it names none."""
    if package.startswith("jax-"):
        return importlib.metadata.version("jax")
    named = (
        re.match(rf"{package}==([\d.]+?)(?:\.\*)?(?:;|$)", need) for need in importlib.metadata.requires("jax") or ()
    )
    return next((found.group(1) for found in named if found), "")


def missing_note(target: Target) -> str:
    """Return a line for an environment without the plugin."""
    return (
        f"note: {target.packages[0]} is not installed, so this is an estimate from the program as compiled for a CPU; "
        f"pip install 'tvconv_jax[{target.extra}]' lets XLA compile for {target.name}."
    )


def require_plugin(target: Target) -> None:
    """Raise a ``UserError`` unless the plugin is there, of the version that JAX needs."""
    if not is_installed(target):
        raise UserError(f"{target.packages[0]} is not installed: pip install 'tvconv_jax[{target.extra}]'.")


def topology_devices(target: Target) -> "Sequence[jax.Device]":
    """Return the described devices, for a mesh to compile for.

    Raises:
        UserError: If the plugin knows no such devices.
    """
    from jax.errors import JaxRuntimeError
    from jax.experimental import topologies

    axes = "x".join(map(str, target.axes))
    try:
        if target.platform == "cuda":
            topology = topologies.get_topology_desc(
                platform="cuda", topology=axes, target_config=_text_proto(GPUS[target.name])
            )
        else:
            host = [min(2, size) for size in target.axes[:2]] + [1]  # a host has up to 2 x 2 chips
            topology = topologies.get_topology_desc(target.name, platform="tpu", chips_per_host_bounds=host)
    except (JaxRuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--device-kind={target.name} is not compiled for by {target.compiler} ({reason}).") from None
    return topology.devices


def _text_proto(fields: dict[str, Any]) -> str:
    """Format nested fields as a text proto."""
    items = []
    for name, value in fields.items():
        if isinstance(value, dict):
            items.append(f"{name} {{ {_text_proto(value)} }}")
        else:
            items.append(f'{name}: "{value}"' if isinstance(value, str) else f"{name}: {value}")
    return " ".join(items)
