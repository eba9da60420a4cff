"""The base of layers, operators and models, which checks fields when built, and checks of their inputs."""

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
from flax.errors import ScopeParamShapeError

from tvconv_jax.nn.boxes import unboxed
from tvconv_jax.ops.checks import check_rank, is_integer


class Range(NamedTuple):
    """The valid values of a number, from ``low`` to ``high``; nan and infinity never are."""

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False  # whether the number must be an integer
    above: bool = False  # whether low is excluded
    below: bool = False  # whether high is excluded

    def check(self, name: str, value: Any) -> None:
        """Raise a ``ValueError`` that names the value and the rule, unless the value is in range.

        A range of fractions takes arrays of one number too; a traced one, as of a schedule, is not checked.
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
    """Return the range of an integer field."""
    return Range(low, high, whole=True)


MAX_CLASSES = 1 << 16

# Ranges of the numeric fields of this package's modules. The upper bounds are far beyond useful values; they keep a
# typo from building a model for hours or from asking for all memory.
FIELDS = {
    "kernel_size": count(255),
    "padding": count(4096, low=0),
    "hidden_layers": count(64, low=0),
    "axis": count(2),
    **dict.fromkeys(("rank", "layers"), count(256)),
    **dict.fromkeys(("experts", "inputs", "heads", "expansion"), count(1024)),
    **dict.fromkeys(("strides", "dilation", "output_stride", "patch_size", "affinity_channels"), count(4096)),
    **dict.fromkeys(("hidden_channels", "reduction", "group_channels", "embedding_size"), count(1 << 16)),
    "num_classes": count(MAX_CLASSES, low=0),  # 0: a model without classes
    **dict.fromkeys(("features", "positions", "channels", "hidden"), count(1 << 20)),
    **dict.fromkeys(("temperature", "squeeze"), Range(0, above=True)),
    **dict.fromkeys(("width", "depth"), Range(0, 16, above=True)),
    "momentum": Range(0, 1),
    "epsilon": Range(0),
    "dropout": Range(0, 1, below=True),
}


class Checked(nn.Module):
    """A module that checks its fields when it is built.

    The type of a field gives the rule: a ``Literal`` lists its choices, a ``bool`` is one, and a number is in its range
    of :data:`FIELDS`. ``dtype`` and ``param_dtype`` are floating. Other fields, such as initializers, are not checked.

    A layer, operator or model also declares the facts that other packages need. They hold for exactly this class, see
    :func:`declared`: a subclass that computes something else declares its own. All are optional.

    * ``has_norm``: ``True`` if it normalizes over the batch, and so takes ``train`` (inherited).
    * ``cost(x, y)``: multiply-accumulates of one call with input shape ``x`` and output shape ``y``, see
      :mod:`tvconv_jax.metrics.complexity`; layers inside count themselves.
    * ``generated``: by the name of a parameter, a function that finds its frozen values, see :mod:`.freeze`.
    * ``scalable``: parameters of a kernel made from the image. Their last axis is output channels, and scaling it
      scales the output; export folds the factor of the next norm into them.
    * ``reference_fields``: fields that may differ from their defaults in the PyTorch reference.
    """

    def __post_init__(self) -> None:
        for name, kind in kinds_of(type(self)).items():
            check_field(name, getattr(self, name), kind)
        super().__post_init__()

    @nn.nowrap
    def param(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Return a parameter, as ``nn.Module.param``; one of another shape is a ``ValueError`` of one line."""
        try:
            return super().param(name, *args, **kwargs)
        except ScopeParamShapeError as error:
            built = unboxed(self.get_variable("params", name)).shape
            raise ValueError(
                f"{'/'.join((*self.path, name))} has shape {built}, but this input and this module need {args[1]}: "
                "give the channels and fields that the parameters were made for, or initialize again."
            ) from error


def declared(module: nn.Module, name: str) -> Any:
    """Return what a module's own class declares by that name, without its bases; ``None`` if it does not."""
    return vars(type(module)).get(name)


@functools.cache
def kinds_of(module: type[nn.Module]) -> dict[str, Any]:
    """Return the fields of a module that can be checked with their types, without those of a user's subclass."""
    bases = [base for base in module.__mro__ if base.__module__.startswith("tvconv_jax.")]
    names = {name for base in bases for name in inspect.get_annotations(base)} - {"parent", "name"}
    fields = {field.name: field.type for field in dataclasses.fields(module) if field.name in names}
    checked = {name for name, kind in fields.items() if _is_number(kind) or kind is bool or _choices(kind)}
    return {name: kind for name, kind in fields.items() if name in checked | {"dtype", "param_dtype"}}


def check_field(name: str, value: Any, kind: Any) -> None:
    """Raise a ``ValueError`` unless the value fits a field of that name and type."""
    if name in ("dtype", "param_dtype"):
        _check_dtype(name, value)
    elif choices := _choices(kind):
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


def _check_dtype(name: str, dtype: Any) -> None:
    if dtype is None and name == "dtype":  # the input's
        return
    try:
        floating = dtype is not None and jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
        given = dtype if dtype is None else jnp.dtype(dtype).name
    except TypeError:  # not a dtype
        floating, given = False, repr(dtype)
    if not floating:
        raise ValueError(f"{name}={given} must be floating, as float32 or bfloat16.")


def _choices(kind: Any) -> tuple:
    return get_args(kind) if get_origin(kind) is Literal else ()


def _is_number(kind: Any) -> bool:
    return kind in (int, float) or {*get_args(kind)} in ({int, types.NoneType}, {float, types.NoneType})


def check_choice(name: str, value: Any, choices: Iterable) -> None:
    """Raise a ``ValueError`` that lists the choices, unless the value is one of them."""
    choices = list(choices)
    if getattr(value, "ndim", 0) or value not in choices:  # an array is not equal or unequal to a choice
        raise ValueError(f"{name} {_short(value)} is unknown; there are: {', '.join(map(str, choices))}.")


def check_stages(name: str, stages: Any, choices: Iterable[int]) -> None:
    """Raise a ``ValueError`` unless these are stages of the model, in a list, a range or an array."""
    if not isinstance(stages, tuple | list | range | np.ndarray | jax.Array) or getattr(stages, "ndim", 1) == 0:
        raise ValueError(f"stages={stages!r} must be a list of stages, as [{stages}].")
    for stage in stages:
        check_choice(f"{name} stage", stage, choices)


def _short(value: Any) -> str:
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def check_images(name: str, x: jax.Array, dtype: Any = None) -> jax.Array:
    """Return ``[n, h, w, c]`` as a JAX array, cast to ``dtype`` if one is given.

    Raises:
        ValueError: For another rank, or a dtype not floating.
    """
    x = jnp.asarray(x)
    check_rank(name, x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} is {x.dtype}; it must be floating. Cast it, and scale integers first.")
    return x if dtype is None else x.astype(dtype)


def frozen_values(module: nn.Module, shapes: Mapping[str, tuple]) -> dict[str, jax.Array] | None:
    """Return a module's frozen values by name, or ``None`` if it is not frozen.

    Raises:
        ValueError: If their shapes are not those that the module would generate.
    """
    if not module.has_variable("frozen", next(iter(shapes))):
        return None
    values = {name: nn.meta.unbox(module.get_variable("frozen", name)) for name in shapes}
    title = module.name or type(module).__name__
    for name, shape in shapes.items():
        if values[name] is None:
            raise ValueError(f"{title} needs a frozen {name}, and these variables have none: they were frozen without.")
        check_grid(module, given := values[name].shape, shape[:2])
        if given != shape:
            raise ValueError(f"{title} was frozen with {name} of {given}, but this one has {shape}; freeze it again.")
    return values


def check_grid(module: nn.Module, built: tuple[int, ...], grid: tuple[int, ...]) -> None:
    """Raise a ``ValueError`` if the module's parameters, of shape ``built``, are for another grid than the input's."""
    if built[: len(grid)] != grid:
        theirs, ours = ("x".join(map(str, shape)) for shape in (built[: len(grid)], grid))
        raise ValueError(
            f"{module.name or type(module).__name__} was built for the grid {theirs}, but this input gives {ours}; "
            f"its parameters belong to positions: resize the input or initialize again."
        )


def check_built(module: nn.Module, name: str, grid: tuple[int, ...]) -> None:
    """Raise a ``ValueError`` if the module's parameter exists and is for another grid than the input's."""
    if module.has_variable("params", name):
        check_grid(module, unboxed(module.get_variable("params", name)).shape, grid)
