"""Training over, every kernel is computed once and kept: the generators go."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax

from tvconv_jax.nn.boxes import reboxed, unboxed
from tvconv_jax.nn.layers import GENERATOR_NAMES, GeneratorPadding, WeightGenerator
from tvconv_jax.nn.operators.tvconv_linear import linear_map

AFFINITY_AXES = 3  # [h, w, affinity_channels]
LINEAR = {"weights_linear": 3, "bias_linear": 2}  # axes of [affinity_channels, k*k, c], [affinity_channels, c]


@jax.tree_util.register_pytree_node_class
class Frozen(Mapping):
    """Variables without generators, for the same model; also a function of the model's inputs.

    ``model.apply(frozen, images, train=False)`` and ``frozen(images, train=False)`` are the same.

    Attributes:
        model: The module these variables belong to.
        variables: ``params`` without generators, ``frozen`` with their output, other collections as they were.
    """

    def __init__(self, model: nn.Module, variables: Mapping[str, Any]) -> None:
        self.model = model
        self.variables = dict(variables)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.model.apply(self.variables, *args, **kwargs)

    def __getitem__(self, collection: str) -> Any:
        return self.variables[collection]

    def __iter__(self) -> Iterator[str]:
        return iter(self.variables)

    def __len__(self) -> int:
        return len(self.variables)

    def tree_flatten(self) -> tuple[tuple[dict], nn.Module]:
        return (self.variables,), self.model

    @classmethod
    def tree_unflatten(cls, model: nn.Module, children: tuple[dict]) -> "Frozen":
        return cls(model, children[0])


def freeze(model: nn.Module, variables: Mapping[str, Any]) -> Frozen:
    """Computes every weight that a generator yields and drops the generators.

    Args:
        model: Any linen module that holds :class:`tvconv_jax.TVConv` layers, or their linear or low-rank kin, at any
            depth; also one with none. What depends on the input stays as it is. Where ``nn.scan`` or ``nn.vmap`` runs
            through them, it must do so along the first axis, of ``frozen`` too:
            ``variable_axes={"params": 0, "frozen": 0}``.
        variables: What ``model.init`` or training gave: ``params`` and other collections. Parameters may be boxed, as
            ``nn.with_partitioning`` makes them.

    Returns:
        Variables for the same model, called in the same way: ``model.apply(frozen, x)`` or ``frozen(x)``. Outputs
        are equal to float32 rounding. Weights whose generator ends in a boxed kernel are in a box of the same kind,
        their channels under the name that the kernel's have. Other collections, and what a module of the user's own
        keeps in ``frozen``, are as they were.

    Raises:
        ValueError: If ``variables`` has no ``params``, or a generator was stacked along another axis than the first.
    """
    if "params" not in variables:
        raise ValueError(f"variables hold {sorted(variables)}; they must hold 'params', as model.init returns them.")
    params, frozen = _split(variables["params"])
    others = {name: value for name, value in variables.items() if name not in ("params", "frozen")}
    return Frozen(model, {**others, "params": params, "frozen": _merged(variables.get("frozen", {}), frozen)})


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Both trees in one; where both have a leaf, the new one."""
    both = {name: _merged(old[name], new[name]) for name in old.keys() & new.keys() if isinstance(old[name], Mapping)}
    return {**old, **new, **both}


def _split(params: Mapping[str, Any]) -> tuple[dict, dict]:
    """Parameters without generators, and what the generators yield, in two trees of the same shape."""
    generated = {name: _generate(name, params) for name in params}
    frozen = {name.split("_")[0]: values for name, values in generated.items() if values is not None}
    gone = {name for name, values in generated.items() if values is not None} | ({"affinity"} if frozen else set())
    kept = {}
    for name, value in params.items():
        if name in gone:
            continue
        if isinstance(value, Mapping):
            inner_kept, inner_frozen = _split(value)
            kept |= {name: inner_kept} if inner_kept else {}
            frozen |= {name: inner_frozen} if inner_frozen else {}
        else:
            kept[name] = value
    return kept, frozen


def _generate(name: str, params: Mapping[str, Any]) -> Any:
    """What the generator of that name in an operator's parameters yields; ``None`` if it is none.

    All that a generator needs stands in its parameters and its name. A module of the user's own may have the name, but
    not affinity maps beside it, or not a generator's form.
    """
    own, affinity = params[name], unboxed(params.get("affinity"))
    if affinity is None or isinstance(affinity, Mapping) or affinity.ndim < AFFINITY_AXES:
        return None
    if name in LINEAR and not isinstance(own, Mapping) and _is_linear(name, unboxed(own), affinity):
        return _stacked(name, lambda kernel, affinity: linear_map(affinity, kernel), own, affinity, last=own)
    for padding, suffix in GENERATOR_NAMES.items():
        named = name in (f"weights_{suffix}", f"gains_{suffix}", f"bias_{suffix}")
        if named and _is_generator(own):
            compute = functools.partial(_generated, padding=padding)
            return _stacked(name, compute, own, affinity, last=own["out"]["kernel"])
    return None


def _is_generator(own: Any) -> bool:
    """Whether these are all the parameters of a :class:`WeightGenerator`, and no others."""
    if not isinstance(own, Mapping) or not {"block_0", "out"} <= set(own):
        return False
    forms = {name: {"kernel"} if name == "out" else {"conv", "scale", "bias"} for name in own}
    return all(isinstance(own[name], Mapping) and set(own[name]) == form for name, form in forms.items())


def _is_linear(name: str, kernel: jax.Array, affinity: jax.Array) -> bool:
    """Whether it has the axes of a linear map, and a row for every affinity map; in what order is checked later."""
    axes = LINEAR[name] + affinity.ndim - AFFINITY_AXES
    return kernel.ndim == axes and affinity.shape[-1] in kernel.shape


def _generated(own: Mapping[str, Any], affinity: jax.Array, *, padding: GeneratorPadding) -> jax.Array:
    generator = WeightGenerator(
        features=own["out"]["kernel"].shape[3:],
        hidden_channels=own["block_0"]["conv"]["kernel"].shape[3],
        hidden_layers=len(own) - 2,
        padding=padding,
    )
    return generator.apply({"params": own}, affinity)


def _stacked(name: str, compute: Callable, own: Any, affinity: jax.Array, *, last: Any) -> Any:
    """Once for every layer that ``nn.scan`` or ``nn.vmap`` keeps along first axes; in the box of the last kernel."""
    arrays, copies = unboxed(own), affinity.ndim - AFFINITY_AXES
    _check_stacked(name, arrays, affinity, copies)
    for _ in range(copies):
        compute = jax.vmap(compute)
    values = compute(arrays, affinity)
    channels = unboxed(last).ndim - 1
    unnamed = (None,) * (values.ndim - copies - 1)
    return reboxed(last, values, (*range(copies), *unnamed, channels))


def _check_stacked(name: str, own: Any, affinity: jax.Array, copies: int) -> None:
    """Raises a ``ValueError`` if what several layers share an array for does not lie along first axes."""
    grid = affinity.shape[copies : copies + 2]
    for path, leaf in jax.tree_util.tree_leaves_with_path(own):
        layer = leaf.shape[copies:]
        # Kernels of a generator are 3x3, and its norms have one number an element of the grid.
        inner = {"kernel": (3, 3), "scale": grid, "bias": grid}.get(getattr(path[-1], "key", "") if path else "", ())
        if copies < 0 or leaf.shape[:copies] != affinity.shape[:copies] or layer[: len(inner)] != inner:
            raise ValueError(
                f"{name} has an array of {leaf.shape} beside affinity maps of {affinity.shape}: layers that nn.scan or "
                f"nn.vmap repeats must be stacked along the first axis; give it "
                f'variable_axes={{"params": 0, "frozen": 0}}.'
            )
