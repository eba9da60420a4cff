"""Multiply-accumulates and parameters of a model, counted as the paper counts them.

Products of convolutions and linear layers one each; a normalized element 2; an element through a ReLU 1; an *input*
element of a pooling 1; a linear bias 1. A translation-variant convolution costs what the depthwise one does,
``k * k * c * ho * wo``: its weights are computed once, before it runs. What an operator computes from the input it
computes for every image, and it is counted for every image: averages, linear layers, the mixing of experts, a
generator. The paper has no rule for an element through a softmax: it is 2, like a normalized one; sigmoid and GELU 1.

``python -m tvconv_jax.metrics.complexity`` prints the paper's Table 1 beside what is counted here, and all operators.
"""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from tvconv_jax.models import create_model
from tvconv_jax.models.blocks import Conv, EmbeddingHead, MaxPool, Pointwise
from tvconv_jax.models.deeplabv3plus import ImagePool
from tvconv_jax.models.mlp_mixer import Mlp
from tvconv_jax.models.registry import list_operators
from tvconv_jax.nn.boxes import unboxed
from tvconv_jax.nn.freeze import freeze
from tvconv_jax.nn.layers import DepthwiseConv, GeneratorBlock, MapConv, TVConv, WeightGenerator
from tvconv_jax.nn.norm import BatchNorm
from tvconv_jax.nn.operators.axial import Axial, AxisAttention
from tvconv_jax.nn.operators.condconv import CondConv
from tvconv_jax.nn.operators.ddf import DDF
from tvconv_jax.nn.operators.dyconv_dw import DyConvDW, KernelAttention
from tvconv_jax.nn.operators.dyconv_pw import DyConvPW
from tvconv_jax.nn.operators.dynamic import MixedDepthwise, head_count
from tvconv_jax.nn.operators.involution import Involution
from tvconv_jax.nn.operators.locally_connected import LocallyConnected
from tvconv_jax.nn.operators.sasa import SASA
from tvconv_jax.nn.operators.tvconv_dynamic import TVConvDynamic
from tvconv_jax.nn.operators.tvconv_linear import TVConvLinear
from tvconv_jax.nn.operators.tvconv_lowrank import TVConvLowrank
from tvconv_jax.nn.operators.weightnet import WeightNet
from tvconv_jax.utils.cli import Parser, ends_in_one_line

# Millions of multiply-accumulates in Table 1 of Chen et al. 2022, depthwise and TVConv alike.
PAPER_MMACS = {
    ("mobilenetv2", 0.1): 22.47,
    ("mobilenetv2", 0.2): 28.00,
    ("mobilenetv2", 0.3): 44.20,
    ("mobilenetv2", 0.5): 74.03,
    ("mobilenetv2", 1.0): 225.72,
    ("shufflenetv2", 0.5): 31.95,
    ("shufflenetv2", 1.0): 110.53,
    ("shufflenetv2", 1.5): 222.99,
}

Shape = tuple[int, ...]


def _depthwise(conv: Any, x: Shape, y: Shape) -> int:
    """One product a tap and output element; all that depthwise and frozen per-pixel kernels cost."""
    return math.prod(y) * (conv.kernel_size**2 + conv.use_bias)


def _library_conv(conv: nn.Conv, x: Shape, y: Shape) -> int:
    """Of any number of axes, in groups or not, with a bias or without."""
    taps = math.prod(conv.kernel_size) if isinstance(conv.kernel_size, Sequence) else conv.kernel_size
    return math.prod(y) * (taps * x[-1] // conv.feature_group_count + conv.use_bias)


def _mixed(conv: Any, x: Shape, y: Shape) -> int:
    """Mixing every expert's kernel and bias into each image's own, then the depthwise convolution."""
    return x[0] * conv.experts * (conv.kernel_size**2 + conv.use_bias) * x[-1] + _depthwise(conv, x, y)


def _pool(operator: Any, x: Shape) -> int:
    """The average that stands for strides before or behind what does not stride itself."""
    return math.prod(x) if operator.strides > 1 else 0


def _weightnet(net: WeightNet, x: Shape, y: Shape) -> int:
    """Average, sigmoids, the grouped linear layer, the convolution; the two other linear layers count themselves."""
    return math.prod(x) + x[0] * net.inputs * x[-1] * (1 + net.kernel_size**2) + _depthwise(net, x, y)


def _involution(involution: Involution, x: Shape, y: Shape) -> int:
    """Average, the convolution; the two linear layers and the norm count themselves."""
    return _pool(involution, x) + math.prod(y) * involution.kernel_size**2


def _ddf(ddf: DDF, x: Shape, y: Shape) -> int:
    """Average, ReLU, both filters' norms, two products a tap and element; the linear layers count themselves."""
    taps, hidden = ddf.kernel_size**2, max(1, int(x[-1] * ddf.squeeze))
    norms = 2 * taps * (math.prod(y[:-1]) + x[0] * x[-1])
    return math.prod(x) + x[0] * hidden + norms + 2 * taps * math.prod(y)


def _sasa(sasa: SASA, x: Shape, y: Shape) -> int:
    """Three projections within each head, logits, softmax, the sum of values, the average."""
    taps, heads = sasa.kernel_size**2, head_count(x[-1], sasa.heads)
    projections = 3 * math.prod(x) * (x[-1] // heads)
    return projections + 2 * taps * math.prod(x) + 2 * taps * heads * math.prod(x[:-1]) + _pool(sasa, x)


def _axis(attention: AxisAttention, x: Shape, y: Shape) -> int:
    """Logits in three terms, softmax, values in two terms; the projection and the norms count themselves."""
    length, heads = x[attention.axis], head_count(x[-1], attention.heads)
    half = max(1, x[-1] // heads // 2)
    return length * (math.prod(x[:-1]) * heads * (3 * half + 2) + 2 * math.prod(x))


def _tvconv_dynamic(conv: TVConvDynamic, x: Shape, y: Shape) -> int:
    """Average, generators with their norms and ReLUs at every position of every image, the convolution."""
    hidden, generators = conv.hidden_channels, 1 + conv.use_bias
    blocks = 9 * hidden * (conv.affinity_channels + conv.hidden_layers * hidden) + 3 * hidden * (conv.hidden_layers + 1)
    last = 9 * hidden * (conv.kernel_size**2 + conv.use_bias) * x[-1]
    return _pool(conv, x) + math.prod(y[:-1]) * (generators * blocks + last) + _depthwise(conv, x, y)


# What one call of a layer costs, from its module and the elements of its input [n, ..., c] and output [n, ..., d].
COSTS: dict[type[nn.Module], Callable[[Any, Shape, Shape], int]] = {
    nn.Conv: _library_conv,
    Conv: lambda conv, x, y: math.prod(y) * conv.kernel_size**2 * x[-1],
    nn.Dense: lambda dense, x, y: math.prod(y) * (x[-1] + dense.use_bias),
    Pointwise: lambda _, x, y: math.prod(y) * x[-1],
    DepthwiseConv: _depthwise,
    TVConv: _depthwise,
    TVConvLinear: _depthwise,
    LocallyConnected: _depthwise,
    TVConvLowrank: lambda conv, x, y: math.prod(y) * (conv.rank * (conv.kernel_size**2 + 1) + conv.use_bias),
    TVConvDynamic: _tvconv_dynamic,
    CondConv: lambda conv, x, y: math.prod(x) + x[0] * conv.experts + _mixed(conv, x, y),  # average, sigmoids
    KernelAttention: lambda a, x, y: math.prod(x) + x[0] * max(1, x[-1] // a.reduction) + 2 * math.prod(y),
    DyConvDW: _mixed,
    DyConvPW: lambda conv, x, y: x[0] * conv.experts * x[-1] * y[-1] + math.prod(y) * x[-1],
    WeightNet: _weightnet,
    Involution: _involution,
    DDF: _ddf,
    SASA: _sasa,
    AxisAttention: _axis,
    Axial: lambda axial, x, y: _pool(axial, x),
    Mlp: lambda mlp, x, y: math.prod(x[:-1]) * mlp.hidden,  # GELU; its layers count themselves
    nn.LayerNorm: lambda norm, x, y: 2 * math.prod(y),
    BatchNorm: lambda norm, x, y: math.prod(y) * (2 + (norm.activation != "identity")),
    EmbeddingHead: lambda _, x, y: math.prod(x),  # the average over the grid; its layers count themselves
    MaxPool: lambda _, x, y: math.prod(x),
    ImagePool: lambda _, x, y: math.prod(x),
}

# Gone when kernels are frozen, or counted by the operator that holds it.
UNCOUNTED = (WeightGenerator, GeneratorBlock, MapConv, MixedDepthwise)


class Complexity(NamedTuple):
    """Cost of a model.

    Attributes:
        macs: Multiply-accumulates for the given input.
        params: Numbers that the frozen model holds, per-pixel kernels included, running statistics not.
        train_params: Numbers that training changes, generators included.
    """

    macs: int
    params: int
    train_params: int


def count(model: nn.Module, input_shape: tuple[int, ...]) -> Complexity:
    """Counts without computing anything.

    Args:
        model: One of this package's models or layers, or a module built of them, ``nn.Conv`` and ``nn.Dense``. What
            ``nn.scan`` or ``nn.vmap`` repeats is counted as often as it is traced, not as often as it runs.
        input_shape: ``(n, h, w, c)``; the paper's figures are for ``(1, 96, 96, 3)``.

    Returns:
        The :class:`Complexity` for an input of that shape.

    Raises:
        ValueError: If a module with parameters of its own is none of them, so that nobody knows what it costs.
    """
    macs = 0

    def add(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        nonlocal macs
        y = call(*args, **kwargs)
        module = context.module
        if context.method_name != "__call__" or isinstance(module, UNCOUNTED):
            return y
        if cost := COSTS.get(type(module)):
            macs += cost(module, args[0].shape, y.shape)
        elif own := [name for name, a in module.variables.get("params", {}).items() if hasattr(unboxed(a), "shape")]:
            raise ValueError(
                f"what {type(module).__name__} costs is not known, and it has parameters ({', '.join(own)}); "
                f"give it a row in COSTS of tvconv_jax/metrics/complexity.py."
            )
        return y

    with nn.intercept_methods(add):
        images = jax.ShapeDtypeStruct(input_shape, jnp.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
    frozen = jax.eval_shape(lambda variables: freeze(model, variables).variables, variables)
    return Complexity(macs, _size(frozen["params"]) + _size(frozen["frozen"]), _size(variables["params"]))


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _operators_table() -> Table:
    table = Table(title="Operators in MobileNetV2 x0.1")
    for column in ("operator", "MACs", "frozen", "training"):
        table.add_column(column, justify="left" if column == "operator" else "right")
    models = {name: create_model("mobilenetv2", width=0.1, operator=name) for name in list_operators("mobilenetv2")}
    for name, model in (models | {"mlp_mixer": create_model("mlp_mixer", width=0.1)}).items():
        cost = count(model, (1, 96, 96, 3))
        table.add_row(name, f"{cost.macs / 1e6:.2f}", f"{cost.params / 1e3:,.0f}", f"{cost.train_params / 1e3:,.0f}")
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Print the paper's Table 1 with our figures beside it, and the operators."""
    Parser(prog="python -m tvconv_jax.metrics.complexity", description=main.__doc__).parse_args(argv)
    with ends_in_one_line("nothing was written."):
        console = Console(width=None if sys.stdout.isatty() else 100)
        console.print(_models_table())
        console.print(_operators_table())


def _models_table() -> Table:
    table = Table(title="MACs at 96x96, in millions; parameters in thousands")
    for column in ("model", "operator", "paper", "ours", "frozen", "training"):
        table.add_column(column, justify="left" if column in ("model", "operator") else "right")
    for (name, width), paper in PAPER_MMACS.items():
        for operator in ("depthwise", "tvconv"):
            cost = count(create_model(name, width=width, operator=operator), (1, 96, 96, 3))
            cells = (f"{paper:.2f}", f"{cost.macs / 1e6:.2f}", f"{cost.params / 1e3:,.0f}")
            table.add_row(f"{name} x{width}", operator, *cells, f"{cost.train_params / 1e3:,.0f}")
    return table


if __name__ == "__main__":
    main()
