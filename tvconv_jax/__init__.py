"""TVConv in JAX: translation-variant convolution, its models, their training and their export."""

from tvconv_jax.utils import cli, moved

cli.begin_if_command()  # before what takes seconds to import
moved.install()

# ruff: noqa: E402
from tvconv_jax.models import create_model, list_models
from tvconv_jax.nn.freeze import Frozen, freeze
from tvconv_jax.nn.functional import Kernels, generate_kernels, init_tv_conv
from tvconv_jax.nn.layers import DepthwiseConv, TVConv, WeightGenerator
from tvconv_jax.ops.tv_conv import depthwise_conv, tv_conv
from tvconv_jax.tasks.workdir import load_model

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
