"""TVConv in ``flax.nnx``, Equinox and plain JAX: the linen layers' bits, training, freezing, checkpoints, messages."""

import functools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from goldens import load, normal, state_dict

import tvconv_jax
from tvconv_jax import generate_kernels, init_tv_conv, tv_conv
from tvconv_jax.convert.reference import from_torch
from tvconv_jax.nnx import (
    DepthwiseConv,
    FrozenKernel,
    LinenModel,
    TVConv,
    create_model,
    freeze,
    from_linen,
    to_linen,
)

pytestmark = pytest.mark.usefixtures("barely_optimized")

SMALL = {"affinity_channels": 2, "hidden_channels": 4, "hidden_layers": 1}
X = np.random.RandomState(0).standard_normal((2, 6, 5, 3)).astype(np.float32)


def assert_equal_trees(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def pure(state):
    return nnx.to_pure_dict(state)


@pytest.mark.parametrize("tag", ["s1", "s2", "k5_bias"])
def test_a_layer_is_linens_bit_by_bit_on_the_goldens(tag):
    config, meta = (lambda arrays, meta: (meta["config"], meta))(*load(f"tvconv_{tag}"))
    fields = ("kernel_size", "affinity_channels", "hidden_channels", "hidden_layers", "use_bias")
    module = tvconv_jax.TVConv(strides=config["stride"], **{name: config[name] for name in fields})
    x = normal(f"{tag}/x", (config["batch"], config["channels"], config["side"], config["side"])).transpose(0, 2, 3, 1)
    variables = from_torch(state_dict(meta), module)
    layer = from_linen(module, variables)
    assert_equal_trees(dict(to_linen(layer)[1]["params"]), dict(variables["params"]))
    loss = lambda y: jnp.sum(jnp.square(y))  # noqa: E731
    value, (grads, grad_x) = nnx.jit(nnx.value_and_grad(lambda layer, x: loss(layer(x)), argnums=(0, 1)))(layer, x)
    theirs, (grads_v, grads_x) = jax.jit(jax.value_and_grad(lambda v, x: loss(module.apply(v, x)), argnums=(0, 1)))(
        variables, x
    )
    assert_equal_trees((value, pure(grads), grad_x), (theirs, dict(grads_v["params"]), grads_x))


MODELS = [  # half of the blocks and short generators: what is left out repeats what is there
    ("mobilenetv2", 32, {"width": 0.1, "operator": "tvconv", "depth": 0.5, "hidden_layers": 1}),
    ("mobilenetv2", 32, {"width": 0.5, "operator": "depthwise", "depth": 0.5}),
    ("shufflenetv2", 32, {"width": 0.5, "operator": "tvconv", "depth": 0.5, "hidden_layers": 1}),
    ("deeplabv3plus", 64, {"operator": "baseline", "depth": 0.3}),
    ("deeplabv3plus", 64, {"operator": "tvconv", "depth": 0.3, "hidden_layers": 1}),
    ("mlp_mixer", 32, {"width": 0.1, "layers": 1}),
]


@pytest.mark.parametrize(("name", "size", "fields"), MODELS)
def test_a_models_training_step_is_linens_program(name, size, fields):
    """The same program on the same arrays has the same bits; compiling all of them would take minutes."""
    module = tvconv_jax.create_model(name, **fields)
    images, key = jnp.zeros((2, size, size, 3)), jax.random.key(0)
    variables = jax.eval_shape(module.init, key, images)
    graph, *states = nnx.split(LinenModel(module, variables), nnx.Param, nnx.BatchStat)
    assert_equal_trees(*(jax.tree.map(jnp.shape, tree) for tree in (pure(states[0]), dict(variables["params"]))))

    def ours(params, batch_stats):
        model = nnx.merge(graph, params, batch_stats, copy=True)  # variables of this trace
        y = model(images, train=True, rngs=key)
        return jnp.sum(y), pure(nnx.state(model, nnx.BatchStat))

    def theirs(params, batch_stats):
        held = {"params": params, "batch_stats": batch_stats}
        y, updates = module.apply(held, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})
        return jnp.sum(y), updates["batch_stats"]

    held = (variables["params"], variables["batch_stats"])
    programs = [
        str(jax.make_jaxpr(jax.value_and_grad(step, has_aux=True))(*arguments))
        for step, arguments in ((ours, states), (theirs, held))
    ]
    assert programs[0] == programs[1]


call = nnx.jit(lambda model, images: model(images))


@functools.cache
def small_model():
    return create_model("mobilenetv2", 16, width=0.1, depth=0.1, stages=[1], **SMALL, rngs=nnx.Rngs(0))


def test_a_model_has_linens_start_and_values_and_no_random_state():
    model, images = small_model(), jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    module, variables = to_linen(model)
    start = jax.jit(module.init)(nnx.Rngs(0).params(), images)
    assert_equal_trees(dict(variables), dict(start))
    assert not jax.tree.leaves(nnx.state(model, nnx.RngState))
    apply = jax.jit(lambda variables, images: module.apply(variables, images))
    np.testing.assert_array_equal(call(model, images), apply(start, images))
    frozen = freeze(model)
    assert jax.tree.leaves(nnx.state(frozen, FrozenKernel)) and "affinity" not in str(nnx.state(frozen, nnx.Param))
    np.testing.assert_allclose(call(frozen, images), apply(start, images), atol=1e-4)
    again = from_linen(*to_linen(frozen))
    assert_equal_trees(to_linen(again)[1], to_linen(frozen)[1])


def test_train_and_eval_set_a_models_mode():
    model = nnx.clone(small_model())
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    before = np.asarray(model.stem["norm"]["mean"][...])
    call(model, images)
    np.testing.assert_array_equal(model.stem["norm"]["mean"][...], before)
    model.train()
    call(model, images)
    assert np.abs(model.stem["norm"]["mean"][...] - before).max() > 0
    model.eval()
    assert model.use_running_average


class Deep(nnx.Module):
    """A user's module with TVConv three deep, in a list, in a dict, shared, and beside plain layers."""

    def __init__(self, *, rngs):
        conv = functools.partial(TVConv, 3, (6, 5), **SMALL, rngs=rngs)
        self.blocks = nnx.List([nnx.Dict(inner=nnx.List([conv()])), conv(use_bias=True)])
        self.shared = self.blocks[1]
        self.plain = DepthwiseConv(3, strides=2, use_bias=True, rngs=rngs)
        self.head = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        x = self.shared(self.blocks[1](self.blocks[0]["inner"][0](x)))
        return self.head(self.plain(x).mean(axis=(1, 2)))


def test_a_step_compiles_once_and_learns():
    model, traces = Deep(rngs=nnx.Rngs(0)), []
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, x):
        traces.append(None)
        loss, gradient = nnx.value_and_grad(lambda model: jnp.mean(jnp.square(model(x) - 1)))(model)
        optimizer.update(model, gradient)
        return loss

    with jax.numpy_dtype_promotion("standard"):  # Adam raises a number to the count, an integer, which NNX holds
        losses = [step(model, optimizer, X) for _ in range(10)]
    assert len(traces) == 1 and losses[-1] < 0.7 * losses[0]
    assert not jax.tree.leaves(nnx.state(model, nnx.RngState))


def test_freeze_finds_layers_however_deep_and_leaves_the_model_as_it_is():
    model = Deep(rngs=nnx.Rngs(0))
    y, before = model(X), pure(nnx.state(model))
    frozen = freeze(model)
    assert_equal_trees(pure(nnx.state(model)), before)
    np.testing.assert_allclose(frozen(X), y, atol=1e-5)
    kernels, kept = nnx.state(frozen, FrozenKernel), nnx.state(frozen, nnx.Param)
    assert [leaf.shape for leaf in jax.tree.leaves(kernels)] == [(6, 5, 9, 3), (6, 5, 3), (6, 5, 9, 3)]
    assert set(pure(kept)) == {"plain", "head"}
    assert frozen.shared is frozen.blocks[1]
    assert_equal_trees(pure(nnx.state(freeze(frozen))), pure(nnx.state(frozen)))
    np.testing.assert_array_equal(nnx.merge(*nnx.split(frozen))(X), frozen(X))
    plain = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    assert_equal_trees(pure(nnx.state(freeze(plain))), pure(nnx.state(plain)))


def test_layers_that_vmap_stacks_and_scan_runs_are_frozen():
    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def make(rngs):
        return TVConv(3, (6, 5), **SMALL, rngs=rngs)

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    def run(x, layer):
        return layer(x)

    stack = make(nnx.Rngs(0))
    assert freeze(stack).weights.shape == (3, 6, 5, 9, 3)
    np.testing.assert_allclose(run(X, freeze(stack)), run(X, stack), atol=1e-5)


@pytest.mark.parametrize("change", [lambda model: model, freeze])
def test_orbax_saves_and_restores(change, tmp_path):
    model = change(Deep(rngs=nnx.Rngs(0)))
    graph, abstract = nnx.split(nnx.eval_shape(lambda: change(Deep(rngs=nnx.Rngs(1)))))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", nnx.state(model))
        checkpointer.wait_until_finished()
        restored = nnx.merge(graph, checkpointer.restore(tmp_path / "state", abstract))
    np.testing.assert_array_equal(restored(X), model(X))


def test_the_bridge_goes_on_working_and_is_frozen():
    layer = nnx.bridge.ToNNX(tvconv_jax.TVConv(**SMALL), rngs=nnx.Rngs(0)).lazy_init(X)
    frozen = freeze(nnx.Dict(layer=layer))["layer"]
    np.testing.assert_allclose(frozen(X), layer(X), atol=1e-6)
    assert jax.tree.leaves(nnx.state(frozen, FrozenKernel)) and not jax.tree.leaves(nnx.state(frozen, nnx.Param))


LAYERS = [
    tvconv_jax.TVConv(3, 2, use_bias=True, **SMALL),
    tvconv_jax.TVConv(5, generator_padding="edge", implementation="patches", **SMALL),
    tvconv_jax.DepthwiseConv(use_bias=True, dilation=2),
]


@pytest.mark.parametrize("module", LAYERS)
def test_layers_go_both_ways_and_start_as_linens(module):
    variables = module.init(jax.random.key(0), X)
    layer = from_linen(module, variables)
    np.testing.assert_array_equal(layer(X), module.apply(variables, X))
    assert to_linen(layer)[0] == module
    assert_equal_trees(to_linen(layer)[1], variables)
    if isinstance(module, tvconv_jax.TVConv):
        frozen = tvconv_jax.freeze(module, variables)
        np.testing.assert_array_equal(from_linen(module, frozen)(X), frozen(X))
        ours = TVConv(
            3, (6, 5), module.kernel_size, module.strides, use_bias=module.use_bias, rngs=nnx.Rngs(0), **SMALL
        )
        start = module.copy(generator_padding="zeros").init(nnx.Rngs(0).params(), X)
        assert_equal_trees(pure(nnx.state(ours)), start["params"])


@pytest.mark.parametrize("partition", [nnx.with_partitioning, nn.with_partitioning])
def test_partitioned_initializers_of_either_name_the_axes(partition):
    mesh = jax.make_mesh((1,), ("c",), axis_types=(jax.sharding.AxisType.Auto,))
    init = partition(nn.initializers.kaiming_normal(), (None, None, None, "c"), mesh=mesh)
    layer = TVConv(3, (6, 5), kernel_init=init, rngs=nnx.Rngs(0), **SMALL)
    assert layer.weights_generator["out"]["kernel"].out_sharding == (None, None, None, None, "c")
    assert freeze(layer).weights.out_sharding == (None, None, None, "c")
    depthwise = DepthwiseConv(3, kernel_init=init, rngs=nnx.Rngs(0))
    assert depthwise.kernel.out_sharding == (None, None, None, "c")
    assert depthwise(X).shape == layer(X).shape == X.shape


def test_dtypes_of_computation_and_of_parameters():
    dtypes = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}
    for layer in (TVConv(3, (6, 5), **SMALL, **dtypes, rngs=nnx.Rngs(0)), DepthwiseConv(3, **dtypes, rngs=nnx.Rngs(0))):
        assert layer(X).dtype == jnp.bfloat16
        assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(layer, nnx.Param))} == {jnp.dtype("bfloat16")}


def test_equinox():
    class Net(eqx.Module):
        conv: dict
        head: eqx.nn.Linear

        def __init__(self, key):
            self.conv = init_tv_conv(key, 3, (6, 5), strides=2, use_bias=True, **SMALL)
            self.head = eqx.nn.Linear(3, 2, key=key)

        def __call__(self, x):
            kernels = generate_kernels(self.conv)
            x = tv_conv(x, kernels.weights, strides=2) + kernels.bias[None]
            return jax.vmap(self.head)(jnp.mean(x, axis=(1, 2)))

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def step(net):
        return jnp.mean(jnp.square(net(X) - 1))

    net = Net(jax.random.key(0))
    module = tvconv_jax.TVConv(strides=2, use_bias=True, **SMALL)
    assert_equal_trees(net.conv, module.init(jax.random.key(0), X)["params"])
    before, gradient = step(net)
    net = eqx.apply_updates(net, jax.tree.map(lambda g: -0.01 * g, gradient))
    assert step(net)[0] < before


def test_plain_jax_is_the_layer():
    params = init_tv_conv(jax.random.key(0), 3, (6, 5), generator_padding="edge", **SMALL)
    module = tvconv_jax.TVConv(generator_padding="edge", **SMALL)
    kernels = generate_kernels(params)
    assert kernels.bias is None and kernels.weights.shape == (6, 5, 9, 3)
    np.testing.assert_array_equal(tv_conv(X, kernels.weights), module.apply({"params": params}, X))


def layer(**fields):
    return TVConv(**{"features": 3, "grid": (6, 5), "rngs": nnx.Rngs(0), **SMALL, **fields})


THEIRS = tvconv_jax.TVConv(**SMALL)
PARAMS = init_tv_conv(jax.random.key(0), 3, (6, 5), **SMALL)


class Own(nn.Module):
    @nn.compact
    def __call__(self, x):
        return THEIRS.copy()(nn.Dense(3)(x))


def test_a_users_own_linen_module_becomes_a_model():
    module = Own()
    variables = module.init(jax.random.key(0), X)
    np.testing.assert_array_equal(from_linen(module, variables)(X), module.apply(variables, X))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: layer()(X[:, :4]), r"grid=\(6, 5\), but x is 4x5; .* resize x to 6x5, or make .* grid=\(4, 5\)"),
        (lambda: freeze(layer())(X[:, :4]), r"has grid=\(6, 5\), but x is 4x5"),
        (lambda: layer()(X[..., :2]), "TVConv has features=3, but x has 2 channels"),
        (lambda: DepthwiseConv(2, rngs=nnx.Rngs(0))(X), "DepthwiseConv has features=2, but x has 3 channels"),
        (lambda: layer(kernel_size=4), "kernel_size=4 must be odd"),
        (lambda: layer(grid=6), r"grid=6 must be \(height, width\)"),
        (lambda: layer(grid=(0, 5)), "height of grid 0 must be at least 1"),
        (lambda: layer(features=0), "features 0 must be at least 1"),
        (lambda: layer(dtype=jnp.int32), "^dtype=int32 must be floating"),
        (lambda: layer(param_dtype="float99"), "param_dtype='float99' must be floating"),
        (lambda: tvconv_jax.TVConv(param_dtype=None), "param_dtype=None must be floating"),
        (lambda: layer(rngs=jax.random.key(0)), "rngs=a PRNGKeyArray must be nnx.Rngs"),
        (lambda: layer(rngs=None), r"rngs=None must be nnx.Rngs, .*: give rngs=nnx.Rngs\(0\)"),
        (lambda: layer(rngs=nnx.Rngs(dropout=0)), "but none for parameters"),
        (lambda: DepthwiseConv(2, rngs=0), "rngs=0 must be nnx.Rngs"),
        (lambda: freeze(THEIRS), r"TVConv is not an nnx.Module; .* tvconv_jax.freeze\(model, variables\)"),
        (lambda: freeze(nnx.eval_shape(layer)), "weights_generator holds shapes, not arrays; freeze within eval_shape"),
        (lambda: tvconv_jax.freeze(layer(), {}), r"TVConv is not a linen module; .* tvconv_jax.nnx.freeze\(model\)"),
        (lambda: to_linen(Deep(rngs=nnx.Rngs(0))), "Deep is not a layer or model of tvconv_jax.nnx"),
        (lambda: from_linen(layer(), {}), "TVConv is not a linen module"),
        (lambda: from_linen(THEIRS, {"batch_stats": {}}), "must hold 'params'"),
        (
            lambda: from_linen(THEIRS.copy(hidden_channels=5), THEIRS.init(jax.random.key(0), X)),
            r"not those of this TVConv: params/weights_generator/block_0/bias has shape \(6, 5, 4\), but must have \(6",
        ),
        (
            lambda: from_linen(tvconv_jax.DepthwiseConv(), {"params": {"w": X}}),
            "not those of a DepthwiseConv: they hold params/w",
        ),
        (
            lambda: from_linen(tvconv_jax.create_model("mlp_mixer", layers=1), {"params": {"stem": {"kernel": X}}}),
            "not those of this MlpMixer: they have no params/block_0/channels/expand/bias",
        ),
        (lambda: from_linen(THEIRS, {"params": {"affinity": [1]}}), "params/affinity is of type list, not an array"),
        (
            lambda: from_linen(Own(), {"params": PARAMS})(X),
            'Own does not belong to these variables, .* "kernel" in scope',
        ),
        (lambda: create_model("mobilenetv2", (3,), rngs=nnx.Rngs(0)), r"image_size=\(3,\) must be \(height, width\)"),
        (lambda: create_model("mobilenet", 16, rngs=nnx.Rngs(0)), "model 'mobilenet' is unknown"),
        (lambda: generate_kernels({"params": {}}), r"params hold \['params'\]; they must hold 'affinity'"),
        (lambda: generate_kernels(layer()), "params hold a TVConv"),
        (lambda: generate_kernels(PARAMS | {"affinity": X}), r"affinity has shape \(2, 6, 5, 3\); it must be \[ho, wo"),
        (lambda: generate_kernels(PARAMS | {"affinity": X[0]}), r"block_0/conv/kernel has shape .* be \[3, 3, 3, 4\]"),
        (
            lambda: generate_kernels(PARAMS | {"weights_generator": {}}),
            "weights_generator/block_0/conv/kernel is missing",
        ),
        (lambda: init_tv_conv(0, 3, (6, 5)), "key=0 must be a random key, as jax.random.key"),
        (lambda: tv_conv(X, generate_kernels(PARAMS)), "weights are a Kernels, not an array .* give .weights"),
        (lambda: THEIRS.apply(THEIRS.init(jax.random.key(0), X), X[..., :2]), r"out/kernel has shape .* need .*, 2\)"),
        (lambda: tv_conv(X, jnp.ones((3, 3, 1, 3))), r"must be \[ho, wo, k\*k, c\], here \[6, 5, k\*k, 3\]"),
    ],
)
def test_bad_input_is_one_line(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def test_forward_mode_names_the_way_out():
    weights = jnp.ones((6, 5, 9, 3))
    with pytest.raises(TypeError, match='needs implementation="patches"'):
        jax.jvp(lambda x: tv_conv(x, weights), (X,), (X,))
