"""The operators of the paper's comparison: naive loops, special cases, gradients, freezing, costs, models."""

import functools
import math

import jax
import jax.numpy as jnp
import naive_operators
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from naive_operators import sigmoid

from tvconv_jax import DepthwiseConv, TVConv, freeze, tv_conv
from tvconv_jax.models.blocks import Pointwise
from tvconv_jax.nn.operators.attention import SASA, Axial
from tvconv_jax.nn.operators.per_image import CondConv, DyConvDW, DyConvPW, WeightNet
from tvconv_jax.nn.operators.per_pixel import DDF, Involution, TVConvDynamic
from tvconv_jax.nn.operators.per_position import LocallyConnected, TVConvLinear, TVConvLowrank
from tvconv_jax.ops.dynamic_conv import dynamic_conv, taps
from tvconv_jax.ops.tv_conv import output_grid

pytestmark = pytest.mark.usefixtures("barely_optimized")

SMALL = {"affinity_channels": 2, "hidden_channels": 4, "hidden_layers": 1}
# Fields that make 8 channels enough: two experts, two heads, two groups, four hidden channels.
CASES = {
    "condconv": (CondConv, {"experts": 2, "use_bias": True}),
    "weightnet": (WeightNet, {"inputs": 2, "use_bias": True}),
    "dyconv_dw": (DyConvDW, {"experts": 3, "reduction": 2, "temperature": 2.0, "use_bias": True}),
    "dyconv_pw": (DyConvPW, {"features": 5, "experts": 3, "reduction": 2, "temperature": 2.0}),
    "involution": (Involution, {"reduction": 2, "group_channels": 4}),
    "ddf": (DDF, {"squeeze": 0.5}),
    "sasa": (SASA, {"heads": 2}),
    "axial": (Axial, {"heads": 2}),
    "locally_connected": (LocallyConnected, {"use_bias": True}),
    "tvconv_linear": (TVConvLinear, {"affinity_channels": 3, "use_bias": True}),
    "tvconv_lowrank": (TVConvLowrank, {"rank": 2, "use_bias": True, **SMALL}),
    "tvconv_dynamic": (TVConvDynamic, {"use_bias": True, **SMALL}),
}
RUNS = [(name, strides) for name in CASES for strides in (1, 2) if (name, strides) != ("dyconv_pw", 2)]
GRID_BOUND = ["axial", "locally_connected", "tvconv_linear", "tvconv_lowrank", "tvconv_dynamic"]
SHAPE = (2, 5, 4, 8)


def inputs(shape=SHAPE):
    return jax.random.normal(jax.random.key(7), shape)


def make(name, strides=1, **fields):
    layer, own = CASES[name]
    return layer(**{**({"strides": strides} if name != "dyconv_pw" else {}), **own, **fields})


def randomized(tree, scale=0.5):
    """A random number for every leaf, 1 more for the scales, so that none is like its neighbor; variances above 1."""
    random = np.random.default_rng(3)

    def draw(path, leaf):
        drawn, name = scale * random.standard_normal(leaf.shape), path[-1].key
        return np.float32(1 + np.square(drawn) if name == "var" else drawn + (name in ("scale", "affinity")))

    return jax.tree_util.tree_map_with_path(draw, tree)


def all_shapes(module, x=None):
    return jax.eval_shape(module.init, jax.random.key(0), inputs() if x is None else x)


def shapes(module, x=None):
    return all_shapes(module, x)["params"]


def tree_of(variables):
    """Parameters, and statistics among them, for the naive operators."""
    flat = flatten_dict(dict(variables))
    return unflatten_dict({path[1:]: np.asarray(leaf, np.float64) for path, leaf in flat.items()})


@functools.cache
def run(name, strides):
    """The operator with random variables: them, its output and gradients, and how often it was traced."""
    module, x, traces = make(name, strides), inputs(), []
    variables = randomized(all_shapes(module))

    @jax.jit
    def step(variables, x):
        traces.append(name)

        def loss(params):
            y = module.apply({**variables, "params": params}, x)
            return jnp.sum(jnp.sin(y)), y

        return jax.grad(loss, has_aux=True)(variables["params"])

    grads, y = step(variables, x)
    step(variables, 2 * x)
    return variables, y, grads, len(traces)


@pytest.mark.parametrize(("name", "strides"), RUNS)
def test_equals_naive_loops(name, strides):
    variables, y, _, _ = run(name, strides)
    expected = getattr(naive_operators, name)(tree_of(variables), np.asarray(inputs(), np.float64), strides)
    assert y.shape == expected.shape
    # float32 through at most five products in a row; sums of nine taps in another order
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("name", ["involution", "axial"])
def test_norms_take_the_batchs_statistics_while_training(name, strides):
    module, variables = make(name, strides), randomized(all_shapes(make(name, strides)), scale=0.2)
    train = jax.jit(functools.partial(module.apply, train=True, mutable=["batch_stats"]))
    y, updates = train(variables, inputs())
    params = tree_of({"params": variables["params"]})
    expected = getattr(naive_operators, name)(params, np.asarray(inputs(), np.float64), strides)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=2e-5 * np.abs(expected).max())
    moved = jax.tree.map(lambda a, b: np.all(a != b), updates["batch_stats"], variables["batch_stats"])
    assert all(jax.tree.leaves(moved))
    assert {name for name, (layer, _) in CASES.items() if getattr(layer, "has_norm", False)} == {"involution", "axial"}


@pytest.mark.parametrize(("name", "strides"), RUNS)
def test_every_parameter_has_a_gradient_and_one_trace_is_enough(name, strides):
    _, _, grads, traces = run(name, strides)
    assert traces == 1
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(grad).all() and np.any(grad != 0), jax.tree_util.keystr(path)


# What the factors of a dynamic convolution depend on: axes [n, ho, wo, k*k, channels] of the output's grid, or 1.
FACTORS = {
    "image": [(2, 1, 1, 9, 8)],
    "pixel": [(2, "h", "w", 9, 8)],
    "pixel, channels of a group": [(2, "h", "w", 9, 2, 1)],
    "pixel and image": [(2, "h", "w", 9, 1), (2, 1, 1, 9, 8)],
    "5x5, image, all channels": [(2, 1, 1, 25, 1)],
}


@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize("shapes", FACTORS.values(), ids=FACTORS)
def test_dynamic_convolution_and_its_gradients_are_autodiffs(shapes, strides):
    x = inputs((2, 5, 7, 8))
    grid = output_grid(5, 7, strides)
    keys = jax.random.split(jax.random.key(1), len(shapes))
    shapes = [tuple({"h": grid[0], "w": grid[1]}.get(size, size) for size in shape) for shape in shapes]
    factors = [jax.random.normal(*pair) for pair in zip(keys, shapes, strict=True)]
    x = x.reshape(2, 5, 7, *((2, 4) if factors[0].ndim == 6 else (8,)))

    def plain(x, *factors):
        seen = taps(x, math.isqrt(factors[0].shape[3]), strides=strides)
        return sum(a * math.prod(factor[:, :, :, t] for factor in factors) for t, a in enumerate(seen))

    @jax.jit
    def both(x, *factors):
        ours = jax.vjp(functools.partial(dynamic_conv, strides=strides), x, *factors)
        return [(y, *pull(jnp.cos(y))) for y, pull in (ours, jax.vjp(plain, x, *factors))]

    for ours, theirs in zip(*both(x, *factors), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-5)  # sums of up to 560 in float32


def test_a_grid_of_one_pixel_has_gradients_too():
    """There, kernels per pixel look like kernels per image."""
    module, x = make("involution"), inputs((2, 1, 1, 8))
    params = randomized(shapes(module, x))
    grads = jax.jit(jax.grad(lambda params: jnp.sum(apply(module, params, x) ** 2)))(params)
    assert all(np.isfinite(grad).all() for grad in jax.tree.leaves(grads))
    taps = np.abs(grads["span"]["bias"].reshape(9, 2)).sum(1)
    assert np.flatnonzero(taps).tolist() == [4]  # all other taps see padding


# What each becomes where its parameters say nothing special.


def apply(module, params, x=None):
    """With the statistics that norms start from."""
    x = inputs() if x is None else x
    started = jax.jit(module.init)(jax.random.key(0), x)
    return jax.jit(module.apply)({**started, "params": params}, x)


def started(module):
    return jax.jit(module.init)(jax.random.key(0), inputs())["params"]


def depthwise(taps, x=None, strides=1):
    kernel = jnp.asarray(taps).reshape(3, 3, 1, -1)
    return apply(DepthwiseConv(strides=strides), {"kernel": kernel}, x)


def equal_experts(params):
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.broadcast_to(leaf[:1], leaf.shape) if path[-1].key == "kernel" else leaf, params
    )


def test_equal_experts_are_one_depthwise_convolution():
    module = make("dyconv_dw", use_bias=False)
    params = randomized(shapes(module))
    params["experts"] = equal_experts(params["experts"])
    plain = depthwise(params["experts"]["kernel"][0])
    np.testing.assert_allclose(apply(module, params), plain, atol=1e-5)
    module = make("condconv", use_bias=False)
    params = randomized(shapes(module))
    params["experts"] = equal_experts(params["experts"])
    routes = sigmoid(np.asarray(inputs().mean((1, 2)) @ params["routing"]["kernel"]) + params["routing"]["bias"][None])
    plain = depthwise(params["experts"]["kernel"][0])
    np.testing.assert_allclose(apply(module, params), routes.sum(1)[:, None, None, None] * plain, atol=1e-5)


def test_one_expert_is_the_plain_convolution():
    module = make("dyconv_dw", experts=1, use_bias=False)
    params = randomized(shapes(module))
    np.testing.assert_allclose(apply(module, params), depthwise(params["experts"]["kernel"]), atol=1e-5)
    module = make("condconv", experts=1, use_bias=False)
    params = randomized(shapes(module))
    params["routing"]["bias"] = jnp.full((1,), 50.0)  # its sigmoid is 1
    np.testing.assert_allclose(apply(module, params), depthwise(params["experts"]["kernel"]), atol=1e-5)


@pytest.mark.parametrize("experts", [1, 3])
def test_equal_or_single_pointwise_experts_are_the_plain_1x1_convolution(experts):
    module = make("dyconv_pw", experts=experts)
    params = randomized(shapes(module))
    params["kernel"] = equal_experts({"kernel": params["kernel"]})["kernel"]
    plain = apply(Pointwise(5), {"kernel": params["kernel"][0]})
    np.testing.assert_allclose(apply(module, params), plain, atol=1e-5)


def test_constant_activations_make_weightnet_depthwise():
    module = make("weightnet", inputs=1, use_bias=False)
    params = randomized(shapes(module))
    params["activate"]["kernel"] = jnp.zeros((16, 8))
    kernel = params["kernel"].reshape(9, 8) * jax.nn.sigmoid(params["activate"]["bias"])[None]
    np.testing.assert_allclose(apply(module, params), depthwise(kernel), atol=1e-5)


@pytest.mark.parametrize("strides", [1, 2])
def test_constant_kernels_make_involution_depthwise(strides):
    module = make("involution", strides)
    params = randomized(shapes(module))
    params["span"]["kernel"] = jnp.zeros((4, 18))
    kernel = jnp.repeat(params["span"]["bias"].reshape(9, 2), 4, axis=1)
    np.testing.assert_allclose(apply(module, params), depthwise(kernel, strides=strides), atol=1e-5)


def test_constant_filters_make_ddf_depthwise():
    module = make("ddf")
    params = randomized(shapes(module))
    params["pixels"]["kernel"], params["channels"]["kernel"] = jnp.zeros((8, 9)), jnp.zeros((4, 72))
    pixel, channel = np.asarray(params["pixels"]["bias"]), np.asarray(params["channels"]["bias"]).reshape(9, 8)
    norm = lambda taps: (taps - taps.mean(0)) / taps.std(0, ddof=1)  # noqa: E731
    kernel = np.sqrt(2).astype(np.float32) / 3 * norm(pixel)[:, None] * norm(channel) * np.asarray(params["scale"])
    np.testing.assert_allclose(apply(module, params), depthwise(kernel), atol=1e-5)


def test_equal_taps_have_a_finite_gradient_in_ddf():
    module = make("ddf")
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes(module))
    grads = jax.jit(jax.grad(lambda params: jnp.sum(apply(module, params) ** 2)))(params)
    assert all(np.isfinite(grad).all() for grad in jax.tree.leaves(grads))


def test_zero_queries_give_the_mean_of_the_window():
    module = make("sasa")
    params = randomized(shapes(module))
    params["query"] = jnp.zeros((2, 4, 4))
    values = jnp.einsum("nhwmd,mde->nhwme", inputs().reshape(2, 5, 4, 2, 4), params["value"]).reshape(SHAPE)
    ones = jnp.ones((9, 8))
    mean = depthwise(ones, values) / depthwise(ones, jnp.ones(SHAPE))  # neighbors that there are
    np.testing.assert_allclose(apply(module, params), mean, atol=1e-5)


def test_zero_queries_give_the_mean_of_column_and_row():
    module, expected = make("axial"), inputs()
    params, first = randomized(shapes(module)), started(module)
    for axis, name in ((1, "along_h"), (2, "along_w")):
        kernel = jnp.asarray(params[name]["project"]["kernel"]).reshape(8, 2, 8)  # a head's 2 queries, 2 keys, 4 values
        params[name] |= {norm: first[name][norm] for norm in ("norm_project", "norm_logits", "norm_out")}
        params[name] |= {r: jnp.zeros_like(params[name][r]) for r in ("rk", "rv")}
        params[name]["project"]["kernel"] = kernel.at[:, :, :2].set(0).reshape(8, 16)
        values = expected @ kernel[:, :, 4:].reshape(8, 8) / (1 + 1e-5)  # two norms divide by sqrt(1 + epsilon)
        expected = jnp.broadcast_to(values.mean(axis, keepdims=True), SHAPE)
    np.testing.assert_allclose(apply(module, params), expected, atol=1e-5)


@pytest.mark.parametrize("strides", [1, 2])
def test_locally_connected_is_tv_conv_and_starts_as_depthwise(strides):
    module = make("locally_connected", strides, use_bias=False)
    params = started(module)
    plain = depthwise(params["weights"][0, 0], strides=strides)
    np.testing.assert_allclose(apply(module, params), plain, atol=1e-6)
    params = randomized(params)
    expected = tv_conv(inputs(), params["weights"], strides=strides)
    np.testing.assert_allclose(apply(module, params), expected, atol=1e-6)  # jitted and not


def test_linear_tvconv_starts_as_depthwise_and_its_rank_is_its_maps():
    module = make("tvconv_linear", affinity_channels=2, use_bias=False)
    params = started(module)
    kernel = params["weights_linear"].sum(0)  # maps of 1
    np.testing.assert_allclose(apply(module, params), depthwise(kernel), atol=1e-6)
    weights = freeze(module, {"params": randomized(params)})["frozen"]["weights"]
    assert np.linalg.matrix_rank(weights.reshape(20, -1), tol=1e-4) == 2


@pytest.mark.parametrize("strides", [1, 2])
def test_lowrank_of_rank_nine_can_be_any_tvconv(strides):
    tvconv = TVConv(strides=strides, **SMALL)
    weights = freeze(tvconv, {"params": randomized(shapes(tvconv))})["frozen"]["weights"]
    one_hot = jnp.broadcast_to(jnp.eye(9)[:, :, None], (9, 9, 8)).reshape(9, 3, 3, 1, 8)  # kernel r is tap r alone
    variables = {"params": {"kernel": one_hot}, "frozen": {"gains": weights}}
    y = TVConvLowrank(strides=strides, rank=9).apply(variables, inputs())
    np.testing.assert_allclose(y, tv_conv(inputs(), weights, strides=strides), atol=1e-5)


def test_equal_gains_make_lowrank_depthwise():
    kernel, gains = jax.random.normal(jax.random.key(2), (2, 3, 3, 1, 8)), jnp.array([2.0, -0.5])
    frozen = {"gains": jnp.broadcast_to(gains[None, None, :, None], (5, 4, 2, 8))}
    y = TVConvLowrank().apply({"params": {"kernel": kernel}, "frozen": frozen}, inputs())
    np.testing.assert_allclose(y, depthwise(2 * kernel[0] - 0.5 * kernel[1]), atol=1e-5)


def test_dynamic_tvconv_with_constant_maps_is_tvconv():
    module, tvconv = make("tvconv_dynamic", 2, use_bias=False), TVConv(strides=2, **SMALL)
    params = started(module)
    assert not params["maps"]["kernel"].any()  # so it starts as TVConv
    generator = randomized(params["kernels_generator"])
    for constants in ([1.0, 1.0], [0.3, -2.0]):
        params = {"maps": {**params["maps"], "bias": jnp.array(constants)}, "kernels_generator": generator}
        affinity = jnp.broadcast_to(jnp.array(constants)[None, None], (3, 2, 2))
        expected = apply(tvconv, {"affinity": affinity, "weights_generator": generator})
        np.testing.assert_allclose(apply(module, params), expected, atol=1e-5)


# Freezing, dtypes, bad input.


@pytest.mark.parametrize("name", CASES)
def test_freezing_keeps_outputs(name):
    module, (variables, y, _, _) = make(name), run(name, 1)
    params, frozen = variables["params"], freeze(module, variables)
    made = {"tvconv_linear": {"weights", "bias"}, "tvconv_lowrank": {"gains", "bias"}}.get(name, set())
    assert set(frozen["frozen"]) == made
    if made:
        assert set(frozen["params"]) == {"kernel"} & set(params)
        # what is added first differs from the jitted whole
        np.testing.assert_allclose(jax.jit(module.apply)(frozen.variables, inputs()), y, rtol=1e-5, atol=1e-5)
    else:
        jax.tree.map(np.testing.assert_array_equal, frozen["params"], params)


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_in_is_bfloat16_out_and_parameters_stay_float32(name):
    x = jax.ShapeDtypeStruct(SHAPE, jnp.bfloat16)
    y, variables = jax.eval_shape(make(name).init_with_output, jax.random.key(0), x)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("name", [name for name in CASES if name != "dyconv_pw"])
def test_bad_fields_and_inputs_name_value_and_rule(name):
    with pytest.raises(ValueError, match="kernel_size=4 must be odd"):
        make(name, kernel_size=4).init(jax.random.key(0), jnp.zeros(SHAPE))
    with pytest.raises(ValueError, match=r"x has shape \(5, 4, 8\); it must be \[n, h, w, c\]"):
        make(name).init(jax.random.key(0), jnp.zeros(SHAPE[1:]))
    with pytest.raises(ValueError, match="x is uint8; it must be floating"):
        make(name).init(jax.random.key(0), jnp.zeros(SHAPE, jnp.uint8))


@pytest.mark.parametrize("name", GRID_BOUND)
def test_what_belongs_to_a_grid_says_so(name):
    module, variables = make(name), run(name, 1)[0]
    held = [variables]
    if name in ("tvconv_linear", "tvconv_lowrank"):
        held.append(freeze(module, variables))
    for variables in held:
        with pytest.raises(ValueError, match=r"was built for the grid 5(x4)?, but this input gives 7(x4)?;"):
            module.apply(variables, jnp.zeros((2, 7, 4, 8)))


def test_options_without_a_meaning_are_refused():
    with pytest.raises(ValueError, match="rank 0 must be at least 1"):
        started(make("tvconv_lowrank", rank=0))
    with pytest.raises(ValueError, match="kernel_size=1 leaves a filter of one tap"):
        started(make("ddf", kernel_size=1))
    for name in ("tvconv_lowrank", "tvconv_dynamic"):
        with pytest.raises(ValueError, match=r"generator_padding='same' is not one of \['zeros', 'edge'\]"):
            started(make(name, generator_padding="same"))


# Costs, by hand for one image of 4x6 pixels and 8 channels: 192 elements, and 1728 products of a 3x3 depthwise kernel.
