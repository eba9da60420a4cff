"""The full convolution: the library's values and gradients, whatever a CPU makes of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tvconv_jax import convolution


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


def test_sums_of_bfloat16_are_kept_in_float32():
    x, kernel = draw(2, 8, 8, 64).astype(jnp.bfloat16), draw(3, 3, 64, 8).astype(jnp.bfloat16)
    y, vjp = jax.vjp(convolution.conv, x, kernel)
    wide = [a.astype(jnp.float32) for a in (x, kernel)]
    exact, exact_vjp = jax.vjp(convolution.conv, *wide)
    assert y.dtype == jnp.bfloat16
    for a, b in zip((y, *vjp(y)), (exact, *exact_vjp(y.astype(jnp.float32))), strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=2**-7, atol=2**-7 * np.abs(b).max())
