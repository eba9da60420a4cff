"""Freezing of NNX models: every TVConv keeps its kernels, and drops its generator."""

from typing import TypeVar

import flax.linen as nn
from flax import nnx

from tvconv_jax.nn.freeze import freeze as freeze_linen
from tvconv_jax.nnx.layers import TVConv
from tvconv_jax.nnx.models import LinenModel
from tvconv_jax.nnx.variables import get_variables, set_variables

Model = TypeVar("Model", bound=nnx.Module)


def freeze(model: Model) -> Model:
    """Compute every generated kernel once and drop the generators.

    Every :class:`tvconv_jax.nnx.TVConv` is found, however deep, and every linen module in a ``nnx.bridge.ToNNX``. A
    layer that several modules share is frozen once and stays shared.

    Args:
        model: An NNX module, or one of these layers. It is not changed.

    Returns:
        A copy of the model that is called in the same way. Its kernels are :class:`tvconv_jax.nnx.FrozenKernel`
        variables, so filters for ``nnx.Param`` skip them. Outputs are equal up to float32 rounding. Other variables are
        as they were. A model without anything to freeze is copied as it is.

    Raises:
        ValueError: If this is not an NNX module.
    """
    if isinstance(model, nn.Module) or not isinstance(model, nnx.Module):
        kind = type(model).__name__
        raise ValueError(f"{kind} is not an nnx.Module; for a linen module call tvconv_jax.freeze(model, variables).")
    model = nnx.clone(model)
    for module in [module for _, module in nnx.iter_modules(model)]:
        if isinstance(module, TVConv):
            module.freeze()
        elif isinstance(module, LinenModel):
            _freeze_linen(module, module.linen_module)
        elif isinstance(module, nnx.bridge.ToNNX):
            _freeze_linen(module, module.to_nnx__module)
    return model


def _freeze_linen(module: nnx.Module, linen: nn.Module) -> None:
    """Freeze the linen module behind an NNX module whose attributes are its variables."""
    variables = get_variables(module)
    frozen = dict(freeze_linen(linen, variables))
    if not frozen.get("frozen"):
        return
    for name in {name for tree in variables.values() for name in tree}:
        delattr(module, name)
    set_variables(module, frozen)
