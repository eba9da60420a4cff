"""Weight generators together: equal to one after the other, and in fewer operations where it is not a CPU."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tvconv_jax import TVConv
from tvconv_jax.nn.freeze import generate_together
from tvconv_jax.ops import generator
from tvconv_jax.ops.generator import Generator, generate, generate_all, norm_relu

pytestmark = pytest.mark.usefixtures("barely_optimized")

# Grid, shape of the values, padding: the first three share their hidden blocks, the first two the last convolution too.
LAYERS = [((5, 4), (9, 2), "zeros"), ((5, 4), (9, 2), "zeros"), ((5, 4), (3,), "zeros"), ((5, 4), (9, 2), "edge")]
HIDDEN = 4


def draw_layer(index, grid, features, dtype):
    random = np.random.default_rng(index)

    def normal(*shape, mean=0.0):
        return (mean + 0.3 * random.standard_normal(shape)).astype(dtype)

    params = {"out": {"kernel": normal(3, 3, HIDDEN, *features)}}
    for i, inputs in enumerate((2, HIDDEN)):
        norm = {"scale": normal(*grid, HIDDEN, mean=1.0), "bias": normal(*grid, HIDDEN)}
        params[f"block_{i}"] = {"conv": {"kernel": normal(3, 3, inputs, HIDDEN)}, **norm}
    return params, normal(*grid, 2, mean=1.0)


def one_by_one(layers):
    return [generate(layer.params, layer.affinity, layer.padding) for layer in layers]


def values_and_gradients(function, dtype):
    layers = [draw_layer(index, grid, features, dtype) for index, (grid, features, _) in enumerate(LAYERS)]
    paddings = [padding for *_, padding in LAYERS]
    values, vjp = jax.vjp(lambda layers: function(list(map(Generator, *zip(*layers, strict=True), paddings))), layers)
    return values, vjp([jnp.cos(jnp.arange(value.size, dtype=dtype)).reshape(value.shape) for value in values])


@pytest.mark.parametrize("form", ["here", "gpu"])
def test_together_is_one_after_the_other_in_value_and_gradient(form, monkeypatch):
    if form == "gpu":
        monkeypatch.setattr(generator, "LARGE", 0)
        monkeypatch.setattr(generator, "on_gpu", lambda function, otherwise, *arrays: function(*arrays))
    together = values_and_gradients(generate_all, np.float32)
    with jax.enable_x64(True):
        expected = values_and_gradients(one_by_one, np.float64)
    for ours, exact in zip(jax.tree.leaves(together), jax.tree.leaves(expected), strict=True):
        # Float32 through three convolutions and two norms.
        np.testing.assert_allclose(ours, exact, rtol=1e-4, atol=1e-4 * np.abs(exact).max())


def test_a_mean_far_from_zero_costs_no_accuracy():
    maps, scale, bias = (
        jnp.asarray(np.random.default_rng(i).standard_normal((6, 5, 3)), jnp.float32) for i in range(3)
    )
    maps = maps + 1000  # squares of these lose all digits of the variance but two
    exact = np.asarray(maps, np.float64)
    exact = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-5) * np.asarray(scale) + np.asarray(bias)
    np.testing.assert_allclose(norm_relu(maps, scale, bias), np.maximum(exact, 0), atol=1e-4)


def test_layers_of_one_grid_share_their_products():
    layers = [draw_layer(index, grid, features, np.float32) for index, (grid, features, _) in enumerate(LAYERS)]
    paddings = [padding for *_, padding in LAYERS]
    products = {}
    for function in (one_by_one, generate_all):
        program = jax.make_jaxpr(
            lambda layers, f=function: f(list(map(Generator, *zip(*layers, strict=True), paddings)))
        )
        products[function] = str(program(layers)).count("dot_general[")
    # Together: two blocks of each padding, and a last convolution of three kinds.
    assert products == {one_by_one: 12, generate_all: 7}


def test_a_model_with_values_from_outside_its_layers_computes_the_same():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = functools.partial(TVConv, hidden_channels=HIDDEN, hidden_layers=1)
            return layer(name="b", use_bias=True)(layer(name="a")(x) + self.param("shift", nn.initializers.ones, ()))

    x = jax.random.normal(jax.random.key(0), (2, 6, 5, 3))
    params = Two().init(jax.random.key(1), x)["params"]

    def outside(params):
        kept, frozen = generate_together(params)
        assert kept.keys() == {"shift"}
        return jnp.sum(jnp.sin(Two().apply({"params": kept, "frozen": frozen}, x)))

    inside = jax.jit(jax.value_and_grad(lambda params: jnp.sum(jnp.sin(Two().apply({"params": params}, x)))))(params)
    for ours, theirs in zip(*map(jax.tree.leaves, (jax.jit(jax.value_and_grad(outside))(params), inside)), strict=True):
        # Float32 through six convolutions and four norms of both layers' generators.
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def test_stacked_layers_make_their_own_values():
    Stacked = nn.vmap(TVConv, variable_axes={"params": 0, "frozen": 0}, split_rngs={"params": True})
    params = Stacked(hidden_channels=HIDDEN, hidden_layers=0).init(jax.random.key(0), jnp.ones((2, 1, 4, 4, 3)))[
        "params"
    ]
    kept, frozen = generate_together(params)
    assert jax.tree.structure(kept) == jax.tree.structure(params)
    assert frozen == {}
