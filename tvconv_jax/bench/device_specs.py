"""Peak figures of devices, as their manufacturers state them; only the copy of the H200 was measured."""

import re
from typing import NamedTuple

from tvconv_jax.utils.errors import UserError


class DeviceSpec(NamedTuple):
    """Peak figures of a kind of device; links are those of one device, one way."""

    name: str
    bfloat16: float  # FLOP/s of products of bfloat16
    float32: float  # FLOP/s of products of float32 as JAX computes them by default
    memory: float  # bytes
    bandwidth: float  # of the memory, bytes/s
    near: int  # number of devices that the fast links connect
    near_links: float  # bytes/s over the fast links
    far_links: float  # bytes/s beyond them
    source: str  # URLs of the figures
    copy: float = 0.0  # bytes/s of a copy as it was measured; 0: not yet

    @property
    def reachable_bandwidth(self) -> float:
        """Bytes/s of a measured copy, or of the memory at its peak."""
        return self.copy or self.bandwidth


GB = 1e9
CLOUD = "https://docs.cloud.google.com/tpu/docs"

# TPUs multiply float32 as bfloat16 by default (jax.lax.Precision.DEFAULT), NVIDIA's as TF32. Links: half of what is
# stated for both ways. Beyond a pod: its data center network shared by its chips. Beyond a DGX: a 400 Gb/s (H100,
# H200) or 200 Gb/s (A100) adapter a GPU. Peaks of NVIDIA are those without sparsity, half of the headline figures.
KINDS = {
    "tpu-v5e": DeviceSpec(
        "TPU v5e chip", 197e12, 197e12, 16 * GB, 819 * GB, 256, 200 * GB, 6.4e12 / 8 / 256, f"{CLOUD}/v5e"
    ),
    # No figure of the network beyond its 8,960 chips is stated: as for v5e.
    "tpu-v5p": DeviceSpec(
        "TPU v5p chip", 459e12, 459e12, 95 * GB, 2765 * GB, 8960, 600 * GB, 6.4e12 / 8 / 256, f"{CLOUD}/v5p"
    ),
    "tpu-v6e": DeviceSpec(
        "TPU v6e chip", 918e12, 918e12, 32 * GB, 1638 * GB, 256, 400 * GB, 25.6e12 / 8 / 256, f"{CLOUD}/v6e"
    ),
    "h200": DeviceSpec(
        "NVIDIA H200 SXM, 141 GB", 989e12, 494e12, 141 * GB, 4800 * GB, 8, 450 * GB, 50 * GB,
        "https://www.nvidia.com/en-us/data-center/h200/, https://docs.nvidia.com/dgx/dgxh200-user-guide/",
        copy=4100 * GB,
    ),
    "h100": DeviceSpec(
        "NVIDIA H100 SXM, 80 GB", 989e12, 494e12, 80 * GB, 3350 * GB, 8, 450 * GB, 50 * GB,
        "https://www.nvidia.com/en-us/data-center/h100/, https://docs.nvidia.com/dgx/dgxh100-user-guide/",
    ),
    "a100": DeviceSpec(
        "NVIDIA A100 SXM, 80 GB", 312e12, 156e12, 80 * GB, 2039 * GB, 8, 300 * GB, 25 * GB,
        "https://www.nvidia.com/en-us/data-center/a100/, https://docs.nvidia.com/dgx/dgxa100-user-guide/",
    ),
    # 96 cores, 2.4 GHz, 32 float32 operations a cycle (two 256-bit fused multiply-adds), twice as many in bfloat16
    # (AVX512_BF16); 12 channels of DDR5-4800; memory 12 x 32 GB; a 200 Gb/s adapter a socket.
    "cpu": DeviceSpec(
        "AMD EPYC 9654, a socket", 14.7e12, 7.4e12, 384 * GB, 460.8 * GB, 1, 25 * GB, 25 * GB,
        "https://www.amd.com/en/products/processors/server/epyc/4th-generation-9004-and-8004-series/amd-epyc-9654.html",
    ),
}  # fmt: skip


# Shapes of TPU slices, as in v5e:8x8, for which XLA's own compiler can be asked.
_SLICE = re.compile(r"(v\d\w*):(\d+(?:x\d+){1,2})")


def device_spec(name: str) -> DeviceSpec:
    """Return the figures of a kind of device, or of a chip of a TPU slice; raise a ``UserError`` if it is unknown."""
    slice_of = tpu_slice(name)
    key = slice_of[0] if slice_of else name
    if key not in KINDS:
        chips = ", ".join(key.removeprefix("tpu-") for key in KINDS if key.startswith("tpu-"))
        raise UserError(
            f"--device-kind={name} is unknown; there are: {', '.join(KINDS)}, and slices of {chips} such as v5e:8x8."
        )
    return KINDS[key]


def tpu_slice(name: str) -> tuple[str, tuple[int, ...]] | None:
    """Return the kind and the axes of a TPU slice, ``v5e:8x8`` -> ``("tpu-v5e", (8, 8))``; ``None`` if it is none."""
    found = _SLICE.fullmatch(name)
    return (f"tpu-{found.group(1)}", tuple(map(int, found.group(2).split("x")))) if found else None
