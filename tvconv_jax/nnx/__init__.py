"""TVConv for ``flax.nnx``: layers, ``freeze``, models, and weights from and to linen.

``from flax import nnx`` beside ``from tvconv_jax.nnx import TVConv`` keeps both names apart.
"""

from tvconv_jax.nnx.conversion import from_linen, to_linen
from tvconv_jax.nnx.freezing import freeze
from tvconv_jax.nnx.layers import DepthwiseConv, TVConv
from tvconv_jax.nnx.models import LinenModel, create_model
from tvconv_jax.nnx.variables import FrozenKernel

__all__ = [
    "DepthwiseConv",
    "FrozenKernel",
    "LinenModel",
    "TVConv",
    "create_model",
    "freeze",
    "from_linen",
    "to_linen",
]
