"""Stand-alone self-attention: every pixel attends to the window around it.

Ramachandran, Parmar, Vaswani, Bello, Levskaya and Shlens, "Stand-Alone Self-Attention in Vision Models",
NeurIPS 2019, section 3, Eq. 2 and 3, https://arxiv.org/abs/1906.05909. Source of the authors:
github.com/google-research/google-research, standalone_self_attention_in_vision_models.

    y[i, j] = sum_{a, b in the window} softmax_ab(q[i, j] . k[a, b] + q[i, j] . r[a - i, b - j]) v[a, b]

``r`` joins an embedding of the row's offset and one of the column's. The channels are split among the heads, each
with its own query, key and value matrix on its own share. Logits are not scaled, as in the paper; queries start small
instead, or attention starts so sharp that it hardly trains. With strides, the output is averaged, as there. Pixels
outside the image get no attention (with zero padding they would, by a logit of zero), so zero queries give the mean of
the values in the window.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax.nn.checks import check_images
from tvconv_jax.nn.layers import Shape, SpatialOperator
from tvconv_jax.nn.operators.dynamic import average_pool, head_count, pool_cost, stacked
from tvconv_jax.ops.dynamic_conv import taps
from tvconv_jax.ops.precision import upcast


class SASA(SpatialOperator):
    """Local self-attention, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``."""

    heads: int = 8  #: Most heads; the paper's 8. Fewer, where they would not divide the channels.

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x)
        n, height, width, channels = x.shape
        heads = head_count(channels, self.heads)
        size = channels // heads
        split = x.reshape(n, height, width, heads, size)

        def project(name: str, init: nn.initializers.Initializer = self.kernel_init) -> jax.Array:
            matrix = self.param(name, stacked(init), (heads, size, size), jnp.float32)
            return jnp.einsum("nhwmd,mde->nhwme", split, matrix.astype(x.dtype))

        query = upcast(project("query", nn.initializers.normal(1 / size)))
        keys, values = (taps(project(name), self.kernel_size) for name in ("key", "value"))
        offsets = self._offsets(heads, size).astype(query.dtype)
        logits = [jnp.sum(query * (upcast(k) + r[None, None, None]), -1) for k, r in zip(keys, offsets, strict=True)]
        inside = jnp.stack(taps(jnp.ones((1, height, width, 1), bool), self.kernel_size), axis=-1)
        shares = nn.softmax(jnp.where(inside, jnp.stack(logits, axis=-1), -jnp.inf))
        terms = (shares[..., t, None] * upcast(value) for t, value in enumerate(values))
        y = functools.reduce(jnp.add, terms).reshape(x.shape).astype(x.dtype)
        return average_pool(y, self.strides)

    def _offsets(self, heads: int, size: int) -> jax.Array:
        """Return relative position embeddings ``[k*k, heads, size]``: the first half of ``size`` the row's."""
        k, init = self.kernel_size, nn.initializers.normal(size**-0.5)
        rows = self.param("rows", init, (k, heads, size // 2), jnp.float32)
        columns = self.param("columns", init, (k, heads, size - size // 2), jnp.float32)
        rows = jnp.broadcast_to(rows[:, None], (k, k, *rows.shape[1:]))
        columns = jnp.broadcast_to(columns[None], (k, k, *columns.shape[1:]))
        return jnp.concatenate([rows, columns], axis=-1).reshape(k * k, heads, size)

    def cost(self, x: Shape, y: Shape) -> int:
        """Count three projections within each head, logits, softmax, the sum of values and the average."""
        taps, heads = self.kernel_size**2, head_count(x[-1], self.heads)
        projections = 3 * math.prod(x) * (x[-1] // heads)
        return projections + 2 * taps * math.prod(x) + 2 * taps * heads * math.prod(x[:-1]) + pool_cost(self, x)
