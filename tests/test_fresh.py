"""Fresh variables: drawn together they are those of ``model.init``, and they are drawn together."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tvconv_jax import create_model
from tvconv_jax.tasks.fresh import drawn_together, fresh_variables


class Several(nn.Module):
    """Draws of many sizes: normal ones, some inside of others and one behind ``remat``, and others."""

    @nn.compact
    def __call__(self, x):
        for features in (3, 5, 64, 65):
            x = nn.Dense(features, kernel_init=nn.initializers.normal(0.1))(x)
        x = nn.remat(nn.Dense)(7, kernel_init=nn.initializers.he_normal())(x)
        x = nn.Dense(2, bias_init=nn.initializers.uniform())(x)  # kernels are truncated normal
        return x * self.param("gain", nn.initializers.normal(), ())


def draws_of(fun, *args):
    """A jaxpr shows a normal draw under its own name (before JAX 0.12) or as the uniform one that it is made of."""
    program = str(jax.make_jaxpr(fun)(*args))
    return max(len(re.findall(rf"name={name}\s", program)) for name in ("_normal", "_uniform"))


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    # The last bit: a loop may multiply by the square root of two and by the spread in one go, or in two.
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=3e-7), found, expected)


@pytest.mark.parametrize("jit", [True, False])
def test_they_are_those_of_init(jit):
    x, module = jnp.zeros((1, 4)), Several()
    together = functools.partial(drawn_together, module.init)
    call = jax.jit(together) if jit else together
    assert_same(call(jax.random.key(3), x), module.init(jax.random.key(3), x))


def test_a_model_draws_as_often_as_it_has_sizes():
    model, key = create_model("mobilenetv2", width=0.1, depth=0.1), jax.random.key(1)
    images = jnp.zeros((1, 24, 24, 3))
    assert draws_of(model.init, key, images) > 40
    assert draws_of(functools.partial(drawn_together, model.init), key, images) <= 8
    assert_same(fresh_variables(model, key, 24), jax.jit(model.init)(key, images))


def test_other_keys_draw_as_ever():
    """Bits of a longer draw need not begin with those of a shorter one."""
    x, key = jnp.zeros((1, 4)), jax.random.key(3, impl="rbg")
    found, expected = drawn_together(Several().init, key, x), Several().init(key, x)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
