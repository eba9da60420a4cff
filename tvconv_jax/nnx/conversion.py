"""Layers and models between linen and NNX, weights bit for bit."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from tvconv_jax.models.registry import MODELS
from tvconv_jax.nn import layers as linen
from tvconv_jax.nn.boxes import unboxed
from tvconv_jax.nn.freeze import freeze
from tvconv_jax.nnx.layers import DepthwiseConv, TVConv
from tvconv_jax.nnx.models import LinenModel
from tvconv_jax.nnx.variables import get_variables, set_variables

Shapes = dict[str, tuple[int | None, ...]]


def from_linen(module: nn.Module, variables: Mapping[str, Any]) -> nnx.Module:
    """Return an NNX module with a linen module's variables.

    Args:
        module: A layer or model of this package; also a linen module of your own, whose variables are checked
            when it is called.
        variables: Its ``params`` and other collections; also those of :func:`tvconv_jax.freeze`.

    Returns:
        :class:`tvconv_jax.nnx.TVConv` or :class:`tvconv_jax.nnx.DepthwiseConv` for these layers, otherwise a
        :class:`tvconv_jax.nnx.LinenModel`. A TVConv with strides takes every input whose output has the same grid.

    Raises:
        ValueError: If the variables are those of another module; the message names the first that differs.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"{type(module).__name__} is not a linen module; to_linen converts from NNX.")
    if not isinstance(variables, Mapping) or "params" not in variables:
        held = sorted(variables) if isinstance(variables, Mapping) else type(variables).__name__
        raise ValueError(f"variables hold {held}; they must hold 'params', as module.init returns them.")
    if type(module) is linen.TVConv:
        return _layer(TVConv, module, variables)
    if type(module) is linen.DepthwiseConv:
        return _layer(DepthwiseConv, module, variables)
    if any(type(module) is model.module for model in MODELS.values()):
        _check(module, _model_shapes(module, frozen="frozen" in variables), variables)
    return LinenModel(module, dict(variables))


def to_linen(model: nnx.Module) -> tuple[nn.Module, dict[str, Any]]:
    """Return the linen module of an NNX layer or model, and its variables.

    Raises:
        ValueError: For a module of another kind; its layers can be converted one by one.
    """
    if isinstance(model, TVConv | DepthwiseConv):
        return model.linen_layer(), get_variables(model)
    if isinstance(model, LinenModel):
        return model.linen_module, get_variables(model)
    raise ValueError(
        f"{type(model).__name__} is not a layer or model of tvconv_jax.nnx; convert its TVConv layers one by one."
    )


def _layer(kind: type[Any], module: Any, variables: Mapping[str, Any]) -> Any:
    """Return an NNX layer of the size that the variables have."""
    place = _place(module, _shapes(variables))
    fields = {field.name: getattr(module, field.name) for field in dataclasses.fields(module)}
    del fields["parent"], fields["name"]

    def build() -> nnx.Module:
        layer = kind(**place, **fields, rngs=nnx.Rngs(0))
        if "frozen" in variables and kind is TVConv:
            layer.freeze()
        return layer

    layer = nnx.eval_shape(build)
    _check(module, _shapes(get_variables(layer)), variables)
    set_variables(layer, variables)
    return layer


def _place(module: Any, found: Shapes) -> dict[str, Any]:
    """Return channels, and the largest grid of a TVConv, from the shapes of a layer's variables."""
    ends = ("frozen/weights", "weights_generator/out/kernel", "weights_edge_generator/out/kernel", "params/kernel")
    features = [shape[-1] for path, shape in found.items() if path.endswith(ends)]
    grids = [found[path][:2] for path in ("frozen/weights", "params/affinity") if path in found]
    if not features or (isinstance(module, linen.TVConv) and not grids):
        held = ", ".join(found) or "nothing"
        raise ValueError(f"these variables are not those of a {type(module).__name__}: they hold {held}.")
    if isinstance(module, linen.DepthwiseConv):
        return {"features": features[0]}
    return {"features": features[0], "grid": tuple(size * module.strides for size in grids[0])}


def _shapes(variables: Mapping[str, Any]) -> Shapes:
    """Return the shapes of variables by ``collection/path``, parameters first."""
    first = sorted(variables, key=lambda name: name != "params")
    flat = nnx.traversals.flatten_mapping({name: variables[name] for name in first})
    for path, leaf in flat.items():
        if not hasattr(unboxed(leaf), "shape"):
            kind = type(leaf).__name__
            raise ValueError(f"{'/'.join(path)} is of type {kind}, not an array; give module.init's variables.")
    return {"/".join(path): tuple(unboxed(leaf).shape) for path, leaf in flat.items()}


def _model_shapes(module: Any, *, frozen: bool) -> Shapes:
    """Return the shapes of a model's variables, ``None`` for sizes that depend on the image."""

    def shapes(size: int) -> Shapes:
        def init(images: jax.Array) -> Any:
            variables = module.init(jax.random.key(0), images)
            return freeze(module, variables).variables if frozen else variables

        return _shapes(jax.eval_shape(init, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)))

    patch = getattr(module, "patch_size", 32)
    one, other = shapes(2 * patch), shapes(3 * patch)
    return {
        path: tuple(a if a == b else None for a, b in zip(shape, other[path], strict=True))
        for path, shape in one.items()
    }


def _check(module: nn.Module, expected: Shapes, variables: Mapping[str, Any]) -> None:
    """Raise a ``ValueError`` that names the first variable that is not the module's."""
    found, kind = _shapes(variables), type(module).__name__
    for path, shape in expected.items():
        if path not in found:
            raise ValueError(f"these variables are not those of this {kind}: they have no {path}, of shape {shape}.")
        fits = len(shape) == len(found[path]) and all(a in (None, b) for a, b in zip(shape, found[path], strict=True))
        if not fits:
            raise ValueError(
                f"these variables are not those of this {kind}: {path} has shape {found[path]}, but must have {shape}."
            )
    for path in found.keys() - expected.keys():
        raise ValueError(f"these variables are not those of this {kind}: it has no {path}.")
