"""The forms that a GPU runs of 1x1 convolutions and norms, computed on a CPU beside float64 and the plain ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tvconv_jax.models.blocks import ConvNorm
from tvconv_jax.ops import batch_norm, norm_pointwise, pointwise, pointwise_norm
from tvconv_jax.training.optimizer import sgd, step_schedule

pytestmark = pytest.mark.usefixtures("barely_optimized")


@pytest.fixture
def as_gpu(monkeypatch):
    for module in (batch_norm, norm_pointwise, pointwise, pointwise_norm):
        monkeypatch.setattr(module, "on_gpu", lambda function, otherwise, *arrays: function(*arrays))


def results(function, *arrays, dtype):
    """Return outputs, statistics and gradients of ``function``, for a cotangent that is the last array."""

    @jax.jit
    def run(*arrays):
        *arrays, cotangent = arrays
        y, vjp, statistics = jax.vjp(lambda *a: (lambda out: (out[0], out[1:]))(function(*a)), *arrays, has_aux=True)
        return y, *statistics, *vjp(cotangent)

    return [np.asarray(array, np.float64) for array in run(*(jnp.asarray(array, dtype) for array in arrays))]


def plain(x, kernel, scale, bias, activation, groups):
    """Compute it step by step, for autodiff."""
    z = (x @ kernel).reshape(groups, -1, kernel.shape[1])
    mean, var = jnp.mean(z, 1, keepdims=True), jnp.var(z, 1, keepdims=True)
    y = batch_norm.activate((z - mean) / jnp.sqrt(var + 1e-5) * scale[None, None] + bias[None, None], activation)
    return y.reshape(*x.shape[:-1], -1), jnp.mean(mean, (0, 1)), jnp.mean(var, (0, 1))


def draw(channels, features, shift=0.0):
    normal = np.random.default_rng(0).standard_normal
    x, kernel = normal((6, 5, 5, channels)) + shift, normal((channels, features))
    return x, kernel, 1 + 0.3 * normal(features), normal(features), normal((6, 5, 5, features))


@pytest.mark.parametrize("shift", [0.0, 30.0])
@pytest.mark.parametrize(
    ("channels", "features", "activation", "groups"),
    [(8, 48, "relu6", 1), (8, 48, "relu", 3), (8, 8, "identity", 1), (20, 64, "relu6", 1), (20, 64, "identity", 3)],
)
def test_moments_of_the_input_give_those_of_the_product_and_all_gradients(
    as_gpu, channels, features, activation, groups, shift
):
    """Also where the mean is thirty times the deviation, and squares alone would lose three digits."""
    assert pointwise_norm.is_narrow(channels, features)
    arrays = draw(channels, features, shift)
    with jax.enable_x64(True):
        expected = results(functools.partial(plain, activation=activation, groups=groups), *arrays, dtype=jnp.float64)
    ours = functools.partial(pointwise_norm.pointwise_norm, epsilon=1e-5, activation=activation, groups=groups)
    for found, exact in zip(results(ours, *arrays, dtype=jnp.float32), expected, strict=True):
        np.testing.assert_allclose(found, exact, atol=(3e-5 if shift else 2e-6) * np.abs(exact).max())


@pytest.mark.parametrize("channels", [8, 20])
def test_bfloat16_is_kept_and_rounds_only_once(as_gpu, channels):
    arrays = draw(channels, 64)
    with jax.enable_x64(True):
        rounded = [np.asarray(jnp.asarray(array, jnp.bfloat16), np.float64) for array in arrays]
        expected = results(functools.partial(plain, activation="identity", groups=1), *rounded, dtype=jnp.float64)
    ours = functools.partial(pointwise_norm.pointwise_norm, epsilon=1e-5, activation="identity")
    y, *rest = results(ours, *arrays, dtype=jnp.bfloat16)
    np.testing.assert_allclose(y, expected[0], rtol=2**-7, atol=2**-8)
    for found, exact in zip(rest, expected[1:], strict=True):
        np.testing.assert_allclose(found, exact, atol=0.02 * np.abs(exact).max())


def test_sums_at_once_and_few_products_where_they_are_read_change_no_value(as_gpu):
    x, kernel, *_ = draw(24, 8)
    x, kernel, cotangent = (np.float32(array) for array in (x, kernel, draw(8, 8)[0]))
    for found, exact in zip(
        jax.vjp(pointwise.pointwise, x, kernel)[1](cotangent),
        (cotangent @ kernel.T, np.tensordot(x, cotangent, ((0, 1, 2),) * 2)),
        strict=True,
    ):
        np.testing.assert_allclose(found, exact, atol=1e-5 * np.abs(exact).max())
    ours = functools.partial(batch_norm.batch_norm, epsilon=1e-5, activation="relu6", groups=2)
    eye = functools.partial(plain, kernel=np.eye(24), activation="relu6", groups=2)
    arrays = draw(24, 24)
    arrays = (arrays[0], *arrays[2:])
    with jax.enable_x64(True):
        expected = results(lambda x, *params: eye(x, scale=params[0], bias=params[1]), *arrays, dtype=jnp.float64)
    for found, exact in zip(results(ours, *arrays, dtype=jnp.float32), expected, strict=True):
        np.testing.assert_allclose(found, exact, atol=2e-6 * np.abs(exact).max())


def normalized_first(x, scale, bias, kernel, activation, groups):
    y, *statistics = plain(x, jnp.eye(x.shape[-1], dtype=x.dtype), scale, bias, activation, groups)
    return y @ kernel, *statistics


@pytest.mark.parametrize(("activation", "groups"), [("relu6", 1), ("identity", 3)])
def test_a_norm_before_a_product_has_all_gradients_of_the_two(as_gpu, activation, groups):
    x, kernel, *_ = draw(24, 8)
    arrays = x, *draw(8, 24)[2:4], kernel, draw(8, 8)[-1]
    options = {"activation": activation, "groups": groups}
    with jax.enable_x64(True):
        expected = results(functools.partial(normalized_first, **options), *arrays, dtype=jnp.float64)
    ours = functools.partial(norm_pointwise.norm_pointwise, epsilon=1e-5, **options)
    for found, exact in zip(results(ours, *arrays, dtype=jnp.float32), expected, strict=True):
        np.testing.assert_allclose(found, exact, atol=2e-6 * np.abs(exact).max())


def test_on_a_cpu_a_norm_before_a_product_is_norm_and_product_bit_for_bit():
    x, kernel, *_ = draw(24, 8)
    arrays = x, *draw(8, 24)[2:4], kernel, draw(8, 8)[-1]

    def apart(x, scale, bias, kernel):
        y, *statistics = batch_norm.batch_norm(x, scale, bias, 1e-5, "relu6")
        return pointwise.pointwise(y, kernel), *statistics

    ours = functools.partial(norm_pointwise.norm_pointwise, epsilon=1e-5, activation="relu6")
    for found, expected in zip(*(results(f, *arrays, dtype=jnp.float32) for f in (ours, apart)), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_gpus_program_has_no_gradient_of_the_product_and_a_cpus_is_product_and_norm():
    layer = ConvNorm(48, "relu6")
    images = jax.ShapeDtypeStruct((4, 6, 6, 8), jnp.float32)
    variables = jax.eval_shape(functools.partial(layer.init, train=True), jax.random.key(0), images)
    step = jax.grad(
        lambda v, x: jnp.sum(layer.apply(v, x, train=True, mutable="batch_stats")[0]), (0, 1), allow_int=True
    )
    traced = jax.jit(step).trace(variables, images)
    cuda, cpu = (traced.lower(lowering_platforms=(name,)).as_text() for name in ("cuda", "cpu"))
    assert "9x9xf32" in cuda and "9x9xf32" not in cpu  # moments of eight channels and of ones


def test_updates_are_optaxs_and_its_state_keeps_its_form():
    params = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(4)}
    grads = jax.tree.map(jnp.sin, params)
    schedule = step_schedule(0.1, milestones=(1,), factor=0.5, steps_per_epoch=1)
    ours = sgd(schedule, momentum=0.9, weight_decay=0.01)
    theirs = optax.chain(optax.add_decayed_weights(0.01), optax.sgd(schedule, momentum=0.9))
    states = [optimizer.init(params) for optimizer in (ours, theirs)]
    with jax.numpy_dtype_promotion("standard"):  # optax's schedules need it
        for _ in range(2):
            (update, states[0]), (expected, states[1]) = (
                optimizer.update(grads, state, params) for optimizer, state in zip((ours, theirs), states, strict=True)
            )
            jax.tree.map(np.testing.assert_array_equal, (update, states[0]), (expected, states[1]))
