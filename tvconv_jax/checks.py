"""What layers and operators check when they are called."""

import flax.linen as nn
import jax


def check_call(x: jax.Array, kernel_size: int, strides: int = 1) -> None:
    """Raises a ``ValueError`` for a kernel or strides that do not fit, or an input that is not ``[n, h, w, c]``."""
    for name, value in (("kernel_size", kernel_size), ("strides", strides)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r} must be one integer from 1 on, the same for height and width.")
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size={kernel_size} must be odd, so that every pixel has a centre tap.")
    if x.ndim != 4:
        raise ValueError(f"x has shape {x.shape}; it must be [n, h, w, c]. Add the batch axis with x[None].")


def check_grid(module: nn.Module, built: tuple[int, ...], grid: tuple[int, ...]) -> None:
    """Raises a ``ValueError`` if the module's parameters, of shape ``built``, are for another grid than the input's."""
    if built[: len(grid)] != grid:
        sides = ("x".join(map(str, shape)) for shape in (built[: len(grid)], grid))
        raise ValueError(
            f"{module.name or type(module).__name__} was built for the grid {next(sides)}, but this input gives "
            f"{next(sides)}; its parameters belong to positions: resize the input or initialise anew."
        )
