"""Dynamic TVConv: the affinity maps come from the input, so every image has its own kernel at every pixel.

Chen et al., "TVConv: Efficient Translation Variant Convolution for Layout-aware Visual Processing", CVPR 2022,
section 3.3, https://arxiv.org/abs/2203.10489: the limit in which TVConv becomes a per-pixel dynamic convolution.

    A(x) = F x + b,   W(x) = B(A(x)),   y[n, i, j, c] = sum_t W(x)[n, i, j, t, c] x[n, i + t // k, j + t % k, c]

The paper does not say how the maps come from the input. Here a linear layer yields them at every pixel, after an
average over ``strides x strides`` pixels; it starts with zero weights and biases of 1, so that the operator starts
as TVConv does. Maps that do not depend on the input give TVConv. The generator runs for every image, and its
kernels are ``k*k`` times as large as the output: it is for comparison, not for deployment.
"""

import math

import flax.linen as nn
import jax

from tvconv_jax.nn.boxes import unboxed
from tvconv_jax.nn.checks import check_grid, check_images
from tvconv_jax.nn.layers import GENERATOR_NAMES, GeneratedOperator, Shape, WeightGenerator, depthwise_cost
from tvconv_jax.nn.operators.dynamic import average_pool, pool_cost
from tvconv_jax.ops.dynamic_conv import dynamic_conv
from tvconv_jax.ops.precision import upcast

# The same generator for all images. Its convolutions are products over gathered pixels, so this is one large product.
EachImage = nn.vmap(WeightGenerator, variable_axes={"params": None}, split_rngs={"params": False})


class TVConvDynamic(GeneratedOperator):
    """TVConv with affinity maps of the input's own, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``."""

    scalable = tuple(
        f"{name}_{suffix}/out/kernel" for name in ("kernels", "biases") for suffix in GENERATOR_NAMES.values()
    )

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x)
        to_maps = nn.Dense(
            self.affinity_channels,
            kernel_init=nn.initializers.zeros,
            bias_init=nn.initializers.ones,
            dtype=x.dtype,
            name="maps",
        )
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
