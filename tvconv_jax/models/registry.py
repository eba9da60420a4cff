"""Models and operators by name. A new model is a row in ``MODELS``, a new operator a row in ``OPERATORS``.

Modules are loaded when a model is built.
"""

import dataclasses
import functools
import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn

from tvconv_jax.nn.checks import check_choice, check_field, check_stages, kinds_of


class Model(NamedTuple):
    """A model of :func:`create_model`."""

    path: str  # "module:Class" in this package; WIDTHS of that module are the multipliers of its channels
    stages: tuple[int, ...]  # stages that can get the operator; none if it has one fixed place
    fields: tuple[str, ...]  # fields that can be given
    places: tuple[str, ...] = ("conv", "pointwise")  # fields that take an operator
    baseline: bool = False  # whether operator "baseline" exists: the model with no operator handed in

    @property
    def module(self) -> type[nn.Module]:
        return load(self.path)

    @property
    def widths(self) -> tuple[float, ...]:
        return load(f"{self.path.partition(':')[0]}:WIDTHS")


class Operator(NamedTuple):
    """An operator of :func:`create_model`."""

    path: str  # "module:Class" in this package
    fields: tuple[str, ...]  # fields that can be given
    paper: str  # its source, in short; the docstring of the class says more
    place: str = "conv"  # the field of the model that takes it
    last_stages: int | None = None  # number of the last stages that get it by default; None: all

    @property
    def module(self) -> type[nn.Module]:
        return load(self.path)


class Choices(NamedTuple):
    """The choices of :func:`create_model` for a model."""

    widths: tuple[float, ...]  # multipliers of the channels
    operators: tuple[str, ...]  # "baseline" is the model with none handed in


FACE = ("embedding_size", "remat", "num_classes")
CONVOLUTIONAL = ("depth", *FACE, "head_pool", "coordinates")
SEGMENTATION = ("depth", "num_classes", "output_stride", "remat")
MODELS = {
    "mobilenetv2": Model("models.mobilenetv2:MobileNetV2", (1, 2, 3, 4, 5, 6, 7), CONVOLUTIONAL),
    "shufflenetv2": Model("models.shufflenetv2:ShuffleNetV2", (2, 3, 4), CONVOLUTIONAL),
    "mlp_mixer": Model("models.mlp_mixer:MlpMixer", (), ("patch_size", "layers", *FACE), (), baseline=True),
    "deeplabv3plus": Model("models.deeplabv3plus:DeepLabV3Plus", (), SEGMENTATION, ("conv",), baseline=True),
}

GENERATOR = ("affinity_channels", "hidden_channels", "hidden_layers", "use_bias", "generator_padding")
ATTENTION = ("experts", "reduction", "temperature")
_IN = "nn.operators."
OPERATORS = {
    "tvconv": Operator("nn.layers:TVConv", (*GENERATOR, "implementation"), "Chen et al., CVPR 2022"),
    "depthwise": Operator("nn.layers:DepthwiseConv", ("use_bias",), "Sandler et al., CVPR 2018"),
    "condconv": Operator(f"{_IN}per_image:CondConv", ("experts", "use_bias"), "Yang et al., NeurIPS 2019"),
    "weightnet": Operator(f"{_IN}per_image:WeightNet", ("use_bias",), "Ma et al., ECCV 2020"),
    "dyconv_dw": Operator(f"{_IN}per_image:DyConvDW", (*ATTENTION, "use_bias"), "Chen et al., CVPR 2020"),
    "dyconv_pw": Operator(f"{_IN}per_image:DyConvPW", ATTENTION, "Chen et al., CVPR 2020", place="pointwise"),
    "involution": Operator(f"{_IN}per_pixel:Involution", ("reduction", "group_channels"), "Li et al., CVPR 2021"),
    "ddf": Operator(f"{_IN}per_pixel:DDF", ("squeeze",), "Zhou et al., CVPR 2021"),
    # The paper compares with attention in the last three stages only: on large grids it costs too much.
    "sasa": Operator(f"{_IN}attention:SASA", ("heads",), "Ramachandran et al., NeurIPS 2019", last_stages=3),
    "axial": Operator(f"{_IN}attention:Axial", ("heads",), "Wang et al., ECCV 2020", last_stages=3),
    "locally_connected": Operator(f"{_IN}per_position:LocallyConnected", ("use_bias",), "TVConv, Eq. 2"),
    "tvconv_linear": Operator(f"{_IN}per_position:TVConvLinear", ("affinity_channels", "use_bias"), "TVConv, Eq. 3"),
    "tvconv_lowrank": Operator(f"{_IN}per_position:TVConvLowrank", ("rank", *GENERATOR), "ours"),
    "tvconv_dynamic": Operator(f"{_IN}per_pixel:TVConvDynamic", GENERATOR, "TVConv, section 3.3"),
}
FIELDS = tuple(dict.fromkeys(field for operator in OPERATORS.values() for field in operator.fields))


def load(path: str) -> Any:
    """Import the object at ``"module:name"`` of this package."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(f"tvconv_jax.{module}"), name)


def list_models() -> dict[str, Choices]:
    """Return the names of models, each with its widths and its operators."""
    return {name: Choices(model.widths, list_operators(name)) for name, model in MODELS.items()}


def list_operators(name: str) -> tuple[str, ...]:
    """Return the operators of a model."""
    model = MODELS[name]
    fitting = tuple(operator for operator, row in OPERATORS.items() if row.place in model.places)
    return (("baseline",) if model.baseline else ()) + fitting


def fields_of(name: str, operator: str) -> dict[str, Any]:
    """Return the fields of a model with an operator, and their defaults."""
    found = {}
    for row in [MODELS[name], *([OPERATORS[operator]] if operator in OPERATORS else [])]:
        defaults = {field.name: field.default for field in dataclasses.fields(row.module)}
        found |= {field: defaults[field] for field in row.fields}
    return found


def create_model(
    name: str, *, width: float = 1.0, operator: str | None = None, stages: Sequence[int] | None = None, **fields: Any
) -> nn.Module:
    """Build a model by name.

    Args:
        name: ``"mobilenetv2"``, ``"shufflenetv2"``, ``"mlp_mixer"`` or ``"deeplabv3plus"``.
        width: Multiplier of the channels, one of ``list_models()[name].widths``.
        operator: Spatial operator, one of ``list_operators(name)``: ``"tvconv"``, ``"depthwise"`` and those of
            :mod:`tvconv_jax.nn.operators`; for DeepLabV3+ also ``"baseline"``, its atrous convolutions. MLP-Mixer takes
            only ``"baseline"``. ``None``: ``"tvconv"`` if the model takes operators.
        stages: Stages that get ``operator`` (MobileNetV2 1-7, ShuffleNetV2 2-4); the others keep the depthwise
            convolution. ``None``: all, but the last three for ``"sasa"`` and ``"axial"``. In DeepLabV3+ it goes into
            the pyramid of its head.
        **fields: Of the model: ``embedding_size=512``, or ``num_classes`` for logits in place of embeddings; for
            MLP-Mixer ``patch_size=8``, ``layers=8``, for the others ``depth=1.0``, the multiplier of every stage's
            blocks; for MobileNetV2 and ShuffleNetV2 ``head_pool="mean"`` (``"gdc"``, a learned kernel over the last
            grid, or ``"flatten"``) and ``coordinates=False``, whether x and y are two more channels of the images; for
            DeepLabV3+ ``num_classes=2``, ``output_stride=16`` (or 8); for all ``remat=False``, whether the gradient
            recomputes large activations.
            Of the operator: those in its row of ``OPERATORS``, described in its module. Fields of other operators are
            ignored, so one call, with another ``operator``, compares two.

    Returns:
        A linen module: ``model.init(key, images, train=False)``, ``model.apply(variables, images, train=False)``
        with images ``[n, h, w, 3]`` float32 in [-1, 1], RGB.

    Raises:
        ValueError: For an unknown model, width, operator, stage or field, the message lists what exists; for a number
            out of range, as no channels, it names the range.
    """
    check_choice("model", name, MODELS)
    model = MODELS[name]
    if operator is None:
        operator = "tvconv" if model.places else "baseline"
    check_choice(f"{name} operator" if model.baseline else "operator", operator, list_operators(name))
    check_choice(f"{name} width", width, model.widths)
    staged = ("stages",) if model.stages else ()
    for field in (*fields, *(["stages"] if stages is not None else [])):
        check_choice("field", field, ("width", "operator", *staged, *model.fields, *FIELDS))
    for field, value in fields.items():
        owner = next(row for row in (model, *OPERATORS.values()) if field in row.fields)
        check_field(field, value, kinds_of(owner.module)[field])
    given = {key: value for key, value in fields.items() if key in model.fields}
    row = OPERATORS.get(operator)
    if model.stages:
        default = model.stages[-row.last_stages :] if row.last_stages else model.stages
        check_stages(name, default if stages is None else stages, model.stages)
        given["stages"] = default if stages is None else tuple(map(int, stages))
    if len(model.widths) > 1:
        given["width"] = width
    if row:
        own = {key: value for key, value in fields.items() if key in row.fields}
        given[row.place] = functools.partial(row.module, **own)
    return model.module(**given)
