"""Modules of a graph in stock ONNX operations: operators that make kernels from the picture, attention, MLP-Mixer.

Each function of the table writes one linen module: the builder, the module, its parameters as a tree (a norm's running
statistics among them), the name of its input ``[n, c, h, w]`` and ``(h, w, c)``; it returns the name of the output
``[n, d, ho, wo]``. Equations and sources stand in the modules' own files.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import numpy as np
from flax.traverse_util import unflatten_dict

from tvconv_jax.export.onnx.attention import axial, sasa
from tvconv_jax.export.onnx.builder import Builder
from tvconv_jax.export.onnx.dynamic import condconv, ddf, dyconv_dw, dyconv_pw, involution, tvconv_dynamic, weightnet
from tvconv_jax.export.onnx.mixer import channel_norm, mixer_block
from tvconv_jax.export.onnx.parts import Params, Shape
from tvconv_jax.models.mlp_mixer import MixerBlock
from tvconv_jax.nn.operators.axial import Axial
from tvconv_jax.nn.operators.condconv import CondConv
from tvconv_jax.nn.operators.ddf import DDF
from tvconv_jax.nn.operators.dyconv_dw import DyConvDW
from tvconv_jax.nn.operators.dyconv_pw import DyConvPW
from tvconv_jax.nn.operators.involution import Involution
from tvconv_jax.nn.operators.sasa import SASA
from tvconv_jax.nn.operators.tvconv_dynamic import TVConvDynamic
from tvconv_jax.nn.operators.weightnet import WeightNet
from tvconv_jax.utils.errors import UserError


def write(builder: Builder, module: nn.Module, arrays: Mapping[str, np.ndarray], x: str, shape: Shape) -> str:
    """Writes a module with the arrays of its node.

    Raises:
        UserError: If there is no row for it in ``MODULES``.
    """
    if type(module) not in MODULES:
        known = ", ".join(kind.__name__ for kind in MODULES)
        raise UserError(f"{type(module).__name__} has no ONNX form; what has: {known}; add a row to MODULES.")
    params = unflatten_dict({name.partition("/")[2]: array for name, array in arrays.items()}, sep="/")
    return MODULES[type(module)](builder, module, params, x, shape)


MODULES: dict[type[nn.Module], Callable[[Builder, Any, Params, str, Shape], str]] = {
    CondConv: condconv,
    WeightNet: weightnet,
    DyConvDW: dyconv_dw,
    DyConvPW: dyconv_pw,
    Involution: involution,
    DDF: ddf,
    TVConvDynamic: tvconv_dynamic,
    SASA: sasa,
    Axial: axial,
    MixerBlock: mixer_block,
    nn.LayerNorm: channel_norm,
}
WINDOWS = (CondConv, WeightNet, DyConvDW, Involution, DDF, TVConvDynamic)  # kernels with a choice of lowerings
