"""Models and operators by name. A new model is a row in ``MODELS``, a new operator a row in ``OPERATORS``."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn

from tvconv_jax.models import deeplabv3plus, mlp_mixer, mobilenetv2, shufflenetv2
from tvconv_jax.nn.checks import check_choice, check_field, check_stages, kinds_of
from tvconv_jax.nn.layers import DepthwiseConv, TVConv
from tvconv_jax.nn.operators.axial import Axial
from tvconv_jax.nn.operators.condconv import CondConv
from tvconv_jax.nn.operators.ddf import DDF
from tvconv_jax.nn.operators.dyconv_dw import DyConvDW
from tvconv_jax.nn.operators.dyconv_pw import DyConvPW
from tvconv_jax.nn.operators.involution import Involution
from tvconv_jax.nn.operators.locally_connected import LocallyConnected
from tvconv_jax.nn.operators.sasa import SASA
from tvconv_jax.nn.operators.tvconv_dynamic import TVConvDynamic
from tvconv_jax.nn.operators.tvconv_linear import TVConvLinear
from tvconv_jax.nn.operators.tvconv_lowrank import TVConvLowrank
from tvconv_jax.nn.operators.weightnet import WeightNet


class Model(NamedTuple):
    """What can be chosen of a model.

    Attributes:
        module: Its linen module.
        widths: Multipliers of the channels.
        stages: Stages that can get the operator; none where it goes into one fixed place.
        fields: Fields of its own.
        places: Its fields that take an operator: ``"conv"``, ``"pointwise"``.
        baseline: What operator ``"baseline"`` means, where there is one: the model with no operator handed in.
    """

    module: type[nn.Module]
    widths: tuple[float, ...]
    stages: tuple[int, ...]
    fields: tuple[str, ...]
    places: tuple[str, ...] = ("conv", "pointwise")
    baseline: bool = False


class Operator(NamedTuple):
    """An operator that models take.

    Attributes:
        module: Its linen module.
        fields: The fields of :func:`create_model` that it takes.
        place: Which field of the model it goes to.
        last_stages: How many of the last stages get it, unless ``stages`` says which; ``None``: all.
        paper: Where it comes from, in short; its file says more.
    """

    module: type[nn.Module]
    fields: tuple[str, ...]
    paper: str
    place: str = "conv"
    last_stages: int | None = None


class Choices(NamedTuple):
    """What :func:`create_model` takes for a model.

    Attributes:
        widths: Multipliers of the channels.
        operators: Spatial operators; ``"baseline"`` is the model with none handed in.
    """

    widths: tuple[float, ...]
    operators: tuple[str, ...]


FACE = ("embedding_size", "remat")
CONVOLUTIONAL = ("depth", *FACE)
MODELS = {
    "mobilenetv2": Model(mobilenetv2.MobileNetV2, mobilenetv2.WIDTHS, (1, 2, 3, 4, 5, 6, 7), CONVOLUTIONAL),
    "shufflenetv2": Model(shufflenetv2.ShuffleNetV2, shufflenetv2.WIDTHS, (2, 3, 4), CONVOLUTIONAL),
    "mlp_mixer": Model(mlp_mixer.MlpMixer, mlp_mixer.WIDTHS, (), ("patch_size", "layers", *FACE), (), baseline=True),
    "deeplabv3plus": Model(
        deeplabv3plus.DeepLabV3Plus,
        widths=(1.0,),
        stages=(),
        fields=("depth", "num_classes", "output_stride", "remat"),
        places=("conv",),
        baseline=True,
    ),
}

GENERATOR = ("affinity_channels", "hidden_channels", "hidden_layers", "use_bias", "generator_padding")
ATTENTION = ("experts", "reduction", "temperature")
OPERATORS = {
    "tvconv": Operator(TVConv, (*GENERATOR, "implementation"), "Chen et al., CVPR 2022"),
    "depthwise": Operator(DepthwiseConv, ("use_bias",), "Sandler et al., CVPR 2018"),
    "condconv": Operator(CondConv, ("experts", "use_bias"), "Yang et al., NeurIPS 2019"),
    "weightnet": Operator(WeightNet, ("use_bias",), "Ma et al., ECCV 2020"),
    "dyconv_dw": Operator(DyConvDW, (*ATTENTION, "use_bias"), "Chen et al., CVPR 2020"),
    "dyconv_pw": Operator(DyConvPW, ATTENTION, "Chen et al., CVPR 2020", place="pointwise"),
    "involution": Operator(Involution, ("reduction", "group_channels"), "Li et al., CVPR 2021"),
    "ddf": Operator(DDF, ("squeeze",), "Zhou et al., CVPR 2021"),
    # The paper compares with attention in the last three stages only: on large grids it costs too much.
    "sasa": Operator(SASA, ("heads",), "Ramachandran et al., NeurIPS 2019", last_stages=3),
    "axial": Operator(Axial, ("heads",), "Wang et al., ECCV 2020", last_stages=3),
    "locally_connected": Operator(LocallyConnected, ("use_bias",), "TVConv, Eq. 2"),
    "tvconv_linear": Operator(TVConvLinear, ("affinity_channels", "use_bias"), "TVConv, Eq. 3"),
    "tvconv_lowrank": Operator(TVConvLowrank, ("rank", *GENERATOR), "ours"),
    "tvconv_dynamic": Operator(TVConvDynamic, GENERATOR, "TVConv, section 3.3"),
}
FIELDS = tuple(dict.fromkeys(field for operator in OPERATORS.values() for field in operator.fields))
KINDS = {name: kind for row in (*MODELS.values(), *OPERATORS.values()) for name, kind in kinds_of(row.module).items()}


def list_models() -> dict[str, Choices]:
    """Names that :func:`create_model` takes, each with its widths and its operators."""
    return {name: Choices(model.widths, list_operators(name)) for name, model in MODELS.items()}


def list_operators(name: str) -> tuple[str, ...]:
    """Operators that :func:`create_model` takes for a model."""
    model = MODELS[name]
    fitting = tuple(operator for operator, row in OPERATORS.items() if row.place in model.places)
    return (("baseline",) if model.baseline else ()) + fitting


def fields_of(name: str, operator: str) -> dict[str, Any]:
    """Fields that :func:`create_model` takes for a model and an operator, with their defaults."""
    rows = [MODELS[name], *([OPERATORS[operator]] if operator in OPERATORS else [])]
    return {f.name: f.default for row in rows for f in dataclasses.fields(row.module) if f.name in row.fields}


def create_model(
    name: str,
    *,
    width: float = 1.0,
    operator: str | None = None,
    stages: Sequence[int] | None = None,
    **fields: Any,
) -> nn.Module:
    """Builds a model by name.

    Args:
        name: ``"mobilenetv2"``, ``"shufflenetv2"``, ``"mlp_mixer"`` or ``"deeplabv3plus"``.
        width: Multiplier of the channels, one of ``list_models()[name].widths``.
        operator: Spatial operator, one of ``list_operators(name)``: ``"tvconv"``, ``"depthwise"`` and those of
            :mod:`tvconv_jax.nn.operators`; for DeepLabV3+ also ``"baseline"``, its atrous convolutions. MLP-Mixer takes
            none, only ``"baseline"``. ``None``: ``"tvconv"`` where there is one.
        stages: Stages that get ``operator`` (MobileNetV2 1-7, ShuffleNetV2 2-4); the others keep the depthwise
            convolution. ``None``: all, but the last three for ``"sasa"`` and ``"axial"``. In DeepLabV3+ it goes into
            the pyramid of its head.
        **fields: Of the model: ``embedding_size=512``; for MLP-Mixer ``patch_size=8``, ``layers=8``, for the others
            ``depth=1.0``, the multiplier of every stage's blocks; for DeepLabV3+ ``num_classes=2``,
            ``output_stride=16`` (or 8); for all ``remat=False``, whether large activations are computed anew for the
            gradient. Of the operator: those in its row of ``OPERATORS``, which its module
            describes. An operator gets those that it has, so one call, with another ``operator``, compares two.

    Returns:
        A linen module: ``model.init(key, images, train=False)``, ``model.apply(variables, images, train=False)``
        with images ``[n, h, w, 3]`` float32 in [-1, 1], RGB.

    Raises:
        ValueError: For an unknown model, width, operator, stage or field, the message lists what exists; for a number
            with which there is no such model, as no channels.
    """
    check_choice("model", name, MODELS)
    model = MODELS[name]
    if operator is None:
        operator = "tvconv" if model.places else "baseline"
    check_choice(f"{name} operator" if model.baseline else "operator", operator, list_operators(name))
    check_choice(f"{name} width", width, model.widths)
    placed = ("stages",) if model.stages else ()
    for field in (*fields, *(["stages"] if stages is not None else [])):
        check_choice("field", field, ("width", "operator", *placed, *model.fields, *FIELDS))
    own = {key: value for key, value in fields.items() if key in model.fields}
    for field, value in fields.items():
        check_field(field, value, KINDS[field])
    if "output_stride" in own:
        check_choice("output_stride", own["output_stride"], deeplabv3plus.RATES)
    row = OPERATORS.get(operator)
    if model.stages:
        default = model.stages[-row.last_stages :] if row.last_stages else model.stages
        check_stages(name, default if stages is None else stages, model.stages)
        own["stages"] = default if stages is None else tuple(map(int, stages))
    if len(model.widths) > 1:
        own["width"] = width
    if row:
        given = {key: value for key, value in fields.items() if key in row.fields}
        own[row.place] = functools.partial(row.module, **given)
    return model.module(**own)
