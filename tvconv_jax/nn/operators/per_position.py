"""Operators with a kernel a position, the same for all images, as TVConv's."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax.nn.boxes import reboxed, unboxed
from tvconv_jax.nn.checks import check_built, check_images
from tvconv_jax.nn.freeze import AFFINITY_AXES
from tvconv_jax.nn.layers import (
    GeneratedOperator,
    Shape,
    SpatialOperator,
    depthwise_cost,
    freeze_generators,
    position_conv,
    position_values,
)
from tvconv_jax.nn.operators.dynamic import stacked
from tvconv_jax.ops.precision import upcast
from tvconv_jax.ops.tv_conv import depthwise_conv, output_grid, tv_conv


class LocallyConnected(SpatialOperator):
    """Depthwise convolution with a parameter per pixel, tap and channel, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``.

    Chen et al., "TVConv: Efficient Translation Variant Convolution for Layout-aware Visual Processing", CVPR 2022,
    section 3.1, Eq. 2, https://arxiv.org/abs/2203.10489: the kernels that TVConv factors into maps and a generator.

        y[n, i, j, c] = sum_t weights[i, j, t, c] x[n, i + t // k, j + t % k, c]

    All kernels start equal, as a depthwise convolution; the paper gives no start. Nothing is frozen.
    """

    use_bias: bool = False  #: Whether a bias per position and channel is added.

    cost = depthwise_cost

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x, self.dtype)
        grid, channels = output_grid(*x.shape[1:3], self.strides), x.shape[3]
        check_built(self, "weights", grid)

        def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Any:
            kernel = self.kernel_init(key, (self.kernel_size, self.kernel_size, 1, channels), dtype)
            everywhere = jnp.broadcast_to(unboxed(kernel).reshape(1, 1, -1, channels), shape)
            return reboxed(kernel, everywhere, (None, None, None, 3))

        weights = self.param("weights", init, (*grid, self.kernel_size**2, channels), self.param_dtype)
        y = tv_conv(x, weights.astype(x.dtype), strides=self.strides)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (*grid, channels), self.param_dtype).astype(x.dtype)[None]
        return y


def _linear_map(affinity: jax.Array, kernel: jax.Array) -> jax.Array:
    """Map affinity maps ``[ho, wo, a]`` by ``[a, ...]`` -> ``[ho, wo, ...]``, in float32 or better."""
    return jnp.tensordot(upcast(affinity), upcast(kernel), axes=1)


def _freeze_linear(params: Any, affinity: jax.Array, *, axes: int) -> tuple[Callable[..., jax.Array], Any] | None:
    """Accept an array with the axes of a linear map and a row per affinity map; their order is checked later."""
    if isinstance(params, Mapping):
        return None
    kernel, copies = unboxed(params), affinity.ndim - AFFINITY_AXES
    if kernel.ndim != axes + copies or affinity.shape[-1] not in kernel.shape:
        return None
    return lambda kernel, affinity: _linear_map(affinity, kernel), params


class TVConvLinear(SpatialOperator):
    """Translation-variant convolution without a hidden block, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``.

    Chen et al., "TVConv: Efficient Translation Variant Convolution for Layout-aware Visual Processing", CVPR 2022,
    section 3.1, Eq. 3, https://arxiv.org/abs/2203.10489: ``W' = B' A'``, the decomposition that TVConv's
    weight-generating block makes non-linear.

        W[i, j, t, c] = sum_a A[i, j, a] B[a, t, c]

    As in TVConv the maps start at 1. Every row of ``B`` is drawn as a depthwise kernel and divided by the root of their
    number, so that it starts exactly as a depthwise convolution starts. The paper gives no start.
    """

    affinity_channels: int = 4  #: Affinity maps, and rows of ``B``.
    use_bias: bool = False  #: Whether a bias per position and channel, made likewise, is added.

    generated = {
        "weights_linear": functools.partial(_freeze_linear, axes=3),  # [affinity_channels, k*k, c]
        "bias_linear": functools.partial(_freeze_linear, axes=2),  # [affinity_channels, c]
    }
    cost = depthwise_cost

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x, self.dtype)
        values = position_values(self, x, weights=(self.kernel_size**2, x.shape[3]))
        return position_conv(x, values, self.strides)

    def values(self, grid: Shape, **features: Shape) -> dict[str, jax.Array]:
        """Return linear maps of the affinity maps, ``[*grid, *shape]``, by name."""
        shape = (*grid, self.affinity_channels)
        affinity = self.param("affinity", nn.initializers.ones, shape, self.param_dtype)
        return {name: _linear_map(affinity, self._kernel(name, values)) for name, values in features.items()}

    def _kernel(self, name: str, features: Shape) -> jax.Array:
        """Return the linear map of affinity maps to values of the shape ``features`` at every position."""

        def init(key: jax.Array, shape: Shape, dtype: jnp.dtype) -> Any:
            size, channels = self.kernel_size, shape[-1]
            drawn = stacked(self.kernel_init)(key, (shape[0], size, size, 1, channels), dtype)
            return reboxed(drawn, unboxed(drawn).reshape(shape) * shape[0] ** -0.5, (0, None, 4))

        start = nn.initializers.zeros if name == "bias" else init
        return self.param(f"{name}_linear", start, (self.affinity_channels, *features), self.param_dtype)


class TVConvLowrank(GeneratedOperator):
    """Sum of ``rank`` depthwise convolutions times generated gains, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``.

    Ours. Trained TVConv kernels are, per channel, a matrix of taps by pixels of nearly rank 1 or 2. The generator of
    Chen et al., CVPR 2022, section 3.2, https://arxiv.org/abs/2203.10489, yields the gains.

        W[i, j, t, c] = sum_r G[i, j, r, c] K[r, t, c],   G = B(A),   so   y = sum_r G_r * (x convolved with K_r)

    It costs ``rank`` depthwise convolutions and as many products, in training too. Rank ``k*k`` can be any TVConv;
    rank 1 with equal gains is the depthwise convolution. Frozen, gains and kernels are kept.
    """

    rank: int = 2  #: Depthwise kernels per channel; ``kernel_size**2`` of them can be any TVConv.

    generated = freeze_generators("gains", "bias")

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x, self.dtype)
        channels = x.shape[3]
        shape = (self.rank, self.kernel_size, self.kernel_size, 1, channels)
        kernels = self.param("kernel", stacked(self.kernel_init), shape, self.param_dtype)
        kernels = kernels.reshape(self.rank, -1, channels).astype(x.dtype)
        values = position_values(self, x, gains=(self.rank, channels))
        terms = (
            upcast(depthwise_conv(x, kernels[r], strides=self.strides)) * upcast(values["gains"][None, :, :, r])
            for r in range(self.rank)
        )
        y = functools.reduce(jnp.add, terms).astype(x.dtype)
        return y + values["bias"].astype(x.dtype)[None] if self.use_bias else y

    def cost(self, x: Shape, y: Shape) -> int:
        return math.prod(y) * (self.rank * (self.kernel_size**2 + 1) + self.use_bias)
