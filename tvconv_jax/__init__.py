"""TVConv in JAX: translation-variant convolution, its models, their training and their export."""

from tvconv_jax import cli

cli.begin_if_command()  # before what takes seconds to import

# ruff: noqa: E402
from tvconv_jax.freezing import Frozen, freeze
from tvconv_jax.layers import DepthwiseConv, TVConv, WeightGenerator
from tvconv_jax.models import create_model, list_models
from tvconv_jax.ops import depthwise_conv, tv_conv

__all__ = [
    "DepthwiseConv",
    "Frozen",
    "TVConv",
    "WeightGenerator",
    "create_model",
    "depthwise_conv",
    "freeze",
    "list_models",
    "tv_conv",
]
__version__ = "0.1.0"
