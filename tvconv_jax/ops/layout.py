"""The order of axes in a GPU's memory."""

import jax
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint


def channels_last(x: jax.Array) -> jax.Array:
    """Return ``x [n, h, w, c]``, which a GPU keeps in this order in memory.

    Left to itself XLA may choose another order for the sake of one sum, and transpose every large tensor on the way.
    """
    return lax.platform_dependent(x, cuda=_keep_order, rocm=_keep_order, default=lambda x: x)


def _keep_order(x: jax.Array) -> jax.Array:
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))
