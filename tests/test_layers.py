"""TVConv, its generator, freezing, and use inside other people's modules."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import load, normal, state_dict

from tvconv_jax import DepthwiseConv, TVConv, create_model, freeze
from tvconv_jax.convert.reference import from_torch, to_torch
from tvconv_jax.models.deeplabv3plus import DeepLabV3Plus
from tvconv_jax.models.mobilenetv2 import MobileNetV2
from tvconv_jax.nn.operators.per_position import TVConvLinear
from tvconv_jax.ops import unfold as unfold

pytestmark = pytest.mark.usefixtures("barely_optimized")

SMALL = {"affinity_channels": 2, "hidden_channels": 4, "hidden_layers": 1}


def golden(tag):
    arrays, meta = load(f"tvconv_{tag}")
    config = meta["config"]
    module = TVConv(
        kernel_size=config["kernel_size"],
        strides=config["stride"],
        affinity_channels=config["affinity_channels"],
        hidden_channels=config["hidden_channels"],
        hidden_layers=config["hidden_layers"],
        use_bias=config["use_bias"],
    )
    shape = (config["batch"], config["channels"], config["side"], config["side"])
    return arrays, module, state_dict(meta), normal(f"{tag}/x", shape).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("implementation", ["shifted", "patches"])
@pytest.mark.parametrize("tag", ["s1", "s2", "k5_bias"])
def test_golden(tag, implementation):
    arrays, module, state, x = golden(tag)
    module = module.copy(implementation=implementation)
    variables = from_torch(state, module)
    y, vjp = jax.vjp(jax.jit(module.apply), variables, x)
    # float32 rounding of generator and sum; the reference sums in another order
    np.testing.assert_allclose(y.transpose(0, 3, 1, 2), arrays["output"], rtol=1e-5, atol=1e-5)
    cotangent = normal(f"{tag}/cotangent", arrays["output"].shape).transpose(0, 2, 3, 1)
    grads, grad_x = vjp(jnp.asarray(cotangent))
    np.testing.assert_allclose(grad_x.transpose(0, 3, 1, 2), arrays["grad_x"], rtol=1e-3, atol=1e-5)
    grads = to_torch(grads, module)
    scale = np.abs(arrays["grad_affinity"]).max()
    np.testing.assert_allclose(grads["posi_map"], arrays["grad_affinity"], rtol=1e-3, atol=1e-5 * scale)
    for name, norm in arrays["grad_norms"].items():
        np.testing.assert_allclose(np.linalg.norm(grads[name]), norm, rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("tag", ["s1", "s2", "k5_bias"])
def test_frozen_weights_are_the_references_and_no_generator_is_left(tag):
    arrays, module, state, x = golden(tag)
    variables = from_torch(state, module)
    frozen = freeze(module, variables)
    weights = np.asarray(frozen["frozen"]["weights"])
    theirs = weights.transpose(3, 2, 0, 1).reshape(arrays["weights"].shape)  # channel-major taps
    np.testing.assert_allclose(theirs, arrays["weights"], rtol=1e-5, atol=1e-5)
    assert not frozen["params"]
    np.testing.assert_allclose(frozen(x), module.apply(variables, x), atol=1e-6)
    np.testing.assert_array_equal(frozen(x), module.apply(frozen, x))


class Block(nn.Module):
    """Somebody else's module, three levels deep, with both operators and a norm."""

    padding: str = "zeros"

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="mix")(x)
        x = nn.Sequential([TVConv(strides=2, generator_padding=self.padding, use_bias=True, **SMALL), nn.relu])(x)
        return DepthwiseConv(name="plain")(x)


@pytest.mark.parametrize("padding", ["zeros", "edge"])
def test_freeze_finds_layers_inside_other_modules(padding):
    x = jax.random.normal(jax.random.key(0), (2, 7, 5, 3))
    model = Block(padding)
    variables = model.init(jax.random.key(1), x)
    frozen = freeze(model, variables)
    assert not [path for path, _ in jax.tree_util.tree_leaves_with_path(frozen.variables) if "generator" in str(path)]
    np.testing.assert_allclose(jax.jit(lambda f, x: f(x))(frozen, x), model.apply(variables, x), atol=1e-6)


@pytest.mark.parametrize("operator", [functools.partial(TVConv, use_bias=True, **SMALL), TVConvLinear])
def test_freeze_goes_through_a_scan(operator):
    class Step(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.relu(operator()(x)), None

    scan = nn.scan(Step, length=3, variable_axes={"params": 0, "frozen": 0}, split_rngs={"params": True})()
    x = jax.random.normal(jax.random.key(0), (2, 6, 5, 3))
    variables = scan.init(jax.random.key(1), x, None)
    frozen = freeze(scan, variables)
    assert "affinity" not in str(jax.tree.structure(frozen.variables))
    np.testing.assert_allclose(frozen(x, None)[0], scan.apply(variables, x, None)[0], atol=1e-6)


def test_edge_padding_starts_as_a_depthwise_convolution_and_zeros_only_inside():
    x = jax.random.normal(jax.random.key(0), (1, 16, 16, 2))
    for padding, margin in (("edge", 0), ("zeros", SMALL["hidden_layers"] + 2)):
        module = TVConv(generator_padding=padding, **SMALL)
        weights = freeze(module, module.init(jax.random.key(1), x))["frozen"]["weights"]
        inside = weights[margin : 16 - margin, margin : 16 - margin]
        np.testing.assert_allclose(inside, jnp.broadcast_to(inside[0, 0], inside.shape), atol=1e-6)
        if margin:
            assert jnp.abs(weights[0, 0] - weights[8, 8]).max() > 1e-2


def test_neighbors_by_gather_are_the_slices_and_so_are_their_gradients():
    padded = jax.random.normal(jax.random.key(0), (6, 5, 3))
    weights = jax.random.normal(jax.random.key(1), (12, 27))
    sliced = functools.partial(unfold._slices, grid=(4, 3))
    assert jnp.array_equal(sliced(padded), unfold._gather(padded, grid=(4, 3)))
    by_autodiff, own = (
        jax.grad(lambda x, of=of: jnp.sum(of(x) * weights))(padded)
        for of in (sliced, lambda x: unfold.unfold(x, (4, 3)))
    )
    assert jnp.abs(by_autodiff - own).max() < 1e-5


def test_a_layer_belongs_to_its_grid():
    module, x = TVConv(**SMALL), jnp.zeros((1, 8, 8, 2))
    variables = module.init(jax.random.key(0), x)
    for held in (variables, freeze(module, variables)):
        with pytest.raises(ValueError, match="built for the grid 8x8, but this input gives 6x7"):
            module.apply(held, jnp.zeros((1, 6, 7, 2)))


@pytest.mark.parametrize("layer", [TVConv, DepthwiseConv])
def test_bad_fields_and_inputs_name_value_and_rule(layer):
    with pytest.raises(ValueError, match="kernel_size=4 must be odd"):
        layer(kernel_size=4).init(jax.random.key(0), jnp.zeros((1, 8, 8, 2)))
    for fields in ({"kernel_size": (3, 3)}, {"strides": (2, 2)}, {"strides": 0}):
        with pytest.raises(ValueError, match="must be one integer, the same for height and width|must be at least 1"):
            layer(**fields).init(jax.random.key(0), jnp.zeros((1, 8, 8, 2)))
    with pytest.raises(ValueError, match=r"x has shape \(8, 8, 2\); it must be \[n, h, w, c\]"):
        layer().init(jax.random.key(0), jnp.zeros((8, 8, 2)))


def test_an_unknown_padding_lists_what_exists():
    with pytest.raises(ValueError, match=r"generator_padding='same' is not one of \['zeros', 'edge'\]"):
        TVConv(generator_padding="same").init(jax.random.key(0), jnp.zeros((1, 8, 8, 2)))


def test_freeze_wants_params():
    with pytest.raises(ValueError, match="must hold 'params'"):
        freeze(TVConv(), {"batch_stats": {}})


class Named(nn.Module):
    """A TVConv beside modules and parameters of a user's own that are named as parts of one."""

    @nn.compact
    def __call__(self, x):
        x = TVConv(**SMALL)(x)
        x = nn.Dense(3, name="affinity")(x)
        x = nn.Dense(3, name="bias_linear")(nn.Dense(3, name="weights_generator")(x))
        return x * self.param("bias_generator", nn.initializers.ones, (1, 1, 1, 3))


def test_freeze_leaves_what_only_has_the_name_of_a_generator():
    x = jnp.asarray(np.random.RandomState(0).standard_normal((2, 5, 4, 2)), jnp.float32)
    variables = Named().init(jax.random.key(0), x)
    frozen = freeze(Named(), variables)
    np.testing.assert_allclose(frozen(x), Named().apply(variables, x), atol=1e-5)
    assert set(frozen["params"]) == {"affinity", "bias_linear", "weights_generator", "bias_generator"}
    assert set(frozen["frozen"]["TVConv_0"]) == {"weights"}


@pytest.mark.parametrize("layer", [TVConv, TVConvLinear])
def test_another_layers_frozen_weights_are_refused(layer):
    fields, x = SMALL if layer is TVConv else {}, jnp.zeros((1, 6, 6, 2))
    frozen = freeze(layer(**fields), layer(**fields).init(jax.random.key(0), x)).variables
    with pytest.raises(
        ValueError, match=r"was frozen with weights of \(6, 6, 9, 2\), but this one has \(6, 6, 25, 2\)"
    ):
        layer(kernel_size=5, **fields).apply(frozen, x)
    with pytest.raises(ValueError, match=f"{layer.__name__} needs a frozen bias, and these variables have none"):
        layer(use_bias=True, **fields).apply(frozen, x)


@pytest.mark.parametrize("layer", [TVConv, DepthwiseConv])
def test_numpys_numbers_are_taken_and_integers_are_not(layer):
    fields, x = SMALL if layer is TVConv else {}, np.ones((1, 6, 6, 2))
    y, variables = layer(strides=np.int64(2), **fields).init_with_output(jax.random.key(0), x)
    assert y.dtype == jnp.float32 and y.shape == (1, 3, 3, 2)
    with pytest.raises(ValueError, match="x is uint8; it must be floating. Cast it, and scale integers first."):
        layer(**fields).init(jax.random.key(0), x.astype(np.uint8))
    with pytest.raises(ValueError, match=r"must be \[n, h, w, c\].\n"):
        layer(**fields).init(jax.random.key(0), x[None])


def test_a_state_dict_of_another_layer_is_refused():
    theirs = TVConv(5, **SMALL)
    state = to_torch(theirs.init(jax.random.key(0), jnp.zeros((1, 4, 4, 9))), theirs)
    with pytest.raises(ValueError, match=r"is \(.*\) in the state dict, but this model's is \(.*\)"):
        from_torch(state, TVConv(5, **(SMALL | {"hidden_channels": 9})))
    # Five times five taps of nine channels are as many numbers as three times three of 25.
    with pytest.raises(ValueError, match="the state dict is for kernel_size=5, but the layer's is 3"):
        from_torch({**state, "TVConv_k": np.array(5)}, TVConv(3, **SMALL))
    assert from_torch(state, theirs)["params"]["affinity"].shape[:2] == (4, 4)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (TVConv(generator_padding="edge"), "TVConv with generator_padding='edge' has no counterpart in the reference"),
        (create_model("mobilenetv2", generator_padding="edge"), "generator_padding='edge' has no counterpart"),
        (create_model("shufflenetv2", operator="tvconv_lowrank"), "TVConvLowrank has no counterpart"),
        (
            create_model("shufflenetv2", operator="dyconv_pw"),
            "pointwise=.* has no counterpart in the reference; Pointw",
        ),
        (create_model("mlp_mixer"), "MlpMixer has no counterpart"),
        (
            MobileNetV2(conv=functools.partial(DepthwiseConv, dilation=2)),
            "DepthwiseConv with dilation=2 has no counterpart",
        ),
        (
            DeepLabV3Plus(conv=functools.partial(DepthwiseConv, padding=0)),
            "DepthwiseConv with padding=0 has no counterpart",
        ),
        (nn.Dense(3), "Dense has no counterpart in the reference; these have: TVConv"),
    ],
)
def test_what_the_reference_lacks_is_not_converted(module, words):
    for convert in (from_torch, to_torch):
        with pytest.raises(ValueError, match=words):
            convert({}, module)
