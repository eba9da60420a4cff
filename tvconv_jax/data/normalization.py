"""Normalization of images, the same in training, evaluation and exported artifacts."""

import jax
import jax.numpy as jnp

FORMULA = "(x / 255 - 0.5) / 0.5"


def normalize(images: jax.Array) -> jax.Array:
    """Return ``uint8`` pixels as float32 in [-1, 1]: ``(x / 255 - 0.5) / 0.5``."""
    return (images.astype(jnp.float32) / 255 - 0.5) / 0.5
