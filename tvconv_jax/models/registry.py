"""Models and operators by name. A new model is a row in ``MODELS``, a new operator a row in ``OPERATORS``."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn

from tvconv_jax.layers import DepthwiseConv, TVConv
from tvconv_jax.models import mobilenetv2, shufflenetv2

# name: (module, its widths, its stages)
MODELS = {
    "mobilenetv2": (mobilenetv2.MobileNetV2, mobilenetv2.WIDTHS, (1, 2, 3, 4, 5, 6, 7)),
    "shufflenetv2": (shufflenetv2.ShuffleNetV2, shufflenetv2.WIDTHS, (2, 3, 4)),
}

# name: (module, the fields of create_model that it takes)
OPERATORS = {
    "tvconv": (
        TVConv,
        (
            "affinity_channels",
            "hidden_channels",
            "hidden_layers",
            "use_bias",
            "generator_padding",
            "implementation",
        ),
    ),
    "depthwise": (DepthwiseConv, ("use_bias",)),
}
FIELDS = tuple(dict.fromkeys(field for _, fields in OPERATORS.values() for field in fields))


def list_models() -> dict[str, tuple[float, ...]]:
    """Names that :func:`create_model` takes, each with its widths."""
    return {name: widths for name, (_, widths, _) in MODELS.items()}


def create_model(
    name: str,
    *,
    width: float = 1.0,
    operator: str = "tvconv",
    stages: Sequence[int] | None = None,
    embedding_size: int = 512,
    **fields: Any,
) -> nn.Module:
    """Builds a model by name.

    Args:
        name: ``"mobilenetv2"`` or ``"shufflenetv2"``.
        width: Multiplier of the channels, one of ``list_models()[name]``.
        operator: Spatial operator, ``"tvconv"`` or ``"depthwise"``.
        stages: Stages that get ``operator`` (MobileNetV2 1-7, ShuffleNetV2 2-4); the others keep the depthwise
            convolution. ``None``: all.
        embedding_size: Size of the embedding.
        **fields: Fields of the operator: ``affinity_channels``, ``hidden_channels``, ``hidden_layers``,
            ``use_bias``, ``generator_padding``, ``implementation`` (see :class:`tvconv_jax.TVConv`). An operator
            gets those that it has, so one call, with another ``operator``, compares two of them.

    Returns:
        A linen module: ``model.init(key, images, train=False)``, ``model.apply(variables, images, train=False)``
        with images ``[n, h, w, 3]`` float32 in [-1, 1], RGB.

    Raises:
        ValueError: For an unknown model, width, operator, stage or field; the message lists what exists.
    """
    _check_choice("model", name, MODELS)
    _check_choice("operator", operator, OPERATORS)
    module, widths, all_stages = MODELS[name]
    _check_choice(f"{name} width", width, widths)
    for field in fields:
        _check_choice("field", field, ("width", "operator", "stages", "embedding_size", *FIELDS))
    stages = all_stages if stages is None else tuple(stages)
    for stage in stages:
        _check_choice(f"{name} stage", stage, all_stages)
    layer, layer_fields = OPERATORS[operator]
    conv = functools.partial(layer, **{key: value for key, value in fields.items() if key in layer_fields})
    return module(width=width, conv=conv, stages=stages, embedding_size=embedding_size)


def _check_choice(what: str, value: Any, choices: Any) -> None:
    if value not in choices:
        raise ValueError(f"{what} {value!r} is unknown; there are: {', '.join(map(str, choices))}.")
