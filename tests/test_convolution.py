"""The full convolution: the library's values and gradients, whatever a CPU makes of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tvconv_jax.ops import conv as convolution
from tvconv_jax.ops import winograd


def draw(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize(
    ("strides", "dilation", "padding"), [(1, 1, None), (1, 2, None), (1, 5, None), (1, 1, 0), (2, 1, None), (2, 1, 0)]
)
def test_it_is_the_librarys_in_value_and_gradient(strides, dilation, padding, monkeypatch):
    """A dilation of 5 on 6x4: most taps see nothing but padding. Two rows a product: six make three chunks."""
    monkeypatch.setattr(convolution, "CHUNK", 2 * 4 * 9 * 3 * 4)
    x, kernel = draw(2, 6, 4, 3), draw(3, 3, 3, 5)

    def library(x, kernel):
        margin = dilation if padding is None else padding
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (strides, strides),
            [(margin, margin)] * 2,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    def ours(x, kernel):
        return convolution.conv(x, kernel, strides=strides, dilation=dilation, padding=padding)

    (y, vjp), (expected, library_vjp) = jax.vjp(ours, x, kernel), jax.vjp(library, x, kernel)
    cotangent = draw(*y.shape)
    # Sums of at most 48 float32 products of size one, in another order.
    for a, b in zip((y, *vjp(cotangent)), (expected, *library_vjp(cotangent)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("grid", [(6, 4), (2, 8), (5, 4)])
def test_tiles_of_two_by_two_are_as_exact_as_the_library(grid):
    """Against float64: values and both gradients are off by at most four times what the library's are."""
    x, kernel, cotangent = draw(3, *grid, 64), draw(3, 3, 64, 65), draw(3, *grid, 65)
    assert winograd.fits(grid, kernel.shape) == (grid != (5, 4))

    def answers(conv, *arrays):
        y, vjp = jax.vjp(conv, *arrays[:2])
        return y, *vjp(arrays[2])

    library = functools.partial(convolution._library, dilation=1)
    with jax.enable_x64(True):
        exact = [np.asarray(a) for a in answers(library, *(np.asarray(a, np.float64) for a in (x, kernel, cotangent)))]
    found, librarys = (answers(conv, x, kernel, cotangent) for conv in (convolution.conv, library))
    for a, b, truth in zip(found, librarys, exact, strict=True):
        ours, theirs = (np.abs(np.asarray(found, np.float64) - truth).max() for found in (a, b))
        assert ours <= 4 * theirs


def test_few_channels_are_left_to_the_library():
    assert not winograd.fits((8, 8), (3, 3, 3, 64)) and not winograd.fits((8, 8), (5, 5, 64, 64))


def test_sums_of_bfloat16_are_kept_in_float32():
    x, kernel = draw(2, 8, 8, 64).astype(jnp.bfloat16), draw(3, 3, 64, 8).astype(jnp.bfloat16)
    y, vjp = jax.vjp(convolution.conv, x, kernel)
    wide = [a.astype(jnp.float32) for a in (x, kernel)]
    exact, exact_vjp = jax.vjp(convolution.conv, *wide)
    assert y.dtype == jnp.bfloat16
    for a, b in zip((y, *vjp(y)), (exact, *exact_vjp(y.astype(jnp.float32))), strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=2**-7, atol=2**-7 * np.abs(b).max())


@pytest.mark.parametrize("channels", [3, 64])
def test_no_image_is_no_gradient(channels):
    kernel = draw(3, 3, channels, channels)
    gradient = jax.grad(lambda kernel: jnp.sum(convolution.conv(draw(0, 4, 4, channels), kernel)))(kernel)
    assert np.all(gradient == 0) and gradient.shape == kernel.shape
