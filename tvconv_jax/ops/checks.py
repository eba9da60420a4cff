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
