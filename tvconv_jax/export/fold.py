"""From a model and its variables to a graph: kernels generated once, norms folded into what stands before them."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict

from tvconv_jax.export.graph import Graph
from tvconv_jax.models.blocks import repeats
from tvconv_jax.models.deeplabv3plus import LOW_STAGE, RATES, DeepLabV3Plus
from tvconv_jax.models.mlp_mixer import MixerBlock, MlpMixer
from tvconv_jax.models.mobilenetv2 import STAGES, MobileNetV2
from tvconv_jax.models.shufflenetv2 import UNITS, ShuffleNetV2
from tvconv_jax.nn.boxes import unboxed
from tvconv_jax.nn.freeze import freeze
from tvconv_jax.nn.layers import GENERATOR_NAMES
from tvconv_jax.nn.norm import factor_and_offset
from tvconv_jax.nn.operators.condconv import CondConv
from tvconv_jax.nn.operators.ddf import DDF
from tvconv_jax.nn.operators.dyconv_dw import DyConvDW
from tvconv_jax.nn.operators.dyconv_pw import DyConvPW
from tvconv_jax.nn.operators.tvconv_dynamic import TVConvDynamic
from tvconv_jax.nn.operators.weightnet import WeightNet
from tvconv_jax.utils.errors import UserError

EXPERTS = ("experts/kernel", "experts/bias")
# Parameters, all in the last axis of which are output channels, whose product with a factor is the output's: there a
# norm's factor goes, where an operator makes its kernels from the picture. For operators without a row it stays a node.
SCALABLE: dict[type[nn.Module], tuple[str, ...]] = {
    CondConv: EXPERTS,
    DyConvDW: EXPERTS,
    DyConvPW: ("kernel",),
    WeightNet: ("kernel", "bias"),
    DDF: ("scale",),
    TVConvDynamic: tuple(
        f"{what}_{suffix}/out/kernel" for what in ("kernels", "biases") for suffix in GENERATOR_NAMES.values()
    ),
}


def fold(model: nn.Module, variables: Mapping[str, Any], side: int) -> Graph:
    """Freezes and folds a model.

    Args:
        model: A model of this package, with any operator. What makes its kernels from the picture is kept as it is.
        variables: What training gave.
        side: Height and width of the pictures.

    Returns:
        The graph; equal to ``model.apply(variables, images, train=False)`` but for rounding.

    Raises:
        UserError: If the model is another.
    """
    if type(model) not in MODELS:
        names = ", ".join(kind.__name__ for kind in MODELS)
        raise UserError(f"{type(model).__name__} cannot be exported; what can: {names}.")
    folding = Folding(model, freeze(model, unboxed(variables)), side)
    MODELS[type(model)](folding, model)
    return folding.graph


class Folding:
    """Appends layers to a graph, each with the variables at its path.

    Attributes:
        graph: What was folded so far.
    """

    def __init__(self, model: nn.Module, variables: Mapping[str, Any], side: int) -> None:
        """With ``params``, ``batch_stats`` and ``frozen``, for pictures of that height and width."""
        self._model, self._variables = model, variables
        self.graph = Graph(side)

    def at(self, collection: str, *path: str) -> dict[str, np.ndarray]:
        """The arrays of a layer in float64; none where there is no such layer."""
        tree = self._tree(collection, *path)
        return {name: np.asarray(value, np.float64) for name, value in tree.items() if not isinstance(value, Mapping)}

    def _tree(self, collection: str, *path: str) -> Mapping[str, Any]:
        tree = self._variables.get(collection, {})
        for name in path:
            tree = tree.get(name, {})
        return tree

    def norm(self, *path: str) -> tuple[np.ndarray, np.ndarray]:
        """A batch norm as a factor and an offset per channel."""
        return factor_and_offset({**self.at("params", *path), **self.at("batch_stats", *path)})

    def module(self, x: int, module: nn.Module, *path: str, factor: np.ndarray | None = None) -> int:
        """A linen module as it is, its parameters at the path; its output times a factor per channel, if one is given.

        Only for those in ``SCALABLE``.
        """
        trees = {collection: self._tree(collection, *path) for collection in ("params", "batch_stats")}
        arrays = flatten_dict(trees, sep="/")
        images = jax.ShapeDtypeStruct((1, *self.graph.shapes[x]), np.float32)
        shape = jax.eval_shape(module.apply, trees, images).shape[1:]
        if factor is not None:
            for name in {f"params/{own}" for own in SCALABLE[type(module)]} & arrays.keys():
                arrays[name] = np.asarray(arrays[name], np.float64) * factor
        return self.graph.add("module", x, arrays=arrays, module=module, shape=shape)

    def module_norm(self, x: int, module: nn.Module, *path: str, activation: str) -> int:
        """A linen module in the place of a convolution, and the norm behind it."""
        factor, offset = self.norm(*path, "norm")
        if type(module) in SCALABLE:
            x, factor = self.module(x, module, *path, "conv", factor=factor), np.ones_like(factor)
        else:
            x = self.module(x, module, *path, "conv")
        return self.graph.add("affine", x, arrays={"factor": factor, "bias": offset}, activation=activation)

    def conv_norm(
        self, x: int, *path: str, activation: str, strides: int = 1, dilation: int = 1, padding: int | None = None
    ) -> int:
        """A convolution over all channels and its norm."""
        params, (factor, offset) = self.at("params", *path, "conv"), self.norm(*path, "norm")
        if not _is_kernel(params):
            return self.module_norm(x, self._model.pointwise(len(factor)), *path, activation=activation)
        kernel = params["kernel"]
        kernel = kernel if kernel.ndim == 4 else kernel[None, None]
        padding = dilation * (len(kernel) // 2) if padding is None else padding
        fields = {"strides": strides, "padding": padding, "dilation": dilation, "groups": 1, "activation": activation}
        return self.graph.add("conv", x, arrays={"kernel": kernel * factor, "bias": offset}, **fields)

    def spatial(
        self, x: int, *path: str, activation: str, strides: int, dilation: int = 1, padding: int | None = None
    ) -> int:
        """A spatial operator, depthwise or with kernels of its own at every pixel, and its norm."""
        params, frozen = self.at("params", *path, "conv"), self.at("frozen", *path, "conv")
        factor, offset = self.norm(*path, "norm")
        fields = {"strides": strides, "activation": activation}
        bias = {**params, **frozen}.get("bias", 0.0) * factor + offset
        weights = frozen.get("weights", params.get("weights"))
        if weights is not None:
            arrays = {"weights": weights * factor, "bias": bias}
            return self.graph.add("per_pixel", x, arrays=arrays, **fields)
        if "gains" in frozen:
            kernels, gains = params["kernel"][:, :, :, 0] * factor, np.moveaxis(frozen["gains"], 2, 0)
            return self.graph.add("low_rank", x, arrays={"kernels": kernels, "gains": gains, "bias": bias}, **fields)
        if not _is_kernel(params):
            return self.module_norm(x, self._model.conv(strides=strides), *path, activation=activation)
        kernel = params["kernel"]
        fields["padding"] = dilation * (len(kernel) // 2) if padding is None else padding
        fields |= {"dilation": dilation, "groups": kernel.shape[3]}
        return self.graph.add("conv", x, arrays={"kernel": kernel * factor, "bias": bias}, **fields)

    def inverted_residual(
        self, x: int, *path: str, strides: int = 1, dilation: int = 1, fixed_padding: bool = False
    ) -> int:
        """Expand, operator, project; added to its input where shapes agree.

        With fixed padding, zeros are put round the input before it is expanded: the padding of a 1x1 convolution.
        """
        y, padding = x, dilation if fixed_padding else None
        if self.at("params", *path, "expand", "conv"):
            y = self.conv_norm(x, *path, "expand", activation="relu6", padding=padding or 0)
            padding = 0 if fixed_padding else None
        y = self.spatial(y, *path, activation="relu6", strides=strides, dilation=dilation, padding=padding)
        y = self.conv_norm(y, *path, "project", activation="identity")
        return self.graph.add("add", x, y) if strides == 1 and self.graph.shapes[x] == self.graph.shapes[y] else y

    def embedding_head(self, x: int, *path: str) -> None:
        """Norm, average, linear layer, norm: the average, and one linear layer."""
        (factor, offset), (last_factor, last_offset) = self.norm(*path, "norm_in"), self.norm(*path, "norm_out")
        dense = self.at("params", *path, "dense")
        kernel = factor[:, None] * dense["kernel"] * last_factor
        bias = (offset @ dense["kernel"] + dense["bias"]) * last_factor + last_offset
        x = self.graph.add("mean", x, keep_grid=False)
        self.graph.add("linear", x, arrays={"kernel": kernel, "bias": bias})


def _is_kernel(params: Mapping[str, np.ndarray]) -> bool:
    """Whether these are all that a convolution has."""
    return set(params) - {"bias"} == {"kernel"} and params["kernel"].ndim in (2, 4)


def _mobilenetv2(folding: Folding, model: MobileNetV2) -> None:
    x, index = folding.conv_norm(0, "stem", activation="relu6"), 1
    for _, _, blocks, strides in STAGES:
        for i in range(repeats(blocks, model.depth)):
            x = folding.inverted_residual(x, f"block_{index}", strides=strides if i == 0 else 1)
            index += 1
    folding.embedding_head(folding.conv_norm(x, "last", activation="relu6"), "head")


def _branch(folding: Folding, x: int, *path: str, strides: int) -> int:
    if folding.at("params", *path, "expand", "conv"):
        x = folding.conv_norm(x, *path, "expand", activation="relu")
    x = folding.spatial(x, *path, activation="identity", strides=strides)
    return folding.conv_norm(x, *path, "project", activation="relu")


def _shufflenetv2(folding: Folding, model: ShuffleNetV2) -> None:
    graph = folding.graph
    x = graph.add("max_pool", folding.conv_norm(0, "stem", activation="relu"))
    for stage, units in enumerate(UNITS, start=2):
        for i in range(repeats(units, model.depth)):
            name, channels = f"stage{stage}_{i}", graph.shapes[x][2]
            if i == 0:
                kept, strides = _branch(folding, x, name, "shortcut", strides=2), 2
            else:
                kept, strides = graph.add("channels", x, begin=0, end=channels // 2), 1
                x = graph.add("channels", x, begin=channels // 2, end=channels)
            x = graph.add("shuffle", graph.add("concat", kept, _branch(folding, x, name, "branch", strides=strides)))
    folding.embedding_head(folding.conv_norm(x, "last", activation="relu"), "head")


def _mlp_mixer(folding: Folding, model: MlpMixer) -> None:
    dense, side = folding.at("params", "stem"), model.patch_size
    arrays = {"kernel": dense["kernel"].reshape(side, side, -1, len(dense["bias"])), "bias": dense["bias"]}
    fields = {"strides": side, "padding": 0, "dilation": 1, "groups": 1, "activation": "identity"}
    x = folding.graph.add("conv", 0, arrays=arrays, **fields)  # of a patch each
    for i in range(model.layers):
        hidden = (len(folding.at("params", f"block_{i}", part, "expand")["bias"]) for part in ("positions", "channels"))
        x = folding.module(x, MixerBlock(*hidden), f"block_{i}")
    folding.embedding_head(folding.module(x, nn.LayerNorm(), "norm"), "head")


def _backbone(folding: Folding, model: DeepLabV3Plus) -> tuple[int, int]:
    """As :class:`tvconv_jax.models.deeplabv3plus.Backbone`: strides beyond ``output_stride`` become dilation."""
    x = folding.conv_norm(0, "backbone", "stem", activation="relu6", strides=2, padding=0)
    index, reached, dilation = 1, 2, 1
    for stage, (_, _, blocks, strides) in enumerate(STAGES, start=1):
        before = dilation
        if reached == model.output_stride:
            strides, dilation = 1, dilation * strides
        reached *= strides
        for i in range(repeats(blocks, model.depth)):
            steps, rate = (strides, before) if i == 0 else (1, dilation)
            name = f"block_{index}"
            x = folding.inverted_residual(x, "backbone", name, strides=steps, dilation=rate, fixed_padding=True)
            index += 1
        if stage == LOW_STAGE:
            low = x
    return low, x


def _deeplabv3plus(folding: Folding, model: DeepLabV3Plus) -> None:
    graph = folding.graph
    low, x = _backbone(folding, model)
    branches = [folding.conv_norm(x, "pyramid", "point", activation="relu")]
    for i, rate in enumerate(RATES[model.output_stride]):
        if model.conv is None:
            branch = folding.conv_norm(x, "pyramid", f"branch_{i}", activation="relu", dilation=rate)
        else:
            branch = folding.inverted_residual(x, "pyramid", f"branch_{i}")
        branches.append(branch)
    pooled = folding.conv_norm(graph.add("mean", x, keep_grid=True), "pyramid", "image", activation="relu")
    pooled = graph.add("resize", pooled, grid=graph.shapes[x][:2])
    x = folding.conv_norm(graph.add("concat", *branches, pooled), "pyramid", "project", activation="relu")
    low = folding.conv_norm(low, "low_level", activation="relu")
    x = graph.add("resize", x, grid=graph.shapes[low][:2])
    x = folding.conv_norm(graph.add("concat", low, x), "fuse", activation="relu")
    dense = folding.at("params", "classify")
    arrays = {"kernel": dense["kernel"][None, None], "bias": dense["bias"]}
    x = graph.add("conv", x, arrays=arrays, strides=1, padding=0, dilation=1, groups=1, activation="identity")
    graph.add("resize", x, grid=graph.shapes[0][:2])


MODELS: dict[type[nn.Module], Callable[[Folding, Any], None]] = {
    MobileNetV2: _mobilenetv2,
    ShuffleNetV2: _shufflenetv2,
    MlpMixer: _mlp_mixer,
    DeepLabV3Plus: _deeplabv3plus,
}
