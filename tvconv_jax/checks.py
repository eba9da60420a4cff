"""What layers and operators check when they are called."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def is_integer(value: Any) -> bool:
    """Whether it is one integer, NumPy's too; ``True`` is none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_call(x: jax.Array, kernel_size: int, strides: int = 1) -> jax.Array:
    """The input as a JAX array.

    Raises:
        ValueError: For a kernel or strides that do not fit, or an input that is not ``[n, h, w, c]`` and floating.
    """
    for name, value in (("kernel_size", kernel_size), ("strides", strides)):
        if not is_integer(value) or value < 1:
            raise ValueError(f"{name}={value!r} must be one integer from 1 on, the same for height and width.")
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size={kernel_size} must be odd, so that every pixel has a centre tap.")
    return check_images("x", x)


def check_images(name: str, x: jax.Array) -> jax.Array:
    """``[n, h, w, c]`` as a JAX array; a ``ValueError`` where the rank is another or the dtype is not floating."""
    x = jnp.asarray(x)
    if x.ndim != 4:
        way = " Add the batch axis with x[None]." if x.ndim == 3 else ""
        raise ValueError(f"{name} has shape {x.shape}; it must be [n, h, w, c].{way}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} is {x.dtype}; it must be floating. Cast it, and scale integers first.")
    return x


def check_frozen(module: nn.Module, values: Mapping[str, jax.Array | None], shapes: Mapping[str, tuple]) -> None:
    """Raises a ``ValueError`` if what was frozen is not what the module would have generated."""
    name = module.name or type(module).__name__
    for what, shape in shapes.items():
        value = values[what]
        if value is None:
            raise ValueError(f"{name} needs a frozen {what}, and these variables have none: they were frozen without.")
        check_grid(module, value.shape, shape[:2])
        if value.shape != shape:
            raise ValueError(
                f"{name} was frozen with {what} of {value.shape}, but this one has {shape}; freeze it anew."
            )


def check_grid(module: nn.Module, built: tuple[int, ...], grid: tuple[int, ...]) -> None:
    """Raises a ``ValueError`` if the module's parameters, of shape ``built``, are for another grid than the input's."""
    if built[: len(grid)] != grid:
        sides = ("x".join(map(str, shape)) for shape in (built[: len(grid)], grid))
        raise ValueError(
            f"{module.name or type(module).__name__} was built for the grid {next(sides)}, but this input gives "
            f"{next(sides)}; its parameters belong to positions: resize the input or initialise anew."
        )
