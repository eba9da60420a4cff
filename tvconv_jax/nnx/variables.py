"""Variables of NNX modules as linen's, under the same names, and initializers and keys of NNX as linen takes them."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.bridge import variables as bridge


@nnx.register_variable_name("frozen")
class FrozenKernel(nnx.Variable):
    """Kernels that :func:`tvconv_jax.nnx.freeze` has computed.

    It is not an ``nnx.Param``: filters, gradients and optimizers of parameters skip it. In linen it is the collection
    ``frozen``.
    """


def param_key(rngs: Any) -> jax.Array:
    """Return a key for parameters.

    Raises:
        ValueError: If there are no ``nnx.Rngs``, or they have no stream for parameters.
    """
    if not isinstance(rngs, nnx.Rngs):
        given = repr(rngs) if rngs is None or isinstance(rngs, int | str) else f"a {type(rngs).__name__}"
        raise ValueError(f"rngs={given} must be nnx.Rngs, which draw the parameters: give rngs=nnx.Rngs(0).")
    if "params" not in rngs and "default" not in rngs:
        raise ValueError(f"rngs have the streams {sorted(rngs)}, but none for parameters: give rngs=nnx.Rngs(0).")
    return rngs.params()


def linen_init(init: nn.initializers.Initializer) -> nn.initializers.Initializer:
    """Return an initializer that boxes arrays with axis names as linen does, from one that may be NNX's."""

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
        drawn = init(key, shape, dtype)
        if not isinstance(drawn, nnx.VariableMetadata):
            return drawn
        names, mesh = (drawn.metadata.get(name) for name in ("out_sharding", "mesh"))
        return nn.Partitioned(drawn.raw_value, tuple(names), mesh) if names else drawn.raw_value

    return draw


def set_variables(module: nnx.Module, variables: Mapping[str, Any]) -> None:
    """Give a module linen's variables as attributes: ``params`` as ``nnx.Param``, ``frozen`` as FrozenKernel."""
    for name, value in bridge.linen_vars_to_nnx_attrs(_dicts(variables)).items():
        setattr(module, name, nnx.data(value))


def get_variables(module: nnx.Module) -> dict[str, Any]:
    """Return the variables among a module's attributes as linen's, by collection."""
    own = {name: value for name, value in vars(module).items() if not name.startswith("_") and _is_variable(value)}
    return {"params": {}, **bridge.nnx_attrs_to_linen_vars(own)}


def _is_variable(value: Any) -> bool:
    """Return whether a value is a variable, or a tree of dicts with variables alone."""
    if isinstance(value, dict):
        return bool(value) and all(map(_is_variable, value.values()))
    return isinstance(value, nnx.Variable)


def _dicts(tree: Any) -> Any:
    """Return a tree of mappings as one of dicts."""
    return {name: _dicts(value) for name, value in tree.items()} if isinstance(tree, Mapping) else tree
