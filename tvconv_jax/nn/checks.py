"""What layers, operators and models check: their fields when they are built, their input when they are called."""

import dataclasses
import functools
import inspect
import math
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args, get_origin

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


class Range(NamedTuple):
    """The values that a number may have; nan and infinity are never among them.

    Attributes:
        low: The least value.
        high: The largest value.
        whole: Whether it must be an integer.
        above: Whether ``low`` itself is too small.
        below: Whether ``high`` itself is too large.
    """

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    above: bool = False
    below: bool = False

    def check(self, name: str, value: Any) -> None:
        """Raise a ``ValueError`` that names the value and the rule, unless the value is in range.

        Where fractions may stand, an array of one number may, too; what a traced one, as of a schedule, will be is not
        known here.
        """
        if isinstance(value, np.ndarray | jax.Array) and value.ndim == 0 and not self.whole:
            if isinstance(value, jax.core.Tracer):
                return
            value = value.item()
        if self.whole and not is_integer(value):
            raise ValueError(f"{name} {_short(value)} must be a whole number.")
        if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
            raise ValueError(f"{name} {_short(value)} must be a number.")
        too_small = value < self.low or (self.above and value == self.low)
        too_large = value > self.high or (self.below and value == self.high)
        if too_small or too_large or not (self.whole or math.isfinite(value)):
            raise ValueError(f"{name} {_short(value)} must be {self._rule(too_small)}.")

    def _rule(self, too_small: bool) -> str:
        lower = f"{'greater than' if self.above else 'at least'} {self.low:.12g}"
        if self.high < math.inf:
            upper = f"{'less than' if self.below else 'at most'} {self.high:.12g}"
            return lower if too_small else f"{lower}, and {upper}"
        if self.low == -math.inf:
            return "finite"
        return lower if self.whole else f"{lower}, and finite"


def count(high: int, low: int = 1) -> Range:
    """The range of an integer field."""
    return Range(low, high, whole=True)


# The range of every number among the fields of this package's modules. The upper bounds are far beyond what makes
# sense; they keep a slip of the keyboard from building a model for hours, or from asking for all the memory there is.
FIELDS = {
    "kernel_size": count(255),
    "strides": count(4096),
    "dilation": count(4096),
    "padding": count(4096, low=0),
    "margin": count(4096, low=0),
    "axis": count(2),
    "features": count(1 << 20),
    "affinity_channels": count(4096),
    "hidden_channels": count(1 << 16),
    "hidden_layers": count(64, low=0),
    "rank": count(256),
    "experts": count(1024),
    "reduction": count(1 << 16),
    "temperature": Range(0, above=True),
    "inputs": count(1024),
    "group_channels": count(1 << 16),
    "squeeze": Range(0, above=True),
    "heads": count(1024),
    "width": Range(0, 16, above=True),
    "depth": Range(0, 16, above=True),
    "layers": count(256),
    "patch_size": count(4096),
    "positions": count(1 << 20),
    "channels": count(1 << 20),
    "hidden": count(1 << 20),
    "expansion": count(1024),
    "embedding_size": count(1 << 16),
    "num_classes": count(1 << 16),
    "output_stride": count(4096),
    "momentum": Range(0, 1),
    "epsilon": Range(0),
    "dropout": Range(0, 1, below=True),
}


class Checked(nn.Module):
    """A module whose fields are checked when it is built, by whoever builds it.

    The type of a field tells how: a ``Literal`` lists its choices, a ``bool`` is one, and a number is in its range of
    :data:`FIELDS`. Others, such as initializers, are left alone.
    """

    def __post_init__(self) -> None:
        for name, kind in kinds_of(type(self)).items():
            check_field(name, getattr(self, name), kind)
        super().__post_init__()


@functools.cache
def kinds_of(module: type[nn.Module]) -> dict[str, Any]:
    """The fields of a module that can be checked, with their types; those that a user's subclass adds are its own."""
    ours = [base for base in module.__mro__ if base.__module__.startswith("tvconv_jax.")]
    declared = {name for base in ours for name in inspect.get_annotations(base)}
    fields = {field.name: field.type for field in dataclasses.fields(module) if field.name in declared}
    fields = {name: kind for name, kind in fields.items() if name not in ("parent", "name")}
    return {name: kind for name, kind in fields.items() if _is_number(kind) or kind is bool or _choices(kind)}


def check_field(name: str, value: Any, kind: Any) -> None:
    """Raise a ``ValueError`` unless the value fits a field of that name and type."""
    if choices := _choices(kind):
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{name}={value!r} is not one of {list(choices)}.")
    elif kind is bool:
        if not isinstance(value, bool | np.bool_):
            raise ValueError(f"{name}={value!r} must be True or False.")
    elif _is_number(kind) and not (value is None and types.NoneType in get_args(kind)):
        if isinstance(value, tuple | list) and name in ("kernel_size", "strides", "dilation", "padding"):
            raise ValueError(f"{name}={value!r} must be one integer, the same for height and width.")
        FIELDS[name].check(name, value)
        if name == "kernel_size" and value % 2 == 0:
            raise ValueError(f"kernel_size={value} must be odd, so that every pixel has a center tap.")


def _choices(kind: Any) -> tuple:
    return get_args(kind) if get_origin(kind) is Literal else ()


def _is_number(kind: Any) -> bool:
    return kind in (int, float) or {*get_args(kind)} in ({int, types.NoneType}, {float, types.NoneType})


def check_choice(what: str, value: Any, choices: Iterable) -> None:
    """Raise a ``ValueError`` that lists the choices, unless the value is one of them."""
    choices = list(choices)
    if getattr(value, "ndim", 0) or value not in choices:  # an array is not equal or unequal to a choice
        raise ValueError(f"{what} {_short(value)} is unknown; there are: {', '.join(map(str, choices))}.")


def check_stages(what: str, stages: Any, choices: Iterable[int]) -> None:
    """Raise a ``ValueError`` unless these are stages of the model, in a list, a range or an array."""
    if not isinstance(stages, tuple | list | range | np.ndarray | jax.Array) or getattr(stages, "ndim", 1) == 0:
        raise ValueError(f"stages={stages!r} must be a list of stages, as [{stages}].")
    for stage in stages:
        check_choice(f"{what} stage", stage, choices)


def _short(value: Any) -> str:
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def is_integer(value: Any) -> bool:
    """Whether it is one integer, NumPy's too; ``True`` is none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


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
            f"{next(sides)}; its parameters belong to positions: resize the input or initialize anew."
        )


def check_integers(**values: int) -> None:
    """Raise a ``ValueError`` for an option of a convolution that is not one integer."""
    for name, value in values.items():
        if not is_integer(value):
            raise ValueError(f"{name}={value!r} must be one integer, the same along both axes.")


def check_input(x: jax.Array, strides: int) -> None:
    """Raise a ``ValueError`` unless a convolution can take the input and the strides."""
    if x.ndim != 4:
        way = " Add the batch axis with x[None]." if x.ndim == 3 else ""
        raise ValueError(f"x has shape {x.shape}; it must be [n, h, w, c].{way}")
    if x.dtype not in (jnp.float32, jnp.bfloat16, jnp.float64):
        raise ValueError(f"x is {x.dtype}; it must be float32, bfloat16 or float64. Cast it, and scale integers first.")
    if not is_integer(strides) or strides < 1:
        raise ValueError(f"strides={strides!r} must be one positive integer.")


def check_taps(name: str, taps: int) -> int:
    """Return the side of a kernel of so many taps; raise a ``ValueError`` if it is not odd."""
    kernel_size = math.isqrt(taps)
    if kernel_size**2 != taps or kernel_size % 2 == 0:
        raise ValueError(f"{name} has {taps} taps; it must be k*k for an odd kernel size k (1, 9, 25, 49, ...).")
    return kernel_size
