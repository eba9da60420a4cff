"""Freezing: every generated kernel is computed once and kept, and its generator is dropped."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax

from tvconv_jax.nn.boxes import reboxed, unboxed
from tvconv_jax.nn.checks import Checked
from tvconv_jax.ops.generator import Generator, generate, generate_all

AFFINITY_AXES = 3  # [h, w, affinity_channels]

# Given a parameter (or tree of parameters) and the affinity maps beside it, returns the function that computes its
# values from both, unboxed, and the parameter whose last axis names their channels; ``None`` for parameters of another
# form. Operators declare one for each name of a parameter in ``generated``.
Rule = Callable[[Any, jax.Array], tuple[Callable[[Any, jax.Array], jax.Array], Any] | None]


@jax.tree_util.register_pytree_node_class
class Frozen(Mapping[str, Any]):
    """Variables without generators, for the same model; also a function of the model's inputs.

    ``model.apply(frozen, images, train=False)`` and ``frozen(images, train=False)`` are the same.
    """

    def __init__(self, model: nn.Module, variables: Mapping[str, Any]) -> None:
        self.model = model
        #: ``params`` without generators, ``frozen`` with their output, other collections as they were.
        self.variables = dict(variables)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.model.apply(self.variables, *args, **kwargs)

    def __getitem__(self, collection: str) -> Any:
        return self.variables[collection]

    def __iter__(self) -> Iterator[str]:
        return iter(self.variables)

    def __len__(self) -> int:
        return len(self.variables)

    def tree_flatten(self) -> tuple[tuple[dict[str, Any]], nn.Module]:
        return (self.variables,), self.model

    @classmethod
    def tree_unflatten(cls, model: nn.Module, children: tuple[dict[str, Any]]) -> "Frozen":
        return cls(model, children[0])


def freeze(model: nn.Module, variables: Mapping[str, Any]) -> Frozen:
    """Compute every generated weight once and drop the generators.

    Args:
        model: A linen module with :class:`tvconv_jax.TVConv` layers, or linear or low-rank ones, at any depth; also one
            without. Kernels that depend on the input stay as they are. ``nn.scan`` and ``nn.vmap`` must stack layers
            along the first axis, of ``frozen`` too: ``variable_axes={"params": 0, "frozen": 0}``.
        variables: ``params`` and other collections from ``model.init`` or training. Parameters may be boxed, as by
            ``nn.with_partitioning``.

    Returns:
        Variables for the same model, called in the same way: ``model.apply(frozen, x)`` or ``frozen(x)``. Outputs
        are equal up to float32 rounding. Weights from a boxed kernel are boxed likewise, with its name for their
        channels. Other collections, and a user module's own variables in ``frozen``, are unchanged.

    Raises:
        ValueError: If ``model`` is not a linen module, ``variables`` has no ``params`` or shapes in the place of
            arrays, or a generator was stacked along another axis than the first.
    """
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise ValueError(f"{kind} is not a linen module; for an nnx.Module call tvconv_jax.nnx.freeze(model).")
    if "params" not in variables:
        raise ValueError(f"variables hold {sorted(variables)}; they must hold 'params', as model.init returns them.")
    params, frozen = freeze_params(variables["params"])
    others = {name: value for name, value in variables.items() if name not in ("params", "frozen")}
    return Frozen(model, {**others, "params": params, "frozen": _merged(variables.get("frozen", {}), frozen)})


def freeze_params(params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parameters without generators, and the generated values, in two trees of the same shape."""
    return _split(params, _rules(), _generate)


def generate_together(params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split off the weight generators as :func:`freeze_params` does, for training: see :func:`.generate_all`.

    Layers that are stacked, and values that no ``WeightGenerator`` makes, are left to the layers.

    Returns:
        The other parameters, and the values, which are differentiable functions of ``params``.
    """
    found: list[Generator] = []
    kept, indices = _split(params, _rules(), functools.partial(_collect, found))
    with jax.named_scope("generator"):
        values = generate_all(found) if found else []
    return kept, jax.tree.map(lambda index: values[index], indices)


def _collect(found: list[Generator], name: str, params: Mapping[str, Any], rule: Rule) -> int | None:
    """Append a generator among an operator's parameters to a list; return its place, ``None`` if it is not one."""
    affinity = unboxed(params.get("affinity"))
    if affinity is None or isinstance(affinity, Mapping) or affinity.ndim != AFFINITY_AXES:
        return None
    compute = (rule(params[name], affinity) or [None])[0]
    if getattr(compute, "func", None) is not generate:
        return None
    found.append(Generator(unboxed(params[name]), affinity, compute.keywords["padding"]))
    return len(found) - 1


def _rules() -> dict[str, Rule]:
    """Collect the rules of all operators that are loaded, by name of a parameter."""
    rules, classes = {}, [Checked]
    for kind in classes:  # grows while it is read
        classes += kind.__subclasses__()
        rules |= vars(kind).get("generated", {})
    return rules


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two trees; leaves of the new one take precedence."""
    both = {name: _merged(old[name], new[name]) for name in old.keys() & new.keys() if isinstance(old[name], Mapping)}
    return {**old, **new, **both}


def _split(params: Mapping[str, Any], rules: Mapping[str, Rule], compute: Callable) -> tuple[dict, dict]:
    """Split ``params``; ``compute(name, params, rule)`` returns a generator's values, ``None`` if it is not one."""
    generated = {name: compute(name, params, rules[name]) for name in params if name in rules}
    generated = {name: values for name, values in generated.items() if values is not None}
    frozen = {name.split("_")[0]: values for name, values in generated.items()}
    dropped = {*generated, "affinity"} if generated else set()
    kept = {}
    for name in [name for name in params if name not in dropped]:
        if not isinstance(params[name], Mapping):
            kept[name] = params[name]
            continue
        inner_kept, inner_frozen = _split(params[name], rules, compute)
        kept |= {name: inner_kept} if inner_kept else {}
        frozen |= {name: inner_frozen} if inner_frozen else {}
    return kept, frozen


def _generate(name: str, params: Mapping[str, Any], rule: Rule) -> Any:
    """Return the values of a generator among an operator's parameters, ``None`` if it is not one.

    A user's own module may use the name, but not with affinity maps beside it and a generator's form. The values of
    layers that ``nn.scan`` or ``nn.vmap`` stacks are stacked too, and boxed as the generator's last kernel is.
    """
    affinity = unboxed(params.get("affinity"))
    if affinity is None or isinstance(affinity, Mapping) or affinity.ndim < AFFINITY_AXES:
        return None
    if (found := rule(params[name], affinity)) is None:
        return None
    compute, last = found
    arrays, copies = unboxed(params[name]), affinity.ndim - AFFINITY_AXES
    _check_arrays(name, (arrays, affinity))
    _check_stacked(name, arrays, affinity, copies)
    for _ in range(copies):
        compute = jax.vmap(compute)
    values = compute(arrays, affinity)
    unnamed = (None,) * (values.ndim - copies - 1)
    return reboxed(last, values, (*range(copies), *unnamed, unboxed(last).ndim - 1))


def _check_arrays(name: str, params: Any) -> None:
    """Raise a ``ValueError`` for a tree of shapes, as ``eval_shape`` returns it: nothing can be computed from it."""
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params)):
        raise ValueError(f"{name} holds shapes, not arrays; freeze within eval_shape: eval_shape(lambda: freeze(...)).")


def _check_stacked(name: str, params: Any, affinity: jax.Array, copies: int) -> None:
    """Raise a ``ValueError`` unless arrays shared by several layers are stacked along first axes."""
    grid = affinity.shape[copies : copies + 2]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        layer = leaf.shape[copies:]
        # Kernels of a generator are 3x3, and its norms have one number an element of the grid.
        inner = {"kernel": (3, 3), "scale": grid, "bias": grid}.get(getattr(path[-1], "key", "") if path else "", ())
        if leaf.shape[:copies] != affinity.shape[:copies] or layer[: len(inner)] != inner:
            raise ValueError(
                f"{name} has an array of {leaf.shape} beside affinity maps of {affinity.shape}: layers that nn.scan or "
                f"nn.vmap repeats must be stacked along the first axis; give it "
                f'variable_axes={{"params": 0, "frozen": 0}}.'
            )
