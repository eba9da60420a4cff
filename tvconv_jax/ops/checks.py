"""Checks of the operators' arguments."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_integer(value: Any) -> bool:
    """Return whether the value is one integer, also NumPy's, but not a bool."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_rank(name: str, x: jax.Array) -> None:
    """Raise a ``ValueError`` unless ``x`` has the axes ``[n, h, w, c]``."""
    if x.ndim != 4:
        hint = " Add the batch axis with x[None]." if x.ndim == 3 else ""
        raise ValueError(f"{name} has shape {x.shape}; it must be [n, h, w, c].{hint}")


def check_input(x: jax.Array, strides: int) -> None:
    """Raise a ``ValueError`` unless a convolution can take the input and the strides."""
    check_rank("x", x)
    if x.dtype not in (jnp.float32, jnp.bfloat16, jnp.float64):
        raise ValueError(f"x is {x.dtype}; it must be float32, bfloat16 or float64. Cast it, and scale integers first.")
    if not is_integer(strides) or strides < 1:
        raise ValueError(f"strides={strides!r} must be one positive integer.")


def check_kernel(name: str, kernel: jax.Array, x: jax.Array) -> int:
    """Return the size ``k`` of a kernel ``[..., k*k, c]``.

    Raises:
        ValueError: If ``k`` is not odd, or channels or dtype are not those of ``x``.
    """
    *_, taps, channels = kernel.shape
    verb = "are" if name == "weights" else "is"
    if kernel.dtype != x.dtype:
        raise ValueError(f"{name} {verb} {kernel.dtype}, but x is {x.dtype}; cast one of them.")
    if channels != x.shape[3]:
        raise ValueError(f"{name} {verb} for {channels} channels, but x has {x.shape[3]}; they must agree.")
    kernel_size = math.isqrt(taps)
    if kernel_size**2 != taps or kernel_size % 2 == 0:
        raise ValueError(f"{name} has {taps} taps; it must be k*k for an odd kernel size k (1, 9, 25, 49, ...).")
    return kernel_size


def check_reach(x: jax.Array, strides: int, dilation: int, padding: int, reach: int) -> None:
    """Raise a ``ValueError`` if dilation or padding does not fit strides, kernel or input."""
    if dilation < 1 or (dilation > 1 and strides > 1):
        raise ValueError(f"dilation={dilation} must be positive, and 1 with strides={strides}.")
    if not 0 <= padding <= reach:
        raise ValueError(f"padding={padding} must be 0 to {reach}, the kernel's reach.")
    sizes = [size for size in x.shape[1:3] if isinstance(size, int)]  # symbolic sizes are known when they are called
    if sizes and min(sizes) + 2 * padding <= reach:
        grid = "x".join(map(str, x.shape[1:3]))
        raise ValueError(f"x {grid} with padding={padding} is smaller than the {reach + 1} that the kernel spans.")
