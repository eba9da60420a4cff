"""Parameters in boxes (``nn.with_partitioning``), and variables of a user's own beside frozen ones."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze as freeze_dict

from tvconv_jax import DepthwiseConv, TVConv, freeze
from tvconv_jax.convert.reference import from_torch, to_torch
from tvconv_jax.metrics.complexity import count
from tvconv_jax.models.registry import OPERATORS
from tvconv_jax.nn.boxes import is_boxed, unboxed
from tvconv_jax.nn.layers import kaiming_normal

NAMES = (None, None, None, "model")
BOXED = nn.with_partitioning(kaiming_normal, NAMES)
LOGICAL = nn.with_logical_partitioning(kaiming_normal, (None, None, None, "channels"))
X = np.random.RandomState(0).randn(2, 5, 4, 8).astype(np.float32)
SMALL = {"hidden_channels": 4, "hidden_layers": 0, "use_bias": True}


def small(operator, **fields):
    row = OPERATORS[operator]
    fields |= {name: value for name, value in SMALL.items() if name in row.fields}
    if operator == "dyconv_pw":
        fields["features"] = 8
    return row.module(**fields)


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_takes_initializers_that_box(operator):
    plain, boxed = small(operator), small(operator, kernel_init=BOXED)
    init = {"plain": plain.init, "boxed": boxed.init, "logical": small(operator, kernel_init=LOGICAL).init}
    variables = {name: jax.eval_shape(f, jax.random.key(0), X) for name, f in init.items()}
    shapes = {name: jax.tree.map(lambda a: a.shape, unboxed(v)) for name, v in variables.items()}
    assert shapes["boxed"] == shapes["plain"] == shapes["logical"]
    assert any(is_boxed(leaf) for leaf in jax.tree.leaves(variables["boxed"], is_leaf=is_boxed))
    y = jax.eval_shape(boxed.apply, variables["boxed"], X)
    assert y.shape == (2, 5, 4, 8)
    assert count(boxed, X.shape) == count(plain, X.shape)
    frozen = jax.eval_shape(lambda v: freeze(boxed, v).variables, variables["boxed"])
    assert jax.eval_shape(boxed.apply, frozen, X).shape == y.shape


def test_boxed_parameters_freeze_to_the_same_weights_in_boxes():
    plain, boxed = TVConv(**SMALL), TVConv(**SMALL, kernel_init=LOGICAL)
    variables = plain.init(jax.random.key(0), X)
    in_boxes = boxed.init(jax.random.key(0), X)
    jax.tree.map(np.testing.assert_array_equal, unboxed(in_boxes), variables)
    assert in_boxes["params"]["weights_generator"]["out"]["kernel"].names == (None,) * 4 + ("channels",)
    frozen = freeze(boxed, in_boxes)
    assert frozen["frozen"]["weights"].names == (None, None, None, "channels")
    assert isinstance(frozen["frozen"]["weights"], nn.LogicallyPartitioned)
    jax.tree.map(np.testing.assert_array_equal, unboxed(frozen.variables), freeze(plain, variables).variables)
    np.testing.assert_array_equal(frozen(X), freeze(plain, variables)(X))


def test_boxes_of_every_leaf_are_understood_by_what_reads_shapes():
    model = TVConv(**SMALL)
    variables = model.init(jax.random.key(0), X)
    boxed = jax.tree.map(lambda a: nn.Partitioned(a, (None,) * a.ndim), variables)
    np.testing.assert_array_equal(model.apply(boxed, X), model.apply(variables, X))
    np.testing.assert_array_equal(freeze(model, boxed)(X), freeze(model, variables)(X))
    with pytest.raises(ValueError, match="built for the grid 5x4, but this input gives 4x4"):
        model.apply(boxed, X[:, :4])
    jax.tree.map(np.testing.assert_array_equal, to_torch(boxed, model), to_torch(variables, model))
    state = to_torch(variables, model)
    named = from_torch(state, TVConv(**SMALL, kernel_init=BOXED))
    assert named["params"]["weights_generator"]["out"]["kernel"].names == (None,) * 4 + ("model",)
    jax.tree.map(np.testing.assert_array_equal, unboxed(named), variables)


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        seen = self.variable("frozen", "mean", lambda: jnp.full((8,), 2.0))
        self.variable("cache", "calls", lambda: jnp.ones(()))
        return TVConv(**SMALL)(x) + seen.value[None, None, None]


class Outer(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Inner()(DepthwiseConv()(Inner()(x)))


@pytest.mark.parametrize("kind", [dict, freeze_dict])
def test_freezing_keeps_what_a_module_of_the_users_own_keeps_in_frozen(kind):
    model = Outer()
    variables = kind(model.init(jax.random.key(0), X))
    frozen = freeze(model, variables)
    assert set(frozen["frozen"]["Inner_0"]) == {"mean", "TVConv_0"}
    assert frozen["cache"] == variables["cache"]
    np.testing.assert_allclose(frozen(X), model.apply(variables, X), rtol=1e-5, atol=1e-5)
    half = {**variables, "params": dict(variables["params"]), "frozen": dict(variables["frozen"])}
    half["params"]["Inner_0"] = {}
    half["frozen"]["Inner_0"] = frozen["frozen"]["Inner_0"]  # a part that was frozen before
    np.testing.assert_array_equal(freeze(model, half)(X), frozen(X))
    np.testing.assert_array_equal(freeze(model, frozen)(X), frozen(X))


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_layers_that_are_stacked_along_another_axis_are_refused_with_a_hint(axis):
    scanned = nn.scan(Step, variable_axes={"params": axis}, split_rngs={"params": True}, length=3)()
    variables = jax.eval_shape(scanned.init, jax.random.key(0), jnp.asarray(X), None)
    with pytest.raises(ValueError, match="must be stacked along the first axis; give it variable_axes="):
        jax.eval_shape(lambda v: freeze(scanned, v).variables, variables)


class Step(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return TVConv(**SMALL)(x), None


class Lookalike(nn.Module):
    """A module of the user's own, whose parameters have names of this package's operators, but other forms."""

    name_of: str
    shape: tuple[int, ...]
    maps: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        ones = nn.initializers.ones
        if self.name_of == "weights_generator":
            inner = {"block_0": {"kernel": jnp.ones(self.shape)}, "out": {"kernel": jnp.ones(self.shape)}}
            own = self.param("weights_generator", lambda key: inner)["out"]["kernel"]
        else:
            own = self.param(self.name_of, ones, self.shape)
        return x * self.param("affinity", ones, self.maps).sum() * own.sum()


@pytest.mark.parametrize(
    ("name", "shape", "maps"),
    [
        ("weights_linear", (3, 5), (3,)),
        ("weights_linear", (7,), (3, 3, 2)),
        ("bias_linear", (7, 4), (3, 3, 2)),
        ("weights_generator", (3, 4), (3, 3, 2)),
    ],
)
def test_freezing_leaves_parameters_alone_that_only_have_the_names(name, shape, maps):
    model = Lookalike(name, shape, maps)
    variables = model.init(jax.random.key(0), X)
    assert freeze(model, variables)["params"] == variables["params"]
