"""The order of axes in a GPU's memory."""

import jax
from jax.experimental.layout import Layout, with_layout_constraint

from tvconv_jax.ops.platform import on_gpu


def channels_last(x: jax.Array) -> jax.Array:
    """Return ``x [n, h, w, c]``, which a GPU keeps in this order in memory.

    Left to itself XLA may choose another order for the sake of one sum, and transpose every large tensor on the way.
    """
    return on_gpu(_keep_order, lambda x: x, x)


def _keep_order(x: jax.Array) -> jax.Array:
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))
