"""Multiply-accumulates and parameters of a model, counted as the paper counts them.

Each product of a convolution or linear layer counts 1, a normalized element 2, an element through a ReLU 1, an *input*
element of a pooling 1, a linear bias 1. A translation-variant convolution costs as much as the depthwise one,
``k * k * c * ho * wo``: its weights are computed once, before it runs. Computations on the input count for every image:
averages, linear layers, the mixing of experts, a generator. The paper has no rule for softmax: it counts 2 per element,
like a norm; sigmoid and GELU count 1. Each layer declares its own ``cost``, see :class:`tvconv_jax.nn.checks.Checked`.

``python -m tvconv_jax.metrics.complexity`` prints the paper's Table 1 beside what is counted here, and all operators.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax.models import create_model
from tvconv_jax.models.registry import list_operators
from tvconv_jax.nn.boxes import unboxed
from tvconv_jax.nn.checks import declared
from tvconv_jax.nn.freeze import freeze
from tvconv_jax.utils.cli import Parser, ends_in_one_line
from tvconv_jax.utils.console import make_table, print_table

# Millions of multiply-accumulates in Table 1 of Chen et al. 2022, depthwise and TVConv alike.
_BY_WIDTH = {
    "mobilenetv2": {0.1: 22.47, 0.2: 28.00, 0.3: 44.20, 0.5: 74.03, 1.0: 225.72},
    "shufflenetv2": {0.5: 31.95, 1.0: 110.53, 1.5: 222.99},
}
PAPER_MMACS = {(model, width): mmacs for model, widths in _BY_WIDTH.items() for width, mmacs in widths.items()}

Shape = tuple[int, ...]


def _conv(conv: nn.Conv, x: Shape, y: Shape) -> int:
    """Count any number of axes, in groups or not, with a bias or without."""
    taps = math.prod(conv.kernel_size) if isinstance(conv.kernel_size, Sequence) else conv.kernel_size
    return math.prod(y) * (taps * x[-1] // conv.feature_group_count + conv.use_bias)


# Costs of one call of Flax's own layers, from the shapes of input and output; our layers declare ``cost``.
COSTS: dict[type[nn.Module], Callable[[Any, Shape, Shape], int]] = {
    nn.Conv: _conv,
    nn.Dense: lambda dense, x, y: math.prod(y) * (x[-1] + dense.use_bias),
    nn.LayerNorm: lambda norm, x, y: 2 * math.prod(y),
}


class Complexity(NamedTuple):
    """Cost of a model."""

    macs: int  # multiply-accumulates for the given input
    params: int  # parameters of the frozen model, with per-pixel kernels and without running statistics
    train_params: int  # parameters in training, with generators


def count(model: nn.Module, input_shape: tuple[int, ...]) -> Complexity:
    """Count multiply-accumulates and parameters without computing anything.

    Args:
        model: A model or layer of this package, or a module built of them, ``nn.Conv`` and ``nn.Dense``. A layer that
            ``nn.scan`` or ``nn.vmap`` repeats is counted as often as it is traced, not as often as it runs.
        input_shape: ``(n, h, w, c)``; the paper's figures are for ``(1, 96, 96, 3)``.

    Raises:
        ValueError: If a module with parameters of its own declares no cost.
    """
    macs = 0

    def add(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        nonlocal macs
        y = call(*args, **kwargs)
        module = context.module
        if context.method_name != "__call__":
            return y
        if cost := declared(module, "cost") or COSTS.get(type(module)):
            macs += cost(module, args[0].shape, y.shape)
        elif own := [name for name, a in module.variables.get("params", {}).items() if hasattr(unboxed(a), "shape")]:
            raise ValueError(
                f"the cost of {type(module).__name__} is not known, and it has parameters ({', '.join(own)}); "
                f"give the class a method cost(self, x, y)."
            )
        return y

    with nn.intercept_methods(add):
        images = jax.ShapeDtypeStruct(input_shape, jnp.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
    frozen = jax.eval_shape(lambda variables: freeze(model, variables).variables, variables)
    return Complexity(macs, _size(frozen["params"]) + _size(frozen["frozen"]), _size(variables["params"]))


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def main(argv: Sequence[str] | None = None) -> None:
    """Print the paper's Table 1 with our figures beside it, and the operators."""
    Parser(prog="python -m tvconv_jax.metrics.complexity", description=main.__doc__).parse_args(argv)
    with ends_in_one_line("nothing was written."):
        print_table(_models_table(), width=100)
        print_table(_operators_table(), width=100)


def _cells(model: nn.Module) -> tuple[str, ...]:
    cost = count(model, (1, 96, 96, 3))
    return f"{cost.macs / 1e6:.2f}", f"{cost.params / 1e3:,.0f}", f"{cost.train_params / 1e3:,.0f}"


def _models_table() -> Any:
    columns, title = ("model", "operator"), "MACs at 96x96, in millions; parameters in thousands"
    table = make_table((*columns, "paper", "ours", "frozen", "training"), left=columns, title=title)
    for (name, width), paper in PAPER_MMACS.items():
        for operator in ("depthwise", "tvconv"):
            model = create_model(name, width=width, operator=operator)
            table.add_row(f"{name} x{width}", operator, f"{paper:.2f}", *_cells(model))
    return table


def _operators_table() -> Any:
    columns, title = ("operator", "MACs", "frozen", "training"), "Operators in MobileNetV2 x0.1"
    table = make_table(columns, left=["operator"], title=title)
    for name in list_operators("mobilenetv2"):
        table.add_row(name, *_cells(create_model("mobilenetv2", width=0.1, operator=name)))
    table.add_row("mlp_mixer", *_cells(create_model("mlp_mixer", width=0.1)))
    return table


if __name__ == "__main__":
    main()
