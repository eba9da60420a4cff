"""Forms for GPUs, chosen when a program is lowered, so that a CPU can compile for a GPU."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint


def on_gpu(function: Callable[..., Any], otherwise: Callable[..., Any], *arrays: jax.Array) -> Any:
    """Return ``function(*arrays)`` on a GPU, elsewhere ``otherwise(*arrays)`` of the same shapes and dtypes."""
    return lax.platform_dependent(*arrays, cuda=function, rocm=function, default=otherwise)


def keep_order(x: jax.Array) -> jax.Array:
    """Return ``x``, whose axes a GPU keeps in their order in memory, the last side by side; for a GPU only.

    Left to itself XLA may choose another order for the sake of one sum, and transpose every large tensor on the way.
    """
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))
