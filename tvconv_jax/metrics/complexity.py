"""Multiply-accumulates and parameters of a model, counted as the paper counts them.

Products of convolutions and linear layers one each; a normalised element 2; an element through a ReLU 1; an *input*
element of a pooling 1; a linear bias 1. A translation-variant convolution costs what the depthwise one does,
``k * k * c * ho * wo``: its weights are computed once, before it runs.

``python -m tvconv_jax.metrics.complexity`` prints the paper's Table 1 beside what is counted here.
"""

import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from tvconv_jax.freezing import freeze
from tvconv_jax.layers import DepthwiseConv, TVConv
from tvconv_jax.models import create_model
from tvconv_jax.models.blocks import BatchNorm, Conv, EmbeddingHead, MaxPool, Pointwise
from tvconv_jax.models.deeplabv3plus import ImagePool

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

# What one call of a layer costs, from its module and the elements of its input [n, ..., c] and output [n, ..., d].
COSTS: dict[type[nn.Module], Callable[[Any, tuple[int, ...], tuple[int, ...]], int]] = {
    nn.Conv: lambda conv, x, y: math.prod(y) * math.prod(conv.kernel_size) * x[-1],
    Conv: lambda conv, x, y: math.prod(y) * conv.kernel_size**2 * x[-1],
    nn.Dense: lambda dense, x, y: math.prod(y) * (x[-1] + dense.use_bias),
    Pointwise: lambda _, x, y: math.prod(y) * x[-1],
    DepthwiseConv: lambda conv, x, y: math.prod(y) * (conv.kernel_size**2 + conv.use_bias),
    TVConv: lambda conv, x, y: math.prod(y) * (conv.kernel_size**2 + conv.use_bias),
    BatchNorm: lambda norm, x, y: math.prod(y) * (2 + (norm.activation != "identity")),
    EmbeddingHead: lambda _, x, y: math.prod(x),  # the average over the grid; its layers count themselves
    MaxPool: lambda _, x, y: math.prod(x),
    ImagePool: lambda _, x, y: math.prod(x),
}


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
        model: One of this package's models or layers, or a module built of them, ``nn.Conv`` and ``nn.Dense``.
        input_shape: ``(n, h, w, c)``; the paper's figures are for ``(1, 96, 96, 3)``.

    Returns:
        The :class:`Complexity` for an input of that shape.
    """
    macs = 0

    def add(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        nonlocal macs
        y = call(*args, **kwargs)
        cost = COSTS.get(type(context.module))
        if cost is not None and context.method_name == "__call__":
            macs += cost(context.module, args[0].shape, y.shape)
        return y

    with nn.intercept_methods(add):
        images = jax.ShapeDtypeStruct(input_shape, jnp.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
    frozen = jax.eval_shape(lambda variables: freeze(model, variables).variables, variables)
    return Complexity(macs, _size(frozen["params"]) + _size(frozen["frozen"]), _size(variables["params"]))


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def main() -> None:
    table = Table(title="MACs at 96x96, in millions; parameters in thousands")
    for column in ("model", "operator", "paper", "ours", "frozen", "training"):
        table.add_column(column, justify="left" if column in ("model", "operator") else "right")
    for (name, width), paper in PAPER_MMACS.items():
        for operator in ("depthwise", "tvconv"):
            cost = count(create_model(name, width=width, operator=operator), (1, 96, 96, 3))
            cells = (f"{paper:.2f}", f"{cost.macs / 1e6:.2f}", f"{cost.params / 1e3:,.0f}")
            table.add_row(f"{name} x{width}", operator, *cells, f"{cost.train_params / 1e3:,.0f}")
    Console(width=None if sys.stdout.isatty() else 100).print(table)


if __name__ == "__main__":
    main()
