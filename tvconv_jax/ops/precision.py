"""The dtype of sums."""

import jax
import jax.numpy as jnp


def upcast(x: jax.Array) -> jax.Array:
    """Return ``x`` in the dtype that sums are kept in: float32, or float64 for float64."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)
