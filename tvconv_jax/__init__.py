"""TVConv in JAX: translation-variant convolution, its models, their training and their export."""

import importlib
from typing import TYPE_CHECKING, Any

from tvconv_jax.utils import cli, moved

cli.begin_if_command()  # before what takes seconds to import
moved.install()

__all__ = [
    "DepthwiseConv",
    "Frozen",
    "Kernels",
    "TVConv",
    "WeightGenerator",
    "create_model",
    "depthwise_conv",
    "freeze",
    "generate_kernels",
    "init_tv_conv",
    "list_models",
    "load_model",
    "tv_conv",
]
__version__ = "0.1.0"
# Modules of these names. They import JAX when one of the names is used: predict, verify and benchmark need none.
_HOMES = {
    "models": ("create_model", "list_models"),
    "nn.freeze": ("Frozen", "freeze"),
    "nn.functional": ("Kernels", "generate_kernels", "init_tv_conv"),
    "nn.layers": ("DepthwiseConv", "TVConv", "WeightGenerator"),
    "ops.tv_conv": ("depthwise_conv", "tv_conv"),
    "tasks.workdir": ("load_model",),
}

if TYPE_CHECKING:
    from tvconv_jax.models import create_model, list_models
    from tvconv_jax.nn.freeze import Frozen, freeze
    from tvconv_jax.nn.functional import Kernels, generate_kernels, init_tv_conv
    from tvconv_jax.nn.layers import DepthwiseConv, TVConv, WeightGenerator
    from tvconv_jax.ops.tv_conv import depthwise_conv, tv_conv
    from tvconv_jax.tasks.workdir import load_model

else:  # type checkers would accept any name

    def __getattr__(name: str) -> Any:
        """Import a public name, or a package that holds some, when it is first used."""
        for home, names in _HOMES.items():
            if name in names:
                return globals().setdefault(name, getattr(importlib.import_module(f"{__name__}.{home}"), name))
            if name == home.partition(".")[0]:
                return importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
