"""A user's mistakes, one a marked line; ``test_types.py`` tests that both type checkers find each, and no other."""

# ruff: noqa: F401, I001
# pyright: strict, reportUnknownMemberType=false, reportUnusedImport=false

import jax
import numpy as np
from flax import nnx

import tvconv_jax.nnx as tv
from tvconv_jax import TVConv, create_model, freeze, generate_kernels, init_tv_conv, load_model, tv_conv
from tvconv_jax import load_modle  # mistake
from tvconv_jax.losses import am_softmax
from tvconv_jax.metrics.segmentation import dice, scores


def layers(x: jax.Array) -> None:
    TVConv(kernel_size="3")  # mistake
    TVConv(hidden_chanels=8)  # mistake
    TVConv(implementation="fast")  # mistake
    TVConv(generator_padding="edges")  # mistake
    TVConv()(x, 2)  # mistake


def nnx_layers(x: jax.Array) -> None:
    tv.TVConv(3, (32, 32))  # mistake
    tv.TVConv(3, 32, rngs=nnx.Rngs(0))  # mistake
    tv.TVConv(3, (32, 32), hidden_chanels=8, rngs=nnx.Rngs(0))  # mistake
    tv.freeze(TVConv())  # mistake
    tv.create_model("mobilenetv2", rngs=nnx.Rngs(0))  # mistake
    tv.from_linen(TVConv())  # mistake


def functions(x: jax.Array) -> None:
    init_tv_conv(x, 3, 32)  # mistake
    tv_conv(x, generate_kernels({}))  # mistake
    tv_conv(x, x, 2)  # mistake
    tv_conv(x, x, stride=2)  # mistake
    freeze(TVConv())  # mistake
    print(freeze(TVConv(), {"params": {}}).variable)  # mistake
    am_softmax(x, x, x, 0.35)  # mistake


def models(mask: np.ndarray) -> None:
    create_model("mobilenetv2", width="0.1")  # mistake
    create_model("mobilenetv2", 0.1)  # mistake
    print(load_model("runs/a").apply)  # mistake
    load_model("runs/a", False)  # mistake
    load_model("runs/a", best="yes")  # mistake
    dice(mask)  # mistake
    print(scores(mask, mask).dise)  # mistake
    scores(mask, mask, empty="0")  # mistake
