"""Weights of the PyTorch reference <-> Flax variables. Every name is used or the conversion fails, both ways.

A model is a list of layers, each with its name in either world and its kind; a kind is a list of tensors. Both
directions read the same lists, which follow the models' own descriptions. Source of the names:
github.com/JierunChen/TVConv (609d4bf).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from tvconv_jax.nn.boxes import is_boxed, unboxed
from tvconv_jax.nn.checks import declared
from tvconv_jax.nn.layers import DepthwiseConv, TVConv

Path = tuple[str, ...]
Layer = tuple[str, Path, list["Tensor"]]  # its name in PyTorch, its path in Flax, its tensors


class Tensor(NamedTuple):
    """One tensor of a layer: its name in either world, and the conversions between both layouts."""

    torch: str
    flax: Path  # collection first
    to_flax: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


def _axes(*axes: int) -> tuple[Callable, Callable]:
    return lambda x: x.transpose(axes), lambda x: x.transpose(np.argsort(axes))


SAME = _axes(0)
CONV_AXES = _axes(2, 3, 1, 0)  # [out, in, kh, kw] <-> [kh, kw, in, out]
MAP_AXES = _axes(1, 2, 0)  # [c, h, w] <-> [h, w, c]
AFFINITY_AXES = (lambda x: x[0].transpose(1, 2, 0), lambda x: x.transpose(2, 0, 1)[None])
POINTWISE_AXES = (lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])

BIAS = Tensor("bias", ("params", "bias"), *SAME)
CONV = [Tensor("weight", ("params", "kernel"), *CONV_AXES)]
POINTWISE = [Tensor("weight", ("params", "kernel"), *POINTWISE_AXES)]
DENSE = [Tensor("weight", ("params", "kernel"), *_axes(1, 0)), BIAS]
NORM = [
    Tensor("weight", ("params", "scale"), *SAME),
    BIAS,
    Tensor("running_mean", ("batch_stats", "mean"), *SAME),
    Tensor("running_var", ("batch_stats", "var"), *SAME),
]

# Integers that the reference keeps as buffers; they follow from the shapes and carry no weights.
BOOKKEEPING = ("num_batches_tracked", "TVConv_k", "TVConv_k_square", "stride", "channels", "h", "w")


def _taps(taps: int) -> tuple[Callable, Callable]:
    """Return the conversions ``[c * t, in, 3, 3]``, channel-major <-> ``[3, 3, in, t, c]``."""

    def split(x: np.ndarray) -> np.ndarray:
        return x.reshape(-1, taps, *x.shape[1:]).transpose(3, 4, 2, 1, 0)

    return split, lambda x: x.transpose(4, 3, 2, 0, 1).reshape(-1, x.shape[2], *x.shape[:2])


def _generator(branch: str, ours: str, hidden_layers: int, last: tuple[Callable, Callable]) -> Iterator[Tensor]:
    for i in range(hidden_layers + 1):
        yield Tensor(f"{branch}.{i}.0.weight", ("params", ours, f"block_{i}", "conv", "kernel"), *CONV_AXES)
        yield Tensor(f"{branch}.{i}.1.weight", ("params", ours, f"block_{i}", "scale"), *MAP_AXES)
        yield Tensor(f"{branch}.{i}.1.bias", ("params", ours, f"block_{i}", "bias"), *MAP_AXES)
    yield Tensor(f"{branch}.{hidden_layers + 1}.weight", ("params", ours, "out", "kernel"), *last)


def _operator(module: nn.Module, *, in_model: bool = True) -> list[Tensor]:
    if type(module) not in (TVConv, DepthwiseConv):
        raise ValueError(f"{type(module).__name__} has no counterpart in the reference; TVConv and DepthwiseConv do.")
    _check_counterpart(module, fixed=("dilation", "padding") if in_model else ())
    if isinstance(module, DepthwiseConv):
        return CONV + ([BIAS] if module.use_bias else [])
    tensors = [Tensor("posi_map", ("params", "affinity"), *AFFINITY_AXES)]
    taps = _taps(module.kernel_size**2)
    tensors += _generator("weight_layers", module.generator_name("weights"), module.hidden_layers, taps)
    if module.use_bias:
        tensors += _generator("bias_layers", module.generator_name("bias"), module.hidden_layers, CONV_AXES)
    return tensors


def _staged(model: nn.Module, stage: int) -> list[Tensor]:
    return _operator(model.conv() if stage in model.stages else DepthwiseConv())


def conv_norm(theirs: str, ours: Path, conv: list[Tensor], first: int = 0) -> Iterator[Layer]:
    """Yield a convolution and its norm, numbers ``first`` and ``first + 1`` of a sequence there."""
    yield f"{theirs}.{first}", (*ours, "conv"), conv
    yield f"{theirs}.{first + 1}", (*ours, "norm"), NORM


def inverted_residual(theirs: str, ours: Path, expansion: int, operator: list[Tensor]) -> Iterator[Layer]:
    if expansion != 1:
        yield from conv_norm(f"{theirs}.0", (*ours, "expand"), POINTWISE)
    j = int(expansion != 1)
    yield from conv_norm(f"{theirs}.{j}", ours, operator)
    yield from conv_norm(theirs, (*ours, "project"), POINTWISE, j + 1)


def _mobilenetv2(model: nn.Module) -> Iterator[Layer]:
    yield from conv_norm("features.0", ("stem",), CONV)
    for i, row in enumerate(model.blocks(), start=1):
        yield from inverted_residual(f"features.{i}.conv", (row.name,), row.expansion, _staged(model, row.stage))
    yield from conv_norm(f"features.{i + 1}", ("last",), POINTWISE)
    yield from _head()


def _deeplabv3plus(model: nn.Module) -> Iterator[Layer]:
    yield from conv_norm("backbone.low_level_features.0", ("backbone", "stem"), CONV)
    low, high = model.backbone()
    for i, row in enumerate(low + high, start=1):
        part = "low_level_features" if i <= len(low) else "high_level_features"
        yield from inverted_residual(f"backbone.{part}.{i}.conv", ("backbone", row.name), row.expansion, CONV)
    yield from conv_norm("classifier.project", ("low_level",), POINTWISE)
    yield from conv_norm("classifier.aspp.convs.0", ("pyramid", "point"), POINTWISE)
    for i, row in enumerate(model.pyramid(), start=1):
        theirs, ours = f"classifier.aspp.convs.{i}", ("pyramid", row.name)
        if model.conv is None:
            yield from conv_norm(theirs, ours, CONV)
        else:
            yield from inverted_residual(f"{theirs}.0.conv", ours, row.expansion, _operator(model.conv()))
    yield from conv_norm(f"classifier.aspp.convs.{i + 1}", ("pyramid", "image"), POINTWISE, 1)
    yield from conv_norm("classifier.aspp.project", ("pyramid", "project"), POINTWISE)
    yield from conv_norm("classifier.classifier", ("fuse",), CONV)
    yield "classifier.classifier.3", ("classify",), [*POINTWISE, BIAS]


def _shufflenetv2(model: nn.Module) -> Iterator[Layer]:
    yield from conv_norm("conv1", ("stem",), CONV)
    for row in model.units():
        theirs, operator = f"stage{row.stage}.{row.index}", _staged(model, row.stage)
        if row.strides == 2:
            yield from conv_norm(f"{theirs}.branch1", (row.name, "shortcut"), operator)
            yield from conv_norm(f"{theirs}.branch1", (row.name, "shortcut", "project"), POINTWISE, 2)
        yield from conv_norm(f"{theirs}.branch2", (row.name, "branch", "expand"), POINTWISE)
        yield from conv_norm(f"{theirs}.branch2", (row.name, "branch"), operator, 3)
        yield from conv_norm(f"{theirs}.branch2", (row.name, "branch", "project"), POINTWISE, 5)
    yield from conv_norm("conv5", ("last",), POINTWISE)
    yield from _head()


def _head() -> Iterator[Layer]:
    yield "output_layer.layer1", ("head", "norm_in"), NORM
    yield "output_layer.layer2.0", ("head", "dense"), DENSE
    yield "output_layer.layer2.1", ("head", "norm_out"), NORM


MODELS = {"MobileNetV2": _mobilenetv2, "ShuffleNetV2": _shufflenetv2, "DeepLabV3Plus": _deeplabv3plus}


def _check_counterpart(module: nn.Module, *, fixed: Iterable[str] = ()) -> None:
    """Raise a ``ValueError`` unless the reference has such a layer or model.

    Fields other than its ``reference_fields``, and those that its place leaves no choice for (``fixed``), must have
    their defaults: the reference has nothing else.
    """
    name, fields = type(module).__name__, declared(module, "reference_fields")
    if fields is None:
        known = ", ".join(("TVConv", "DepthwiseConv", *MODELS))
        raise ValueError(f"{name} has no counterpart in the reference; these have: {known}.")
    for field in dataclasses.fields(module):
        value, free = getattr(module, field.name), field.name in ("parent", "name", *fields)
        if value != field.default and (not free or field.name in fixed):
            value, default = (getattr(a, "__name__", None) or repr(a) for a in (value, field.default))
            raise ValueError(f"{name} with {field.name}={value} has no counterpart in the reference; {default} has.")


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    _check_counterpart(model)
    walk = MODELS.get(type(model).__name__)
    return by_name(walk(model) if walk else [("", (), _operator(model, in_model=False))])


def by_name(layers: Iterable[Layer]) -> dict[str, Tensor]:
    """Return every tensor of the layers by its full name there, with its full path here."""
    tensors = {}
    for theirs, ours, layer_tensors in layers:
        for tensor in layer_tensors:
            collection, *rest = tensor.flax
            name = f"{theirs}.{tensor.torch}" if theirs else tensor.torch
            tensors[name] = tensor._replace(torch=name, flax=(collection, *ours, *rest))
    return tensors


def without_buffers(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a state dict without its integer buffers."""
    return {name: value for name, value in state_dict.items() if name.split(".")[-1] not in BOOKKEEPING}


def from_torch(state_dict: Mapping[str, np.ndarray], model: nn.Module) -> dict[str, Any]:
    """Convert the reference's weights to Flax variables.

    Args:
        state_dict: The reference's ``state_dict``, each tensor as a numpy array, PyTorch's layouts. Its integer
            buffers (``num_batches_tracked``, ``stride``, ...) are optional.
        model: The linen model of the variables: MobileNetV2, ShuffleNetV2, DeepLabV3+, or a bare TVConv or depthwise
            layer.

    Returns:
        ``{"params": ..., "batch_stats": ...}`` of float32 numpy arrays, in boxes where the model's are.

    Raises:
        ValueError: If a name is missing or left over (both sides are listed), a tensor is of another shape than the
            model's, or the model has no counterpart.
    """
    state, tensors = without_buffers(state_dict), _tensors(model)
    check_names("the state dict", set(state), set(tensors))
    state = {name: np.asarray(value) for name, value in state.items()}
    kernel_size = int(state_dict.get("TVConv_k", getattr(model, "kernel_size", 0)))
    if isinstance(model, TVConv) and kernel_size != model.kernel_size:  # channels may be such that no shape tells
        raise ValueError(f"the state dict is for kernel_size={kernel_size}, but the layer's is {model.kernel_size}.")
    shapes = jax.eval_shape(functools.partial(model.init, jax.random.key(0)), _input(state, model))
    boxes, variables = flatten_dict(shapes), flatten_dict(unboxed(shapes))
    _check_shapes(state, tensors, variables)
    flat = {t.flax: np.ascontiguousarray(t.to_flax(state[name]), np.float32) for name, t in tensors.items()}
    boxed = {path: boxes[path].replace_boxed(a) for path, a in flat.items() if is_boxed(boxes[path])}
    return unflatten_dict(flat | boxed)


def _check_shapes(
    state: Mapping[str, np.ndarray], tensors: Mapping[str, Tensor], variables: Mapping[Path, jax.ShapeDtypeStruct]
) -> None:
    """Raise a ``ValueError`` unless every tensor has the shape of the model's, except for the grid of maps."""
    for name, tensor in tensors.items():
        given = state[name].shape
        # Converts an array of the model's shape that takes no memory.
        expected = tensor.to_torch(np.broadcast_to(np.float32(0), variables[tensor.flax].shape)).shape
        of_grid = tensor.flax[-1] == "affinity" or "block_" in tensor.flax[-2] and tensor.flax[-1] in ("scale", "bias")
        if len(given) != len(expected) or (given[:-2] != expected[:-2] if of_grid else given != expected):
            grid = "; height and width may be others" if of_grid else ""
            raise ValueError(
                f"{name} is {given} in the state dict, but this model's is {expected}{grid}: "
                f"another width, kernel size or generator; build the model with the fields of that one."
            )


def _input(state: Mapping[str, np.ndarray], model: nn.Module) -> jax.ShapeDtypeStruct:
    """Return an input of the model; the weights of a bare layer give the channels."""
    channels = 3
    if isinstance(model, TVConv):
        channels = state[f"weight_layers.{model.hidden_layers + 1}.weight"].shape[0] // model.kernel_size**2
    elif isinstance(model, DepthwiseConv):
        channels = state["weight"].shape[0]
    return jax.ShapeDtypeStruct((1, 32, 32, max(1, channels)), np.float32)


def to_torch(variables: Mapping[str, Any], model: nn.Module) -> dict[str, np.ndarray]:
    """Convert Flax variables to the reference's weights.

    Args:
        variables: ``{"params": ..., "batch_stats": ...}`` of the model, not frozen; boxed or not.
        model: The linen model of the variables.

    Returns:
        The reference's ``state_dict`` in its order, as numpy arrays, without its integer buffers: load it with
        ``strict=False`` or update a ``state_dict()`` with it.

    Raises:
        ValueError: If a name is missing or left over (both sides are listed), or the model has no counterpart.
    """
    flat = flatten_dict(unboxed(dict(variables)))
    tensors = _tensors(model)
    paths = {"/".join(path) for path in flat}
    check_names("the variables", paths, {"/".join(t.flax) for t in tensors.values()})
    return {name: np.ascontiguousarray(t.to_torch(np.asarray(flat[t.flax]))) for name, t in tensors.items()}


def check_names(kind: str, given: set[str], expected: set[str]) -> None:
    """Raise a ``ValueError`` that lists both sides, unless they are equal."""
    if given != expected:
        missing, extra = sorted(expected - given), sorted(given - expected)
        raise ValueError(f"{kind} and the model do not match. Missing: {_short(missing)}. Left over: {_short(extra)}.")


def _short(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "none"
