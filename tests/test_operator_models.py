"""Costs of the operators counted by hand; MLP-Mixer; every model with every operator."""

import functools
import json
import math
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from naive_operators import dense
from test_operators import CASES, SMALL, inputs, randomized

from tvconv_jax import create_model, list_models
from tvconv_jax.metrics.complexity import count
from tvconv_jax.models.mlp_mixer import MixerBlock, MlpMixer
from tvconv_jax.models.registry import OPERATORS, list_operators
from tvconv_jax.nn.operators.attention import SASA, Axial
from tvconv_jax.nn.operators.per_image import CondConv, DyConvDW, DyConvPW, WeightNet
from tvconv_jax.nn.operators.per_pixel import DDF, Involution, TVConvDynamic
from tvconv_jax.nn.operators.per_position import LocallyConnected, TVConvLinear, TVConvLowrank
from tvconv_jax.tasks.configs import face_config
from tvconv_jax.tasks.configs.base import complete
from tvconv_jax.tasks.parts import model_of

ATTENTION = {"experts": 2, "reduction": 2}
COSTS = [
    # average, routing, sigmoids, mixing, convolution
    (CondConv(experts=2), 192 + (8 * 2 + 2) + 2 + 2 * 72 + 1728, 18 + 144),
    # average, both linear layers, sigmoids, the grouped layer, convolution
    (WeightNet(), 192 + (8 * 16 + 16) + (16 * 8 + 8) + 8 + 72 + 1728, 144 + 136 + 72),
    # average, first layer, ReLU, second, softmax, mixing, convolution
    (DyConvDW(**ATTENTION), 192 + (8 * 4 + 4) + 4 + (4 * 2 + 2) + 2 * 2 + 2 * 72 + 1728, 36 + 10 + 144),
    (DyConvPW(5, **ATTENTION), 192 + (8 * 4 + 4) + 4 + (4 * 2 + 2) + 2 * 2 + 2 * 40 + 24 * 40, 36 + 10 + 80),
    # average to 6 pixels, first layer, norm and ReLU, second to two groups, convolution
    (
        Involution(strides=2, group_channels=4),
        192 + 6 * 8 * 2 + 6 * 2 * 3 + 6 * (2 * 18 + 18) + 6 * 72,
        16 + 2 * 2 + 54,
    ),
    # pixels' layer and norm; average, first layer, ReLU, second, norm; two products a tap
    (
        DDF(squeeze=0.5),
        24 * (8 * 9 + 9) + 2 * 24 * 9 + 192 + (8 * 4 + 4) + 4 + (4 * 72 + 72) + 2 * 72 + 2 * 1728,
        81 + 36 + 360 + 72,
    ),
    # three projections of four channels to four, logits, softmax of two heads, values, average
    (SASA(heads=2, strides=2), 3 * 192 * 4 + 1728 + 2 * 24 * 9 * 2 + 1728 + 192, 3 * 2 * 16 + 2 * 3 * 2 * 2),
    # an axis: projection to 2 * (2 + 2 + 4), for its length logits in three terms, softmax, values in two; the norms
    (
        Axial(heads=2),
        2 * 24 * 8 * 16 + (4 + 6) * 24 * (2 * 3 * 2 + 2 * 2 + 2 * 8) + 2 * 24 * (2 * 16 * 2 + (4 + 6) * 3 * 2),
        2 * 128 + (7 + 11) * (2 + 2 + 4) + 2 * 2 * (16 + 3 * 2 + 16),
    ),
    (LocallyConnected(), 1728, 1728),
    (TVConvLinear(), 1728, 1728),
    # two convolutions, two products with gains
    (TVConvLowrank(**SMALL), 2 * (1728 + 192), 2 * (72 + 192)),
    # maps; three convolutions of the generator, its norms and ReLUs; convolution
    (
        TVConvDynamic(**SMALL),
        24 * (8 * 2 + 2) + 24 * 9 * (2 * 4 + 4 * 4 + 4 * 72) + 2 * 24 * 4 * 3 + 1728,
        18 + 9 * (2 * 4 + 4 * 4 + 4 * 72) + 2 * 2 * 24 * 4,
    ),
]


@pytest.mark.parametrize(("module", "macs", "params"), COSTS, ids=lambda case: type(case).__name__)
def test_costs_are_those_counted_by_hand(module, macs, params):
    cost = count(module, (1, 4, 6, 8))
    assert (cost.macs, cost.params) == (macs, params)
    assert count(module, (3, 4, 6, 8)).macs == 3 * macs  # what is computed per image is counted per image


def test_a_layer_of_unknown_cost_is_not_counted_as_free():
    with pytest.raises(ValueError, match=r"the cost of GroupNorm is not known, and it has parameters \(scale, bias\)"):
        count(nn.Sequential([nn.Dense(4), nn.GroupNorm(2)]), (1, 4, 4, 3))


def test_a_users_layer_declares_its_cost_and_a_subclass_its_own():
    class Scale(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x * self.param("factor", nn.initializers.ones, (1, 1, 1, x.shape[-1]))

        def cost(self, x, y):
            return math.prod(y)

    class Twice(Scale):
        pass

    assert count(Scale(), (1, 4, 6, 8)).macs == 4 * 6 * 8
    with pytest.raises(ValueError, match="the cost of Twice is not known"):
        count(Twice(), (1, 4, 6, 8))


def test_the_registry_loads_an_operator_when_it_is_asked_for():
    script = "import sys, tvconv_jax; print([m for m in sys.modules if m.startswith('tvconv_jax.nn.operators')])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"


def test_costs_of_a_mixer_block_by_hand():
    positions = 8 * (4 * 3 + 3) + 8 * 3 + 8 * (3 * 4 + 4)  # four positions to three, GELU, back, for every channel
    channels = 4 * (8 * 5 + 5) + 4 * 5 + 4 * (5 * 8 + 8)
    assert count(MixerBlock(3, 5), (1, 4, 8)).macs == 2 * 2 * 32 + positions + channels


# Models.


def layer_norm(p, x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def mlp(p, x):
    y = dense(p["expand"], x)
    y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))  # GELU
    return dense(p["project"], y)


def test_mixer_equals_its_equations():
    model, images = MlpMixer(0.1, patch_size=2, layers=2, embedding_size=3), inputs((2, 4, 6, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    statistics = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.full(leaf.shape, path[-1].key == "var", np.float32), variables["batch_stats"]
    )
    variables = {"params": randomized(variables["params"], 0.1), "batch_stats": statistics}
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    x = np.asarray(images, np.float64)
    patches = [x[:, i : i + 2, j : j + 2].reshape(2, 12) for i in (0, 2) for j in (0, 2, 4)]
    x = dense(p["stem"], np.stack(patches, axis=1))
    for block in (p["block_0"], p["block_1"]):
        x = x + mlp(block["positions"], layer_norm(block["norm_positions"], x).swapaxes(1, 2)).swapaxes(1, 2)
        x = x + mlp(block["channels"], layer_norm(block["norm_channels"], x))
    head = p["head"]
    norm = lambda p, x: x / np.sqrt(1 + 1e-5) * p["scale"] + p["bias"]  # noqa: E731, running statistics 0 and 1
    x = norm(head["norm_out"], dense(head["dense"], norm(head["norm_in"], layer_norm(p["norm"], x)).mean(1)))
    np.testing.assert_allclose(jax.jit(model.apply)(variables, images), x, rtol=1e-4, atol=1e-5)


def test_mixer_wants_whole_patches_and_its_own_grid():
    model = create_model("mlp_mixer", width=0.1, layers=1)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 24, 24, 3)))
    with pytest.raises(ValueError, match="images are 24x20; patch_size=8 must divide height and width"):
        jax.eval_shape(model.apply, variables, jnp.zeros((1, 24, 20, 3)))
    with pytest.raises(ValueError, match="built for 9 patches, but these images give 12"):
        jax.eval_shape(model.apply, variables, jnp.zeros((1, 24, 32, 3)))


# ShuffleNetV2 x1.0 has 58 channels in stage 2, which few numbers of heads and groups divide.
FACE_MODELS = {
    "mobilenetv2": {"width": 0.1},
    "shufflenetv2": {"width": 1.0, "stages": (2,)},
    "mlp_mixer": {"width": 0.1},
}
MODELS = [(name, operator) for name in FACE_MODELS for operator in list_operators(name)]


@pytest.mark.parametrize(("name", "operator"), MODELS)
def test_every_model_takes_every_operator(name, operator):
    model = create_model(name, operator=operator, **FACE_MODELS[name], **SMALL)
    init = functools.partial(model.init_with_output, train=operator == "condconv")
    y, variables = jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct((2, 96, 64, 3), jnp.float32))
    assert y.shape == (2, 512)
    assert "head" in variables["batch_stats"]


def test_lists_name_everything():
    assert set(list_models()) == {"mobilenetv2", "shufflenetv2", "mlp_mixer", "deeplabv3plus"}
    assert list_models()["shufflenetv2"] == ((0.5, 1.0, 1.5), tuple(OPERATORS))
    assert set(OPERATORS) == set(CASES) | {"tvconv", "depthwise"}
    assert list_operators("mobilenetv2") == list_operators("shufflenetv2") == tuple(OPERATORS)
    assert list_operators("mlp_mixer") == ("baseline",)
    assert set(list_operators("deeplabv3plus")) == {"baseline", *OPERATORS} - {"dyconv_pw"}


def test_fields_reach_the_operator():
    assert create_model("mobilenetv2", operator="tvconv_lowrank", rank=3, heads=4).conv().rank == 3
    assert create_model("shufflenetv2", operator="dyconv_pw", experts=2).pointwise(8).experts == 2
    assert create_model("mlp_mixer", layers=2).layers == 2


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_config_has_every_field_of_its_operator(operator):
    config = face_config(f"operator={operator},recipe=paper", model="mobilenetv2", width=0.1)
    for name in OPERATORS[operator].fields:
        assert name in config.model
    old = json.loads(config.to_json())
    assert "num_classes" not in config.model  # the task's model returns embeddings
    for name in set(OPERATORS[operator].fields) - {"use_bias"} | {"head_pool", "coordinates"}:
        del old["model"][name]
    assert complete(old) == json.loads(config.to_json())  # as a run of before there were such fields
    if operator == "tvconv_lowrank":
        config.model.rank = 1
        assert model_of(config).conv().rank == 1


@pytest.mark.parametrize(("name", "first"), [("sasa", 11), ("axial", 11), ("involution", 1)])
def test_attention_goes_to_the_last_three_stages(name, first):
    model = create_model("mobilenetv2", width=0.1, operator=name)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    plain = {f"block_{i}" for i in range(1, 18) if set(params[f"block_{i}"]["conv"]) == {"kernel"}}
    assert plain == {f"block_{i}" for i in range(1, first)}  # stages 1-4 have 1 + 2 + 3 + 4 blocks
    assert create_model("mobilenetv2", operator=name, stages=(7,)).stages == (7,)


def test_pointwise_experts_go_to_the_chosen_stages_only():
    model = create_model("mobilenetv2", width=0.1, operator="dyconv_pw", stages=(7,))
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    assert params["block_17"]["expand"]["conv"]["kernel"].shape == (4, 16, 96)
    assert params["block_16"]["project"]["conv"]["kernel"].shape == (96, 16)
    assert "attention" not in params["last"]["conv"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"name": "mlp_mixer", "operator": "tvconv"}, "mlp_mixer operator 'tvconv' is unknown; there are: baseline."),
        ({"name": "deeplabv3plus", "operator": "dyconv_pw"}, "deeplabv3plus operator 'dyconv_pw' is unknown"),
        ({"name": "mlp_mixer", "width": 0.4}, "mlp_mixer width 0.4 is unknown; there are: 0.1, 0.2, 0.3, 0.5, 1.0."),
        ({"name": "mlp_mixer", "stages": (1,)}, "field 'stages' is unknown; there are: width, operator, patch_size"),
        ({"name": "mobilenetv2", "patch_size": 4}, "field 'patch_size' is unknown"),
    ],
)
def test_unknown_names_list_what_exists(call, words):
    with pytest.raises(ValueError) as error:
        create_model(**call)
    assert words in str(error.value)
