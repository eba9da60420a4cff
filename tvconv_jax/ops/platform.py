"""One function for GPUs, another for all else: chosen when a program is lowered, so a CPU can compile for a GPU."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax


def on_gpu(function: Callable[..., Any], otherwise: Callable[..., Any], *arrays: jax.Array) -> Any:
    """Return ``function(*arrays)`` on a GPU, elsewhere ``otherwise(*arrays)`` of the same shapes and dtypes."""
    return lax.platform_dependent(*arrays, cuda=function, rocm=function, default=otherwise)
