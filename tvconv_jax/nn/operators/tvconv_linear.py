"""Linear TVConv: every pixel's kernel is a linear mix of a few, by its affinity maps.

Chen et al., "TVConv: Efficient Translation Variant Convolution for Layout-aware Visual Processing", CVPR 2022,
section 3.1, Eq. 3, https://arxiv.org/abs/2203.10489: ``W' = B' A'``, the decomposition that TVConv's
weight-generating block makes non-linear.

    W[i, j, t, c] = sum_a A[i, j, a] B[a, t, c]

As in TVConv the maps start at 1. Every row of ``B`` is drawn as a depthwise kernel and divided by the root of their
number, so that it starts exactly as a depthwise convolution starts. The paper gives no start.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax.nn.boxes import reboxed, unboxed
from tvconv_jax.nn.checks import check_built, check_images, frozen_values
from tvconv_jax.nn.freeze import AFFINITY_AXES
from tvconv_jax.nn.layers import SpatialOperator, depthwise_cost
from tvconv_jax.nn.operators.dynamic import stacked
from tvconv_jax.ops.tv_conv import output_grid, tv_conv


def linear_map(affinity: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return the values of every position, ``[ho, wo, a]``, ``[a, ...]`` -> ``[ho, wo, ...]``."""
    return jnp.tensordot(affinity, kernel, axes=1)


def _freeze_linear(params: Any, affinity: jax.Array, *, axes: int) -> tuple[Callable[..., jax.Array], Any] | None:
    """Accept an array with the axes of a linear map and a row per affinity map; their order is checked later."""
    if isinstance(params, Mapping):
        return None
    kernel, copies = unboxed(params), affinity.ndim - AFFINITY_AXES
    if kernel.ndim != axes + copies or affinity.shape[-1] not in kernel.shape:
        return None
    return lambda kernel, affinity: linear_map(affinity, kernel), params


class TVConvLinear(SpatialOperator):
    """Translation-variant convolution without a hidden block, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``."""

    affinity_channels: int = 4  #: Affinity maps, and rows of ``B``.
    use_bias: bool = False  #: Whether a bias per position and channel, made likewise, is added.

    # [affinity_channels, k*k, c] and [affinity_channels, c]
    generated = {
        name: functools.partial(_freeze_linear, axes=axes) for name, axes in (("weights_linear", 3), ("bias_linear", 2))
    }
    cost = depthwise_cost

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x)
        values = self._values(output_grid(*x.shape[1:3], self.strides), x.shape[3])
        y = tv_conv(x, values["weights"].astype(x.dtype), strides=self.strides)
        return y + values["bias"].astype(x.dtype)[None] if self.use_bias else y

    def _values(self, grid: tuple[int, int], channels: int) -> dict[str, jax.Array]:
        """Return frozen or else computed ``weights [ho, wo, k*k, c]`` and, with a bias, ``bias [ho, wo, c]``."""
        shapes = {"weights": (*grid, self.kernel_size**2, channels)}
        if self.use_bias:
            shapes["bias"] = (*grid, channels)
        if frozen := frozen_values(self, shapes):
            return frozen
        check_built(self, "affinity", grid)
        maps, k = self.affinity_channels, self.kernel_size
        affinity = self.param("affinity", nn.initializers.ones, (*grid, maps), jnp.float32)

        def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Any:
            drawn = stacked(self.kernel_init)(key, (maps, k, k, 1, channels), dtype)
            return reboxed(drawn, unboxed(drawn).reshape(shape) * maps**-0.5, (0, None, 4))

        kernel = self.param("weights_linear", init, (maps, k * k, channels), jnp.float32)
        values = {"weights": linear_map(affinity, kernel)}
        if self.use_bias:
            bias = self.param("bias_linear", nn.initializers.zeros, (maps, channels), jnp.float32)
            values["bias"] = linear_map(affinity, bias)
        return values
