"""Forms for GPUs, chosen when a program is lowered, so that a CPU can compile for a GPU."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint


def on_gpu(function: Callable[..., Any], otherwise: Callable[..., Any], *arrays: jax.Array) -> Any:
    """Return ``function(*arrays)`` on a GPU, elsewhere ``otherwise(*arrays)`` of the same shapes and dtypes."""
    return lax.platform_dependent(*arrays, cuda=function, rocm=function, default=otherwise)


def channels_last(x: jax.Array) -> jax.Array:
    """Return ``x [n, h, w, c]``, or of other axes, which a GPU keeps in this order in memory.

    Left to itself XLA may choose another order for the sake of one sum, and transpose every large tensor on the way.
    """
    return on_gpu(_keep_order, lambda x: x, x)


def _keep_order(x: jax.Array) -> jax.Array:
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))
