"""Operators with a kernel an image and pixel, made from the image."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax.nn.boxes import reboxed, unboxed
from tvconv_jax.nn.checks import check_grid, check_images
from tvconv_jax.nn.layers import GeneratedOperator, Shape, SpatialOperator, WeightGenerator, depthwise_cost
from tvconv_jax.nn.norm import BatchNorm
from tvconv_jax.nn.operators.dynamic import PixelDense, average_pool, dense_init, largest_divisor, pool_cost, pooled
from tvconv_jax.ops.dynamic_conv import dynamic_conv
from tvconv_jax.ops.generator import GENERATOR_NAMES
from tvconv_jax.ops.precision import upcast


class Involution(SpatialOperator):
    """Per-pixel kernels from the pixel itself, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``.

    Li, Hu, Wang, Li, She, Zhu, Zhang and Chen, "Involution: Inverting the Inherence of Convolution for Visual
    Recognition", CVPR 2021, section 3, Algorithm 1, https://arxiv.org/abs/2103.06255. Source of the authors:
    github.com/d-li14/involution (involution_naive.py).

        H[n, i, j, t, g] = W_1 relu(norm(W_0 x[n, i, j])),   y = x * H,   channel c uses g = c // group_channels

    With strides the kernels come from the input averaged over ``strides x strides`` pixels, as the authors have it.
    The start differs from theirs, for blocks without a shortcut: the bias of ``W_1`` is drawn as depthwise kernels and
    its weights are small, so it starts close to a depthwise convolution with kernels shared within a group. Zero
    weights of ``W_1`` give exactly that. Their groups have 16 channels; here the smallest divisor from 16 on.
    """

    has_norm = True

    reduction: int = 4  #: Channels to one of the hidden layer; the authors' 4.
    group_channels: int = 16  #: Channels that share a kernel, at least; the authors' 16.

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = check_images("x", x, self.dtype)
        n, height, width, channels = x.shape
        groups = largest_divisor(channels, channels // self.group_channels)
        hidden = max(1, channels // self.reduction)
        pooled = average_pool(x, self.strides)
        reduce = PixelDense(
            hidden,
            use_bias=False,
            kernel_init=self.kernel_init,
            dtype=x.dtype,
            param_dtype=self.param_dtype,
            name="reduce",
        )
        reduced = BatchNorm(activation="relu", param_dtype=self.param_dtype, name="norm")(reduce(pooled), train=train)

        def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Any:
            kernel = self.kernel_init(key, (self.kernel_size, self.kernel_size, 1, groups), dtype)
            return reboxed(kernel, unboxed(kernel).reshape(shape), (None,))

        size = self.kernel_size**2 * groups
        span = PixelDense(
            size, kernel_init=dense_init, bias_init=init, dtype=x.dtype, param_dtype=self.param_dtype, name="span"
        )
        kernels = span(reduced).reshape(*pooled.shape[:3], self.kernel_size**2, groups, 1)
        y = dynamic_conv(x.reshape(n, height, width, groups, -1), kernels, strides=self.strides)
        return y.reshape(pooled.shape)

    def cost(self, x: Shape, y: Shape) -> int:
        return pool_cost(self, x) + depthwise_cost(self, x, y)


def filter_norm(filters: jax.Array, axis: int) -> jax.Array:
    """Normalize to mean zero and standard deviation one over the taps, along ``axis``."""
    centered = filters - jnp.mean(filters, axis, keepdims=True)
    variance = jnp.sum(jnp.square(centered), axis, keepdims=True) / max(filters.shape[axis] - 1, 1)
    return centered * jax.lax.rsqrt(variance + 1e-10)


class DDF(SpatialOperator):
    """Per-pixel times per-channel dynamic filters, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``.

    Zhou, Jampani, Pi, Liu and Yang, "Decoupled Dynamic Filter Networks", CVPR 2021, section 3, Eq. 2-5,
    https://arxiv.org/abs/2104.14107. Source of the authors: github.com/theFoxofSky/ddfnet (ddf/ddf.py).

        S = norm(F_S x)[n, i, j, t],   D = norm(F_2 relu(F_1 pool(x)))[n, t, c] * scale[t, c]
        y[n, i, j, c] = sum_t S[n, i, j, t] D[n, t, c] x[n, i + t // k, j + t % k, c]

    ``norm`` (filter normalization) takes off the mean over the ``k*k`` taps of one filter and divides by their
    standard deviation (of a sample, ``k*k - 1``). It is not a batch norm, so it stays. Pixels' filters are multiplied
    by ``sqrt(2) / k``, channels' by learned scales that start from N(0, 2 / k^2), as in the authors' source. Its 1e-10
    is added to the variance here, so that a filter of equal taps has a finite gradient. Filters that do not depend on
    the input give a depthwise convolution, and here it starts close to one: the last biases of both branches are drawn,
    N(0, 2 / k^2), and their weights are small. Without that, blocks that have no shortcut hardly train.
    """

    squeeze: float = 0.2  #: Hidden channels of the channels' branch, as a share of ``c``; the paper's 0.2.

    scalable = ("scale",)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x, self.dtype)
        if self.kernel_size == 1:
            raise ValueError(
                "kernel_size=1 leaves a filter of one tap, and its norm makes it zero; it must be 3 or more."
            )
        n, channels, size = x.shape[0], x.shape[3], self.kernel_size**2
        gain = math.sqrt(2) / self.kernel_size
        strided = x[:, :: self.strides, :: self.strides]
        starts = {"kernel_init": dense_init, "bias_init": nn.initializers.normal(gain)}
        pixels = gain * filter_norm(
            upcast(PixelDense(size, **starts, dtype=x.dtype, param_dtype=self.param_dtype, name="pixels")(strided)), -1
        )
        context = pooled(x)
        hidden = max(1, int(channels * self.squeeze))
        hidden = nn.relu(
            nn.Dense(
                hidden, kernel_init=self.kernel_init, dtype=context.dtype, param_dtype=self.param_dtype, name="squeeze"
            )(context)
        )
        branch = nn.Dense(size * channels, **starts, dtype=context.dtype, param_dtype=self.param_dtype, name="channels")
        own = branch(hidden).reshape(n, size, channels)
        scale = self.param("scale", nn.initializers.normal(gain), (size, channels), self.param_dtype)
        own = filter_norm(own, 1) * scale.astype(context.dtype)[None]
        return dynamic_conv(x, pixels[..., None], own[:, None, None], strides=self.strides)

    def cost(self, x: Shape, y: Shape) -> int:
        """Count average, ReLU, both filters' norms and two products per tap and element."""
        taps, hidden = self.kernel_size**2, max(1, int(x[-1] * self.squeeze))
        norms = 2 * taps * (math.prod(y[:-1]) + x[0] * x[-1])
        return math.prod(x) + x[0] * hidden + norms + 2 * taps * math.prod(y)


# The same generator for all images. Its convolutions are products over gathered pixels, so this is one large product.
EachImage = nn.vmap(WeightGenerator, variable_axes={"params": None}, split_rngs={"params": False})


class TVConvDynamic(GeneratedOperator):
    """TVConv with affinity maps of the input's own, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``.

    Chen et al., "TVConv: Efficient Translation Variant Convolution for Layout-aware Visual Processing", CVPR 2022,
    section 3.3, https://arxiv.org/abs/2203.10489: the limit in which TVConv becomes a per-pixel dynamic convolution.

        A(x) = F x + b,   W(x) = B(A(x)),   y[n, i, j, c] = sum_t W(x)[n, i, j, t, c] x[n, i + t // k, j + t % k, c]

    The paper does not say how the maps come from the input. Here a linear layer yields them at every pixel, after an
    average over ``strides x strides`` pixels; it starts with zero weights and biases of 1, so that the operator starts
    as TVConv does. Maps that do not depend on the input give TVConv. The generator runs for every image, and its
    kernels are ``k*k`` times as large as the output: it is for comparison, not for deployment.
    """

    scalable = tuple(
        f"{name}_{suffix}/out/kernel" for name in ("kernels", "biases") for suffix in GENERATOR_NAMES.values()
    )

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x, self.dtype)
        starts = {"kernel_init": nn.initializers.zeros, "bias_init": nn.initializers.ones}
        to_maps = nn.Dense(self.affinity_channels, **starts, dtype=x.dtype, param_dtype=self.param_dtype, name="maps")
        maps, channels = upcast(to_maps(average_pool(x, self.strides))), x.shape[3]
        y = dynamic_conv(x, self._generate("kernels", maps, (self.kernel_size**2, channels)), strides=self.strides)
        return y + self._generate("biases", maps, (channels,)).astype(x.dtype) if self.use_bias else y

    def _generate(self, name: str, maps: jax.Array, features: Shape) -> jax.Array:
        """Transform maps ``[n, ho, wo, a]`` -> ``[n, ho, wo, *features]``."""
        if params := self.get_variable("params", self.generator_name(name)):
            check_grid(self, unboxed(params["block_0"]["scale"]).shape, maps.shape[1:3])
        return self.generator(name, features, EachImage)(maps)

    def cost(self, x: Shape, y: Shape) -> int:
        """Count average, generators with norms and ReLUs at every position of every image, and the convolution."""
        hidden, layers, inputs = self.hidden_channels, self.hidden_layers, self.affinity_channels
        blocks = 9 * hidden * (inputs + layers * hidden) + 3 * hidden * (layers + 1)
        last = 9 * hidden * (self.kernel_size**2 + self.use_bias) * x[-1]
        generators = math.prod(y[:-1]) * ((1 + self.use_bias) * blocks + last)
        return pool_cost(self, x) + generators + depthwise_cost(self, x, y)
