"""Models and operators by name. A new model is a row in ``MODELS``, a new operator a row in ``OPERATORS``."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn

from tvconv_jax.layers import DepthwiseConv, TVConv
from tvconv_jax.models import deeplabv3plus, mobilenetv2, shufflenetv2


class Model(NamedTuple):
    """What can be chosen of a model.

    Attributes:
        module: Its linen module.
        widths: Multipliers of the channels.
        stages: Stages that can get the operator; none where it goes into one fixed place.
        fields: Fields of its own.
        baseline: What operator ``"baseline"`` means, where there is one.
    """

    module: type[nn.Module]
    widths: tuple[float, ...]
    stages: tuple[int, ...]
    fields: tuple[str, ...]
    baseline: bool = False


MODELS = {
    "mobilenetv2": Model(mobilenetv2.MobileNetV2, mobilenetv2.WIDTHS, (1, 2, 3, 4, 5, 6, 7), ("embedding_size",)),
    "shufflenetv2": Model(shufflenetv2.ShuffleNetV2, shufflenetv2.WIDTHS, (2, 3, 4), ("embedding_size",)),
    "deeplabv3plus": Model(deeplabv3plus.DeepLabV3Plus, (1.0,), (), ("num_classes", "output_stride"), baseline=True),
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
    return {name: model.widths for name, model in MODELS.items()}


def list_operators(name: str) -> tuple[str, ...]:
    """Operators that :func:`create_model` takes for a model."""
    return (("baseline",) if MODELS[name].baseline else ()) + tuple(OPERATORS)


def create_model(
    name: str,
    *,
    width: float = 1.0,
    operator: str = "tvconv",
    stages: Sequence[int] | None = None,
    **fields: Any,
) -> nn.Module:
    """Builds a model by name.

    Args:
        name: ``"mobilenetv2"``, ``"shufflenetv2"`` or ``"deeplabv3plus"``.
        width: Multiplier of the channels, one of ``list_models()[name]``.
        operator: Spatial operator, ``"tvconv"`` or ``"depthwise"``; for DeepLabV3+ also ``"baseline"``, its
            atrous convolutions.
        stages: Stages that get ``operator`` (MobileNetV2 1-7, ShuffleNetV2 2-4); the others keep the depthwise
            convolution. ``None``: all. In DeepLabV3+ it goes into the pyramid of its head.
        **fields: Of the model: ``embedding_size=512``; for DeepLabV3+ ``num_classes=2``, ``output_stride=16`` (or
            8). Of the operator: ``affinity_channels``, ``hidden_channels``, ``hidden_layers``, ``use_bias``,
            ``generator_padding``, ``implementation`` (see :class:`tvconv_jax.TVConv`). An operator gets those
            that it has, so one call, with another ``operator``, compares two of them.

    Returns:
        A linen module: ``model.init(key, images, train=False)``, ``model.apply(variables, images, train=False)``
        with images ``[n, h, w, 3]`` float32 in [-1, 1], RGB.

    Raises:
        ValueError: For an unknown model, width, operator, stage or field; the message lists what exists.
    """
    _check_choice("model", name, MODELS)
    model = MODELS[name]
    _check_choice(f"{name} operator" if model.baseline else "operator", operator, list_operators(name))
    _check_choice(f"{name} width", width, model.widths)
    placed = ("stages",) if model.stages else ()
    for field in (*fields, *(["stages"] if stages is not None else [])):
        _check_choice("field", field, ("width", "operator", *placed, *model.fields, *FIELDS))
    own = {key: value for key, value in fields.items() if key in model.fields}
    if "output_stride" in own:
        _check_choice("output_stride", own["output_stride"], deeplabv3plus.RATES)
    if model.stages:
        own |= {"width": width, "stages": model.stages if stages is None else tuple(stages)}
        for stage in own["stages"]:
            _check_choice(f"{name} stage", stage, model.stages)
    return model.module(conv=_conv(operator, fields), **own)


def _conv(operator: str, fields: dict[str, Any]) -> Any:
    """Makes the operator; ``None`` for the model's own."""
    if operator not in OPERATORS:
        return None
    layer, layer_fields = OPERATORS[operator]
    return functools.partial(layer, **{key: value for key, value in fields.items() if key in layer_fields})


def _check_choice(what: str, value: Any, choices: Any) -> None:
    if value not in choices:
        raise ValueError(f"{what} {value!r} is unknown; there are: {', '.join(map(str, choices))}.")
