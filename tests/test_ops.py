"""tv_conv and depthwise_conv: by hand, against loops, against the patches formulation, gradients."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from tvconv_jax import depthwise_conv, tv_conv
from tvconv_jax.nn.norm import BatchNorm
from tvconv_jax.ops.shifts import input_gradient, spread_taps
from tvconv_jax.ops.tv_conv import _reduce, _window_sums, output_grid

pytestmark = pytest.mark.usefixtures("barely_optimized")

GRIDS = [(7, 6), (1, 5)]


def draw(*shape, seed=0):
    return jnp.asarray(np.random.RandomState(seed).standard_normal(shape), jnp.float32)


def loops(x, weights, strides):
    n, h, w, c = x.shape
    ho, wo, taps, _ = weights.shape
    k = round(taps**0.5)
    margin = (k - 1) // 2
    y = np.zeros((n, ho, wo, c))
    for i, j, a, b in np.ndindex(ho, wo, k, k):
        row, column = i * strides + a - margin, j * strides + b - margin
        if 0 <= row < h and 0 <= column < w:
            y[:, i, j] += np.asarray(x, np.float64)[:, row, column] * np.asarray(weights, np.float64)[i, j, a * k + b]
    return y


@functools.partial(jax.jit, static_argnums=(2, 3))
def value_and_gradients(x, weights, strides, implementation):
    y, vjp = jax.vjp(lambda x, w: tv_conv(x, w, strides=strides, implementation=implementation), x, weights)
    return y, vjp(jnp.cos(y))


def test_every_pixel_has_its_own_kernel():
    x = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    weights = jnp.zeros((2, 2, 9, 1))
    weights = weights.at[0, 0, 4, 0].set(10.0)  # center: 10 * 1
    weights = weights.at[0, 1, 3, 0].set(10.0)  # left neighbor: 10 * 1
    weights = weights.at[1, 0, 1, 0].set(10.0)  # upper neighbor: 10 * 1
    weights = weights.at[1, 1, 0, 0].set(10.0).at[1, 1, 8, 0].set(7.0)  # upper left: 10 * 1; lower right: padding
    np.testing.assert_array_equal(tv_conv(x, weights)[0, :, :, 0], [[10.0, 10.0], [10.0, 10.0]])


@pytest.mark.parametrize(("kernel_size", "strides"), [(1, 1), (1, 2), (3, 1), (3, 2), (3, 3), (5, 1), (5, 2), (7, 2)])
def test_equals_loops_and_patches_in_value_and_gradient(kernel_size, strides):
    for height, width in GRIDS:
        grid = output_grid(height, width, strides)
        x, weights = draw(2, height, width, 3), draw(*grid, kernel_size**2, 3, seed=1)
        y, grads = value_and_gradients(x, weights, strides, "shifted")
        patches, patches_grads = value_and_gradients(x, weights, strides, "patches")
        # float32 sums of at most 49 products of order one
        np.testing.assert_allclose(y, loops(x, weights, strides), atol=1e-5)
        np.testing.assert_allclose(patches, y, atol=1e-5)
        for ours, theirs in zip(grads, patches_grads, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("strides", [1, 2])
def test_the_same_kernel_everywhere_is_the_depthwise_convolution(strides):
    x, kernel = draw(2, 6, 9, 3), draw(9, 3, seed=1)
    everywhere = jnp.broadcast_to(kernel, (*output_grid(6, 9, strides), 9, 3))
    y, vjp = jax.vjp(jax.jit(lambda x, k: depthwise_conv(x, k, strides=strides)), x, kernel)
    np.testing.assert_allclose(y, tv_conv(x, everywhere, strides=strides), atol=1e-6)
    library = jax.lax.conv_general_dilated(
        x,
        kernel.reshape(3, 3, 1, 3),
        (strides, strides),
        [(1, 1), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=3,
    )
    np.testing.assert_allclose(y, library, atol=1e-5)
    grad_x, grad_kernel = vjp(jnp.ones_like(y))
    per_pixel = jax.jit(lambda x, w: tv_conv(x, w, strides=strides))
    full = jax.vjp(per_pixel, x, everywhere)[1](jnp.ones_like(y))
    np.testing.assert_allclose(grad_x, full[0], atol=1e-5)
    np.testing.assert_allclose(grad_kernel, jnp.sum(full[1], axis=(0, 1)), atol=1e-4)


@pytest.mark.parametrize(
    ("strides", "dilation", "padding"), [(1, 1, 0), (2, 1, 0), (3, 1, 1), (1, 2, None), (1, 2, 0), (1, 3, 2)]
)
def test_depthwise_padding_and_dilation_are_the_librarys(strides, dilation, padding):
    x, kernel = draw(2, 8, 11, 3), draw(9, 3, seed=1)
    zeros = dilation if padding is None else padding

    def library(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel.reshape(3, 3, 1, 3),
            (strides, strides),
            [(zeros, zeros)] * 2,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=3,
        )

    ours = jax.jit(functools.partial(depthwise_conv, strides=strides, dilation=dilation, padding=padding))
    (y, vjp), (theirs, their_vjp) = jax.vjp(ours, x, kernel), jax.vjp(library, x, kernel)
    np.testing.assert_allclose(y, theirs, atol=1e-5)
    cotangent = draw(*y.shape, seed=2)
    for gradient, expected in zip(vjp(cotangent), their_vjp(cotangent), strict=True):
        np.testing.assert_allclose(gradient, expected, atol=2e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dilation": 2, "strides": 2}, "dilation=2 must be positive, and 1 with strides=2"),
        ({"padding": 3}, "padding=3 must be 0 to 2"),
        ({"padding": "SAME"}, "padding='SAME' must be one integer"),
        ({"dilation": (2, 2)}, "dilation=(2, 2) must be one integer"),
        ({"dilation": 2, "padding": 0}, "x 4x4 with padding=0 is smaller than the 5 that the kernel spans"),
    ],
)
def test_depthwise_misfits_name_value_and_rule(options, words):
    with pytest.raises(ValueError) as error:
        depthwise_conv(draw(1, 4, 4, 2), draw(9, 2), **options)
    assert words in str(error.value)


def test_gradients_are_those_of_finite_differences():
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.RandomState(0).standard_normal((2, 5, 4, 2)))
        weights = jnp.asarray(np.random.RandomState(1).standard_normal((3, 2, 9, 2)))
        check_grads(lambda x, w: tv_conv(x, w, strides=2), (x, weights), order=1, modes=["rev"])


@pytest.mark.parametrize(("operator", "weights"), [(tv_conv, draw(4, 4, 9, 2)), (depthwise_conv, draw(9, 2))])
def test_no_image_is_no_gradient(operator, weights):
    gradients = jax.grad(lambda x, w: jnp.sum(operator(x, w)), (0, 1))(draw(0, 4, 4, 2), weights)
    assert gradients[0].shape == (0, 4, 4, 2) and np.all(gradients[1] == 0) and gradients[1].shape == weights.shape


def test_bfloat16_sums_in_float32():
    x, weights = draw(2, 6, 6, 4), draw(6, 6, 9, 4, seed=1)
    half_x, half_weights = x.astype(jnp.bfloat16), weights.astype(jnp.bfloat16)
    y = tv_conv(half_x, half_weights)
    exact = tv_conv(half_x.astype(jnp.float32), half_weights.astype(jnp.float32))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))  # one rounding, at the end
    grad_x, grad_weights = jax.vjp(tv_conv, half_x, half_weights)[1](y)
    assert grad_x.dtype == grad_weights.dtype == jnp.bfloat16


def test_one_trace_serves_every_call():
    traces = []
    f = jax.jit(lambda x, w: (traces.append(1), tv_conv(x, w))[1])
    for _ in range(3):
        f(draw(1, 4, 4, 2), draw(4, 4, 9, 2))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("x", "weights", "strides", "words"),
    [
        (draw(4, 4, 2), draw(4, 4, 9, 2), 1, "x has shape (4, 4, 2); it must be [n, h, w, c]"),
        (draw(1, 4, 4, 2), draw(4, 4, 2), 1, "weights have shape (4, 4, 2); they must be"),
        (draw(1, 4, 4, 2), draw(4, 4, 4, 2), 1, "4 taps; it must be k*k for an odd kernel size"),
        (draw(1, 4, 4, 2), draw(4, 4, 16, 2), 1, "16 taps"),
        (draw(1, 4, 4, 2), draw(4, 3, 9, 2), 1, "output grid 4x3, but x 4x4 with strides=1 gives 4x4"),
        (draw(1, 4, 4, 2), draw(4, 4, 9, 2), 2, "gives 2x2"),
        (draw(1, 4, 4, 2), draw(4, 4, 9, 3), 1, "weights are for 3 channels, but x has 2"),
        (draw(1, 4, 4, 2).astype(jnp.int32), draw(4, 4, 9, 2), 1, "x is int32; it must be float32"),
        (draw(1, 4, 4, 2), draw(4, 4, 9, 2).astype(jnp.bfloat16), 1, "weights are bfloat16, but x is float32"),
        (draw(1, 4, 4, 2), draw(4, 4, 9, 2), 0, "strides=0 must be one positive integer"),
    ],
)
def test_a_misfit_names_value_and_rule(x, weights, strides, words):
    with pytest.raises(ValueError) as error:
        tv_conv(x, weights, strides=strides)
    assert words in str(error.value)


def test_an_unknown_implementation_lists_what_exists():
    with pytest.raises(ValueError, match="'shifted', 'patches'"):
        tv_conv(draw(1, 4, 4, 2), draw(4, 4, 9, 2), implementation="unfold")


@pytest.mark.parametrize(("images", "kernel_size", "strides"), [(1, 3, 1), (37, 3, 2), (16, 5, 1), (40, 1, 3)])
def test_sums_over_windows_of_the_batch_are_the_reductions(images, kernel_size, strides):
    padded, cotangent = draw(images, 9, 8, 2), draw(images, *output_grid(9, 8, strides, kernel_size - 1), 2, seed=1)
    sums = _window_sums(padded, cotangent, kernel_size=kernel_size, strides=strides)
    exact = (np.asarray(array, np.float64) for array in (padded, cotangent))
    with jax.enable_x64(True):
        expected = _reduce(*map(jnp.asarray, exact), kernel_size=kernel_size, strides=strides)
    np.testing.assert_allclose(sums, expected, rtol=1e-5, atol=1e-5)  # sums of 40 terms in float32


@pytest.mark.parametrize(
    ("grid", "kernel_size", "strides", "padding"),
    [((8, 7), 3, 2, 1), ((9, 7), 5, 3, 2), ((9, 8), 3, 2, 0), ((5, 5), 1, 2, 0)],
)
@pytest.mark.parametrize("shared", [False, True])
def test_spread_taps_are_the_phases_of_the_input_s_gradient(grid, kernel_size, strides, padding, shared):
    outputs = tuple((size + 2 * padding - kernel_size) // strides + 1 for size in grid)
    cotangent = draw(2, *outputs, 3)
    weights = draw(*((1, 1) if shared else outputs), kernel_size**2, 3, seed=1)
    found = spread_taps(cotangent, weights, strides, padding, grid)
    expected = input_gradient(cotangent, [weights[None]], strides, padding, grid)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)  # sums of 9 terms in another order


def test_a_gpu_spreads_the_taps_of_strided_layers_and_sums_their_weights_gradient_in_windows_and_a_tpu_does_not():
    def gradient(x, weights):
        return jax.grad(lambda *arrays: jnp.sum(tv_conv(*arrays, strides=2) ** 2), (0, 1))(x, weights)

    traced = jax.jit(gradient).trace(draw(32, 4, 4, 2), draw(2, 2, 9, 2))
    for platform, count in (("cuda", 1), ("tpu", 0), ("cpu", 0)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert text.count("reduce_window") == count
        assert text.count("interior = [0, 1, 1, 0]") == 9 * count


@pytest.mark.parametrize("sides", ["n,6,6", "n,h,w"])
def test_gradients_are_exported_for_symbolic_sizes(sides):
    specs = [jax.ShapeDtypeStruct(jax.export.symbolic_shape(f"{sides},2"), jnp.float32)]
    convolve = depthwise_conv if "h" in sides else tv_conv
    specs.append(jax.ShapeDtypeStruct((9, 2) if "h" in sides else (6, 6, 9, 2), jnp.float32))
    gradient = jax.jit(jax.grad(lambda x, w: jnp.sum(convolve(x, w) ** 2), argnums=(0, 1)))
    x, weights = draw(3, 6, 6, 2), draw(*specs[1].shape)
    for ours, theirs in zip(jax.export.export(gradient)(*specs).call(x, weights), gradient(x, weights), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_batch_norm_refuses_to_train_on_one_value_and_exports_for_any_batch():
    def train(x):
        return BatchNorm().init_with_output(jax.random.key(0), x, train=True)[1], BatchNorm().apply(
            variables, x, train=True, mutable=["batch_stats"]
        )

    variables = BatchNorm().init(jax.random.key(0), jnp.zeros((1, 2)), train=True)
    with pytest.raises(ValueError, match=r"x of \(1, 2\) has one value per channel in a group"):
        train(jnp.zeros((1, 2)))
    x = jax.ShapeDtypeStruct(jax.export.symbolic_shape("n,2"), jnp.float32)
    jax.export.export(jax.jit(train))(x)
