"""Weights of the PyTorch reference <-> Flax variables. Every name is used or the conversion fails, both ways.

A model is a list of layers, each with its name in either world and its kind; a kind is a list of tensors. Both
directions read the same lists. Source of the names: github.com/JierunChen/TVConv (609d4bf).
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from tvconv_jax.convert.counterparts import check_counterpart
from tvconv_jax.models.blocks import repeats
from tvconv_jax.models.deeplabv3plus import LOW_STAGE, DeepLabV3Plus
from tvconv_jax.models.mobilenetv2 import STAGES, MobileNetV2
from tvconv_jax.models.shufflenetv2 import UNITS, ShuffleNetV2
from tvconv_jax.nn.boxes import is_boxed, unboxed
from tvconv_jax.nn.layers import GENERATOR_NAMES, DepthwiseConv, TVConv

Path = tuple[str, ...]


class Tensor(NamedTuple):
    """One tensor of a layer: its name in either world, and how one layout becomes the other."""

    torch: str
    flax: Path  # collection first
    to_flax: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


class Layer(NamedTuple):
    """One layer: its name in either world and its tensors."""

    torch: str
    flax: Path
    tensors: list[Tensor]


def _axes(*axes: int) -> tuple[Callable, Callable]:
    return lambda x: x.transpose(axes), lambda x: x.transpose(np.argsort(axes))


SAME = _axes(0)
MATRIX = _axes(1, 0)
CONV_AXES = _axes(2, 3, 1, 0)  # [out, in, kh, kw] <-> [kh, kw, in, out]
MAP_AXES = _axes(1, 2, 0)  # [c, h, w] <-> [h, w, c]
AFFINITY_AXES = (lambda x: x[0].transpose(1, 2, 0), lambda x: x.transpose(2, 0, 1)[None])
POINTWISE_AXES = (lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])

CONV = [Tensor("weight", ("params", "kernel"), *CONV_AXES)]
POINTWISE = [Tensor("weight", ("params", "kernel"), *POINTWISE_AXES)]
CLASSIFIER = [POINTWISE[0], Tensor("bias", ("params", "bias"), *SAME)]
DENSE = [Tensor("weight", ("params", "kernel"), *MATRIX), Tensor("bias", ("params", "bias"), *SAME)]
NORM = [
    Tensor("weight", ("params", "scale"), *SAME),
    Tensor("bias", ("params", "bias"), *SAME),
    Tensor("running_mean", ("batch_stats", "mean"), *SAME),
    Tensor("running_var", ("batch_stats", "var"), *SAME),
]

# Integers that the reference keeps as buffers; they follow from the shapes and carry no weights.
BOOKKEEPING = ("num_batches_tracked", "TVConv_k", "TVConv_k_square", "stride", "channels", "h", "w")


def _split_taps(x: np.ndarray, taps: int) -> np.ndarray:
    """``[c * t, in, 3, 3]``, channel-major -> ``[3, 3, in, t, c]``."""
    return x.reshape(-1, taps, *x.shape[1:]).transpose(3, 4, 2, 1, 0)


def _join_taps(x: np.ndarray) -> np.ndarray:
    """``[3, 3, in, t, c]`` -> ``[c * t, in, 3, 3]``, channel-major."""
    x = x.transpose(4, 3, 2, 0, 1)
    return x.reshape(-1, *x.shape[2:])


def _generator(branch: str, ours: str, hidden_layers: int, last: tuple[Callable, Callable]) -> Iterator[Tensor]:
    for i in range(hidden_layers + 1):
        yield Tensor(f"{branch}.{i}.0.weight", ("params", ours, f"block_{i}", "conv", "kernel"), *CONV_AXES)
        yield Tensor(f"{branch}.{i}.1.weight", ("params", ours, f"block_{i}", "scale"), *MAP_AXES)
        yield Tensor(f"{branch}.{i}.1.bias", ("params", ours, f"block_{i}", "bias"), *MAP_AXES)
    yield Tensor(f"{branch}.{hidden_layers + 1}.weight", ("params", ours, "out", "kernel"), *last)


def _spatial(module: nn.Module, *, in_model: bool = False) -> list[Tensor]:
    """Tensors of the spatial operator."""
    if type(module) not in (TVConv, DepthwiseConv):
        raise ValueError(f"{type(module).__name__} has no counterpart in the reference; TVConv and DepthwiseConv do.")
    check_counterpart(module, fixed=("dilation", "padding") if in_model else ())
    if isinstance(module, DepthwiseConv):
        return CONV + (DENSE[1:] if module.use_bias else [])
    suffix = GENERATOR_NAMES[module.generator_padding]
    taps = (functools.partial(_split_taps, taps=module.kernel_size**2), _join_taps)
    tensors = [Tensor("posi_map", ("params", "affinity"), *AFFINITY_AXES)]
    tensors += _generator("weight_layers", f"weights_{suffix}", module.hidden_layers, taps)
    if module.use_bias:
        tensors += _generator("bias_layers", f"bias_{suffix}", module.hidden_layers, CONV_AXES)
    return tensors


def _operator(model: nn.Module, stage: int) -> list[Tensor]:
    return _spatial(model.conv() if stage in model.stages else DepthwiseConv(), in_model=True)


def conv_norm(theirs: str, ours: Path, conv: list[Tensor], first: int = 0) -> Iterator[Layer]:
    """A convolution and the norm behind it, numbers ``first`` and ``first + 1`` of a sequence there."""
    yield Layer(f"{theirs}.{first}", (*ours, "conv"), conv)
    yield Layer(f"{theirs}.{first + 1}", (*ours, "norm"), NORM)


def inverted_residual(theirs: str, ours: Path, expansion: int, operator: list[Tensor]) -> Iterator[Layer]:
    """An inverted residual block with that operator in its middle."""
    if expansion != 1:
        yield from conv_norm(f"{theirs}.0", (*ours, "expand"), POINTWISE)
    j = int(expansion != 1)
    yield from conv_norm(f"{theirs}.{j}", ours, operator)
    yield from conv_norm(theirs, (*ours, "project"), POINTWISE, j + 1)


def blocks_of(depth: float = 1.0) -> list[tuple[int, int]]:
    """The stage and the expansion of every block of MobileNetV2, in order."""
    rows = enumerate(STAGES, start=1)
    return [(stage, expansion) for stage, (expansion, _, blocks, _) in rows for _ in range(repeats(blocks, depth))]


def _mobilenetv2(model: MobileNetV2) -> Iterator[Layer]:
    blocks = blocks_of(model.depth)
    yield from conv_norm("features.0", ("stem",), CONV)
    for i, (stage, expansion) in enumerate(blocks, start=1):
        yield from inverted_residual(f"features.{i}.conv", (f"block_{i}",), expansion, _operator(model, stage))
    yield from conv_norm(f"features.{len(blocks) + 1}", ("last",), POINTWISE)
    yield from _head()


def _deeplabv3plus(model: DeepLabV3Plus) -> Iterator[Layer]:
    yield from conv_norm("backbone.low_level_features.0", ("backbone", "stem"), CONV)
    for i, (stage, expansion) in enumerate(blocks_of(model.depth), start=1):
        part = "low_level_features" if stage <= LOW_STAGE else "high_level_features"
        yield from inverted_residual(f"backbone.{part}.{i}.conv", ("backbone", f"block_{i}"), expansion, CONV)
    yield from conv_norm("classifier.project", ("low_level",), POINTWISE)
    yield from conv_norm("classifier.aspp.convs.0", ("pyramid", "point"), POINTWISE)
    for i in range(3):
        theirs, ours = f"classifier.aspp.convs.{i + 1}", ("pyramid", f"branch_{i}")
        if model.conv is None:
            yield from conv_norm(theirs, ours, CONV)
        else:
            yield from inverted_residual(f"{theirs}.0.conv", ours, 6, _spatial(model.conv(), in_model=True))
    yield from conv_norm("classifier.aspp.convs.4", ("pyramid", "image"), POINTWISE, 1)
    yield from conv_norm("classifier.aspp.project", ("pyramid", "project"), POINTWISE)
    yield from conv_norm("classifier.classifier", ("fuse",), CONV)
    yield Layer("classifier.classifier.3", ("classify",), CLASSIFIER)


def _shufflenetv2(model: ShuffleNetV2) -> Iterator[Layer]:
    yield Layer("conv1.0", ("stem", "conv"), CONV)
    yield Layer("conv1.1", ("stem", "norm"), NORM)
    for stage, units in enumerate(UNITS, start=2):
        for i in range(repeats(units, model.depth)):
            theirs, ours, operator = f"stage{stage}.{i}", f"stage{stage}_{i}", _operator(model, stage)
            if i == 0:
                yield Layer(f"{theirs}.branch1.0", (ours, "shortcut", "conv"), operator)
                yield Layer(f"{theirs}.branch1.1", (ours, "shortcut", "norm"), NORM)
                yield Layer(f"{theirs}.branch1.2", (ours, "shortcut", "project", "conv"), POINTWISE)
                yield Layer(f"{theirs}.branch1.3", (ours, "shortcut", "project", "norm"), NORM)
            yield Layer(f"{theirs}.branch2.0", (ours, "branch", "expand", "conv"), POINTWISE)
            yield Layer(f"{theirs}.branch2.1", (ours, "branch", "expand", "norm"), NORM)
            yield Layer(f"{theirs}.branch2.3", (ours, "branch", "conv"), operator)
            yield Layer(f"{theirs}.branch2.4", (ours, "branch", "norm"), NORM)
            yield Layer(f"{theirs}.branch2.5", (ours, "branch", "project", "conv"), POINTWISE)
            yield Layer(f"{theirs}.branch2.6", (ours, "branch", "project", "norm"), NORM)
    yield Layer("conv5.0", ("last", "conv"), POINTWISE)
    yield Layer("conv5.1", ("last", "norm"), NORM)
    yield from _head()


def _head() -> Iterator[Layer]:
    yield Layer("output_layer.layer1", ("head", "norm_in"), NORM)
    yield Layer("output_layer.layer2.0", ("head", "dense"), DENSE)
    yield Layer("output_layer.layer2.1", ("head", "norm_out"), NORM)


MODELS = {MobileNetV2: _mobilenetv2, ShuffleNetV2: _shufflenetv2, DeepLabV3Plus: _deeplabv3plus}


def _layers(model: nn.Module) -> Iterator[Layer]:
    check_counterpart(model)
    return MODELS[type(model)](model) if type(model) in MODELS else iter([Layer("", (), _spatial(model))])


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor of the model by its full name in the reference, with its full path here."""
    return by_name(_layers(model))


def by_name(layers: Iterable[Layer]) -> dict[str, Tensor]:
    """Every tensor of the layers by its full name there, with its full path here."""
    tensors = {}
    for layer in layers:
        for tensor in layer.tensors:
            collection, *rest = tensor.flax
            name = f"{layer.torch}.{tensor.torch}" if layer.torch else tensor.torch
            tensors[name] = tensor._replace(torch=name, flax=(collection, *layer.flax, *rest))
    return tensors


def from_torch(state_dict: Mapping[str, np.ndarray], model: nn.Module) -> dict[str, Any]:
    """Flax variables from the reference's weights.

    Args:
        state_dict: The reference's ``state_dict``, each tensor as a numpy array, PyTorch's layouts. Its integer
            buffers (``num_batches_tracked``, ``stride``, ...) may be there or not.
        model: The linen model that the variables are for; see :data:`tvconv_jax.convert.counterparts.COUNTERPARTS`.

    Returns:
        ``{"params": ..., "batch_stats": ...}`` of float32 numpy arrays, in boxes where the model's are.

    Raises:
        ValueError: If a name is missing or left over (both sides are listed), a tensor is of another shape than the
            model's, or the model has no counterpart.
    """
    state = {name: value for name, value in state_dict.items() if name.split(".")[-1] not in BOOKKEEPING}
    tensors = _tensors(model)
    check_names("the state dict", set(state), set(tensors))
    state = {name: np.asarray(value) for name, value in state.items()}
    kernel_size = int(state_dict.get("TVConv_k", getattr(model, "kernel_size", 0)))
    if isinstance(model, TVConv) and kernel_size != model.kernel_size:  # channels may be such that no shape tells
        raise ValueError(f"the state dict is for kernel_size={kernel_size}, but the layer's is {model.kernel_size}.")
    shapes = jax.eval_shape(functools.partial(model.init, jax.random.key(0)), _input(state, model))
    boxes, variables = flatten_dict(shapes), flatten_dict(unboxed(shapes))
    _check_shapes(state, tensors, variables)
    flat = {t.flax: np.ascontiguousarray(t.to_flax(state[name]), np.float32) for name, t in tensors.items()}
    return unflatten_dict(
        {path: boxes[path].replace_boxed(a) if is_boxed(boxes[path]) else a for path, a in flat.items()}
    )


def _check_shapes(
    state: Mapping[str, np.ndarray], tensors: Mapping[str, Tensor], variables: Mapping[Path, jax.ShapeDtypeStruct]
) -> None:
    """Raises a ``ValueError`` unless every tensor is as the model's would be there, but for the grid of maps."""
    for name, tensor in tensors.items():
        given = state[name].shape
        # An array of the model's shape that takes no memory tells what it is there.
        expected = tensor.to_torch(np.broadcast_to(np.float32(0), variables[tensor.flax].shape)).shape
        of_grid = tensor.flax[-1] == "affinity" or "block_" in tensor.flax[-2] and tensor.flax[-1] in ("scale", "bias")
        fits = len(given) == len(expected) and (given[:-2] == expected[:-2] if of_grid else given == expected)
        if not fits:
            sides = "; height and width may be others" if of_grid else ""
            raise ValueError(
                f"{name} is {given} in the state dict, but this model's is {expected}{sides}: "
                f"another width, kernel size or generator; build the model with the fields of that one."
            )


def _input(state: Mapping[str, np.ndarray], model: nn.Module) -> jax.ShapeDtypeStruct:
    """An input that the model takes; of a bare layer the weights tell the channels."""
    if isinstance(model, TVConv):
        channels = state[f"weight_layers.{model.hidden_layers + 1}.weight"].shape[0] // model.kernel_size**2
    elif isinstance(model, DepthwiseConv):
        channels = state["weight"].shape[0]
    else:
        channels = 3
    return jax.ShapeDtypeStruct((1, 32, 32, max(1, channels)), np.float32)


def to_torch(variables: Mapping[str, Any], model: nn.Module) -> dict[str, np.ndarray]:
    """The reference's weights from Flax variables.

    Args:
        variables: ``{"params": ..., "batch_stats": ...}`` of the model, not frozen; boxed or not.
        model: The linen model that the variables belong to.

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


def check_names(what: str, given: set[str], expected: set[str]) -> None:
    """Raises a ``ValueError`` that lists both sides, unless they are equal."""
    if given != expected:
        missing, extra = sorted(expected - given), sorted(given - expected)
        raise ValueError(f"{what} and the model do not match. Missing: {_short(missing)}. Left over: {_short(extra)}.")


def _short(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "none"
