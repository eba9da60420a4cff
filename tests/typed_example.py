"""A user's file that both type checkers accept in strict mode; ``test_types.py`` runs them on it."""

# Some types of JAX and Flax themselves, as of jnp.zeros and Module.init, are unknown to pyright.
# pyright: strict, reportUnknownMemberType=false

from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_type

import flax.linen as nn
import jax
import numpy as np
from flax import nnx

import tvconv_jax.nnx as tv
from tvconv_jax import (
    DepthwiseConv,
    Frozen,
    Kernels,
    TVConv,
    create_model,
    depthwise_conv,
    freeze,
    generate_kernels,
    init_tv_conv,
    list_models,
    load_model,
    tv_conv,
)
from tvconv_jax.convert import from_torch, to_torch
from tvconv_jax.losses import am_softmax
from tvconv_jax.metrics.complexity import count
from tvconv_jax.metrics.roc import Roc, roc
from tvconv_jax.metrics.segmentation import Scores, dice, scores
from tvconv_jax.metrics.verification import Verification, ten_fold
from tvconv_jax.nn.operators.per_position import TVConvLowrank


class Net(nn.Module):
    features: int = 16
    strides: int = 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(TVConv(hidden_channels=8)(nn.Dense(self.features)(x)))
        layer = TVConv(5, self.strides, affinity_channels=2, use_bias=True, generator_padding="edge", name="down")
        assert_type(layer, TVConv)
        assert_type(layer(x), jax.Array)
        x = DepthwiseConv(dilation=2, kernel_init=nn.initializers.ones)(layer(x))
        return TVConvLowrank(rank=1)(x)


def init(model: nn.Module, images: jax.Array) -> Mapping[str, Any]:
    return model.init(jax.random.key(0), images)


def apply(model: nn.Module, variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
    y = model.apply(variables, images)
    assert isinstance(y, jax.Array)  # by its type, it may also be a tuple with changed variables
    return y


def train(images: jax.Array) -> Frozen:
    net = Net(features=8)
    assert_type(net, Net)
    params = init(net, images)["params"]

    def loss_fn(params: Mapping[str, Any]) -> jax.Array:
        return jax.numpy.mean(apply(net, {"params": params}, images))

    def step(value: jax.Array, gradient: jax.Array) -> jax.Array:
        return value - 0.1 * gradient

    params = jax.tree.map(step, params, jax.grad(loss_fn)(params))
    frozen = freeze(net, {"params": params})
    assert_type(frozen, Frozen)
    assert_type(frozen["frozen"], Any)
    assert_type(dict(frozen), dict[str, Any])
    y: jax.Array = frozen(images)
    print(y.shape, apply(net, frozen, images).shape)
    return frozen


class NNXNet(nnx.Module):
    def __init__(self, features: int, *, rngs: nnx.Rngs) -> None:
        self.conv = tv.TVConv(features, (32, 32), strides=2, hidden_channels=8, rngs=rngs)
        self.depthwise = tv.DepthwiseConv(features, 5, dilation=2, rngs=rngs)
        assert_type(self.conv, tv.TVConv)

    def __call__(self, x: jax.Array) -> jax.Array:
        assert_type(self.conv(x), jax.Array)
        return self.depthwise(self.conv(x))


def frozen_nnx(images: jax.Array) -> jax.Array:
    net = NNXNet(3, rngs=nnx.Rngs(0))
    assert_type(net.conv.affinity[...], jax.Array)
    frozen = tv.freeze(net)
    assert_type(frozen, NNXNet)
    model = tv.create_model("mobilenetv2", (48, 48), width=0.1, rngs=nnx.Rngs(0))
    module, variables = tv.to_linen(tv.freeze(model))
    assert_type(module, nn.Module)
    assert_type(tv.from_linen(module, variables), nnx.Module)
    return frozen(images)


def functions(key: jax.Array, x: jax.Array) -> jax.Array:
    kernels = generate_kernels(init_tv_conv(key, 3, (32, 32), strides=2, use_bias=True))
    assert_type(kernels, Kernels)
    y = tv_conv(x, kernels.weights, strides=2, implementation="patches")
    assert_type(y, jax.Array)
    if kernels.bias is not None:
        y = y + kernels.bias
    return depthwise_conv(y, kernels.weights[0, 0], padding=None)


def models(images: jax.Array) -> Mapping[str, Any]:
    assert_type(list_models()["mobilenetv2"].operators, tuple[str, ...])
    model = create_model("mobilenetv2", width=0.1, stages=[1, 2], hidden_channels=8)
    assert_type(model, nn.Module)
    assert_type(count(model, (1, 96, 96, 3)).macs, int)
    variables = from_torch(to_torch(init(model, images), model), model)
    assert_type(variables, dict[str, Any])
    return freeze(model, variables)


def trained(images: jax.Array) -> jax.Array:
    model, variables = load_model(Path("runs/a"), best=False)
    assert_type(model, nn.Module)
    assert_type(variables, dict[str, Any])
    return apply(model, variables, images)


def judge(left: jax.Array, right: jax.Array, labels: jax.Array, folds: np.ndarray, same: np.ndarray) -> jax.Array:
    verification = ten_fold(np.asarray(left), np.asarray(right), same, folds, protocol="standard")
    assert_type(verification, Verification)
    assert_type(verification.accuracy, float)
    assert_type(roc(verification.folds[0] * folds, same), Roc)
    assert_type(dice(same, same), float)
    assert_type(scores(same, same, empty="nan"), Scores)
    losses = am_softmax(left, right, labels, margin=0.3)
    assert_type(losses, jax.Array)
    return losses
