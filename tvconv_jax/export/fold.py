"""From a model and its variables to a graph: kernels generated once, norms folded into the layers before them."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict

from tvconv_jax.export.graph import Graph, Shape
from tvconv_jax.nn.boxes import unboxed
from tvconv_jax.nn.checks import declared
from tvconv_jax.nn.freeze import freeze
from tvconv_jax.nn.norm import factor_and_offset
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.sizes import Size


def fold(model: nn.Module, variables: Mapping[str, Any], image_size: Size) -> Graph:
    """Freeze and fold a model.

    Args:
        model: A model of this package, with any operator. Operators that make their kernels from the image are kept.
        variables: Trained variables.
        image_size: Size of the images.

    Returns:
        The graph; equal to ``model.apply(variables, images, train=False)`` up to rounding.

    Raises:
        UserError: If the model is another.
    """
    if type(model).__name__ not in MODELS:
        raise UserError(f"{type(model).__name__} cannot be exported; what can: {', '.join(MODELS)}.")
    folding = Folding(model, freeze(model, unboxed(variables)), image_size)
    MODELS[type(model).__name__](folding, model)
    return folding.graph


class Folding:
    """A graph to which layers are appended, each with the variables at its path.

    Attributes:
        graph: The folded layers.
    """

    def __init__(self, model: nn.Module, variables: Mapping[str, Any], image_size: Size) -> None:
        """Start with ``params``, ``batch_stats`` and ``frozen``, for images of a size."""
        self._model, self._variables = model, variables
        self.graph = Graph(image_size)

    def at(self, collection: str, *path: str) -> dict[str, np.ndarray]:
        """Return the arrays of a layer in float64; none if there is no such layer."""
        tree = self._tree(collection, *path)
        return {name: np.asarray(value, np.float64) for name, value in tree.items() if not isinstance(value, Mapping)}

    def _tree(self, collection: str, *path: str) -> Mapping[str, Any]:
        tree = self._variables.get(collection, {})
        for name in path:
            tree = tree.get(name, {})
        return tree

    def norm(self, *path: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a batch norm as a factor and an offset per channel."""
        return factor_and_offset({**self.at("params", *path), **self.at("batch_stats", *path)})

    def module(self, x: int, module: nn.Module, *path: str, factor: np.ndarray | None = None) -> int:
        """Append a linen module unchanged, its ``scalable`` parameters times a factor per channel, if one is given."""
        trees = {collection: self._tree(collection, *path) for collection in ("params", "batch_stats")}
        arrays = flatten_dict(trees, sep="/")
        images = jax.ShapeDtypeStruct((1, *self.graph.shapes[x]), np.float32)
        shape = jax.eval_shape(module.apply, trees, images).shape[1:]
        if factor is not None:
            for name in {f"params/{own}" for own in declared(module, "scalable")} & arrays.keys():
                arrays[name] = np.asarray(arrays[name], np.float64) * factor
        return self.graph.add("module", x, arrays=arrays, module=module, shape=shape)

    def module_norm(self, x: int, module: nn.Module, *path: str, activation: str) -> int:
        """Append a linen module in place of a convolution, and its norm."""
        factor, offset = self.norm(*path, "norm")
        if declared(module, "scalable"):
            x, factor = self.module(x, module, *path, "conv", factor=factor), np.ones_like(factor)
        else:
            x = self.module(x, module, *path, "conv")
        return self.graph.add("affine", x, arrays={"factor": factor, "bias": offset}, activation=activation)

    def conv_norm(
        self, x: int, *path: str, activation: str, strides: int = 1, dilation: int = 1, padding: int | None = None
    ) -> int:
        """Append a convolution over all channels and its norm."""
        params, (factor, offset) = self.at("params", *path, "conv"), self.norm(*path, "norm")
        if not _is_kernel(params):
            return self.module_norm(x, self._model.pointwise(len(factor)), *path, activation=activation)
        kernel = params["kernel"]
        kernel = kernel if kernel.ndim == 4 else kernel[None, None]
        padding = dilation * (len(kernel) // 2) if padding is None else padding
        fields = {"strides": strides, "padding": padding, "dilation": dilation, "groups": 1, "activation": activation}
        arrays = {"kernel": kernel * factor, "bias": offset}
        return self.graph.add("conv", x, arrays=_without_coordinates(arrays, self.graph.shapes[x], padding), **fields)

    def spatial(
        self, x: int, *path: str, activation: str, strides: int, dilation: int = 1, padding: int | None = None
    ) -> int:
        """Append a spatial operator, depthwise or with a kernel per pixel, and its norm."""
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
        """Append expand, operator, project; added to the input if shapes agree.

        With fixed padding, the input is padded before it is expanded: the padding of a 1x1 convolution.
        """
        y, padding = x, dilation if fixed_padding else None
        if self.at("params", *path, "expand", "conv"):
            y = self.conv_norm(x, *path, "expand", activation="relu6", padding=padding or 0)
            padding = 0 if fixed_padding else None
        y = self.spatial(y, *path, activation="relu6", strides=strides, dilation=dilation, padding=padding)
        y = self.conv_norm(y, *path, "project", activation="identity")
        return self.graph.add("add", x, y) if strides == 1 and self.graph.shapes[x] == self.graph.shapes[y] else y

    def head(self, x: int, *path: str) -> None:
        """Append a head as its pooling and one linear layer, with the norms around it."""
        dense, pool = self.at("params", *path, "dense"), self.at("params", *path, "pool")
        kernel, bias, channels = dense["kernel"], dense["bias"], self.graph.shapes[x][2]
        if self.at("params", *path, "norm_in"):
            (factor, offset), (last_factor, last_offset) = self.norm(*path, "norm_in"), self.norm(*path, "norm_out")
        else:
            factor, offset, last_factor, last_offset = np.ones(channels), np.zeros(channels), 1.0, 0.0
        if pool:
            x = self.graph.add("global_depthwise", x, arrays={"weights": pool["kernel"][:, :, None]})
            offset = offset * pool["kernel"].sum((0, 1))
        elif (positions := len(kernel) // channels) > 1:
            x = self.graph.add("flatten", x)
            factor, offset = np.tile(factor, positions), np.tile(offset, positions)
        else:
            x = self.graph.add("mean", x, keep_grid=False)
        bias = (offset @ kernel + bias) * last_factor + last_offset
        self.graph.add("linear", x, arrays={"kernel": factor[:, None] * kernel * last_factor, "bias": bias})


def _without_coordinates(arrays: dict[str, np.ndarray], shape: Shape, padding: int) -> dict[str, np.ndarray]:
    """Return the arrays of a convolution of images; what it makes of their coordinates becomes a bias per position.

    Coordinates are the same in every image, see :func:`tvconv_jax.models.blocks.add_coordinates`.
    """
    height, width, colors = shape
    kernel, extra = arrays["kernel"][:, :, :colors], arrays["kernel"][:, :, colors:]
    if not extra.size:
        return arrays
    maps = np.stack(np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height)), axis=-1)
    maps = np.pad(maps, ((padding, padding), (padding, padding), (0, 0)))
    patches = np.lib.stride_tricks.sliding_window_view(maps, kernel.shape[:2], axis=(0, 1))
    return {"kernel": kernel, "bias": arrays["bias"] + np.einsum("hwcij,ijcd->hwd", patches, extra, optimize=True)}


def _is_kernel(params: Mapping[str, np.ndarray]) -> bool:
    """Return whether these are exactly the parameters of a convolution."""
    return set(params) - {"bias"} == {"kernel"} and params["kernel"].ndim in (2, 4)


def _mobilenetv2(folding: Folding, model: nn.Module) -> None:
    x = folding.conv_norm(0, "stem", activation="relu6")
    for row in model.blocks():
        x = folding.inverted_residual(x, row.name, strides=row.strides)
    folding.head(folding.conv_norm(x, "last", activation="relu6"), "head")


def _branch(folding: Folding, x: int, *path: str, strides: int) -> int:
    if folding.at("params", *path, "expand", "conv"):
        x = folding.conv_norm(x, *path, "expand", activation="relu")
    x = folding.spatial(x, *path, activation="identity", strides=strides)
    return folding.conv_norm(x, *path, "project", activation="relu")


def _shufflenetv2(folding: Folding, model: nn.Module) -> None:
    graph = folding.graph
    x = graph.add("max_pool", folding.conv_norm(0, "stem", activation="relu"))
    for row in model.units():
        channels = graph.shapes[x][2]
        if row.strides == 2:
            kept = _branch(folding, x, row.name, "shortcut", strides=2)
        else:
            kept = graph.add("channels", x, begin=0, end=channels // 2)
            x = graph.add("channels", x, begin=channels // 2, end=channels)
        branch = _branch(folding, x, row.name, "branch", strides=row.strides)
        x = graph.add("shuffle", graph.add("concat", kept, branch))
    folding.head(folding.conv_norm(x, "last", activation="relu"), "head")


def _mlp_mixer(folding: Folding, model: nn.Module) -> None:
    dense, size = folding.at("params", "stem"), model.patch_size
    arrays = {"kernel": dense["kernel"].reshape(size, size, -1, len(dense["bias"])), "bias": dense["bias"]}
    fields = {"strides": size, "padding": 0, "dilation": 1, "groups": 1, "activation": "identity"}
    x = folding.graph.add("conv", 0, arrays=arrays, **fields)  # patch by patch
    for i in range(model.layers):
        x = folding.module(x, model.block(), f"block_{i}")
    folding.head(folding.module(x, nn.LayerNorm(), "norm"), "head")


def _backbone(folding: Folding, model: nn.Module) -> tuple[int, int]:
    low = x = folding.conv_norm(0, "backbone", "stem", activation="relu6", strides=2, padding=0)
    for part in model.backbone():
        low = x
        for row in part:
            fields = {"strides": row.strides, "dilation": row.dilation, "fixed_padding": True}
            x = folding.inverted_residual(x, "backbone", row.name, **fields)
    return low, x


def _deeplabv3plus(folding: Folding, model: nn.Module) -> None:
    graph = folding.graph
    low, x = _backbone(folding, model)
    branches = [folding.conv_norm(x, "pyramid", "point", activation="relu")]
    for row in model.pyramid():
        if model.conv is None:
            branch = folding.conv_norm(x, "pyramid", row.name, activation="relu", dilation=row.dilation)
        else:
            branch = folding.inverted_residual(x, "pyramid", row.name)
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


# By class name, so that no model is imported.
MODELS: dict[str, Callable[[Folding, Any], None]] = {
    "MobileNetV2": _mobilenetv2,
    "ShuffleNetV2": _shufflenetv2,
    "MlpMixer": _mlp_mixer,
    "DeepLabV3Plus": _deeplabv3plus,
}
