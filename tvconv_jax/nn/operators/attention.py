"""Operators of self-attention: in a window around every pixel, or along its column and its row."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tvconv_jax.nn.boxes import unboxed
from tvconv_jax.nn.checks import Checked, check_grid, check_images
from tvconv_jax.nn.layers import Shape, SpatialOperator
from tvconv_jax.nn.norm import BatchNorm
from tvconv_jax.nn.operators.dynamic import average_pool, head_count, pool_cost, stacked
from tvconv_jax.ops.dynamic_conv import taps
from tvconv_jax.ops.precision import upcast


class SASA(SpatialOperator):
    """Local self-attention, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``.

    Ramachandran, Parmar, Vaswani, Bello, Levskaya and Shlens, "Stand-Alone Self-Attention in Vision Models",
    NeurIPS 2019, section 3, Eq. 2 and 3, https://arxiv.org/abs/1906.05909. Source of the authors:
    github.com/google-research/google-research, standalone_self_attention_in_vision_models.

        y[i, j] = sum_{a, b in the window} softmax_ab(q[i, j] . k[a, b] + q[i, j] . r[a - i, b - j]) v[a, b]

    ``r`` joins an embedding of the row's offset and one of the column's. The channels are split among the heads, each
    with its own query, key and value matrix on its own share. Logits are not scaled, as in the paper; queries start
    small instead, or attention starts so sharp that it hardly trains. With strides, the output is averaged, as there.
    Pixels outside the image get no attention, so zero queries give the mean of the values in the window.
    """

    heads: int = 8  #: Most heads; the paper's 8. Fewer, where they would not divide the channels.

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = check_images("x", x, self.dtype)
        n, height, width, channels = x.shape
        heads = head_count(channels, self.heads)
        size = channels // heads
        split = x.reshape(n, height, width, heads, size)

        def project(name: str, init: nn.initializers.Initializer = self.kernel_init) -> jax.Array:
            matrix = self.param(name, stacked(init), (heads, size, size), self.param_dtype)
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
        rows = self.param("rows", init, (k, heads, size // 2), self.param_dtype)
        columns = self.param("columns", init, (k, heads, size - size // 2), self.param_dtype)
        rows = jnp.broadcast_to(rows[:, None], (k, k, *rows.shape[1:]))
        columns = jnp.broadcast_to(columns[None], (k, k, *columns.shape[1:]))
        return jnp.concatenate([rows, columns], axis=-1).reshape(k * k, heads, size)

    def cost(self, x: Shape, y: Shape) -> int:
        """Count three projections within each head, logits, softmax, the sum of values and the average."""
        taps, heads = self.kernel_size**2, head_count(x[-1], self.heads)
        projections = 3 * math.prod(x) * (x[-1] // heads)
        return projections + 2 * taps * math.prod(x) + 2 * taps * heads * math.prod(x[:-1]) + pool_cost(self, x)


class AxisAttention(Checked):
    """Self-attention along one axis, ``[n, h, w, c]`` -> ``[n, h, w, c]``."""

    axis: int  #: 1 (each column) or 2 (each row).
    heads: int  #: Most heads.
    kernel_init: nn.initializers.Initializer  #: Initializer of the projection.
    param_dtype: Any = jnp.float32  #: Dtype of the parameters.

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        length, channels = x.shape[self.axis], x.shape[3]
        heads = head_count(channels, self.heads)
        size = channels // heads
        half = max(1, size // 2)
        projection = nn.Dense(
            heads * (2 * half + size),
            use_bias=False,
            kernel_init=self.kernel_init,
            dtype=x.dtype,
            param_dtype=self.param_dtype,
            name="project",
        )
        projected = BatchNorm(param_dtype=self.param_dtype, name="norm_project")(projection(x), train=train)
        lines = jnp.swapaxes(projected, 2, self.axis)  # [n, other axis, this axis, channels]
        parts = upcast(lines.reshape(*lines.shape[:3], heads, -1))
        query, key, value = jnp.split(parts, (half, 2 * half), axis=-1)
        rq, rk = (self._relative(name, length, half, parts.dtype) for name in ("rq", "rk"))
        rv = self._relative("rv", length, size, parts.dtype)

        logits = [
            jnp.einsum("nbomd,nbpmd->nbopm", query, key),
            jnp.einsum("nbomd,opd->nbopm", query, rq),
            jnp.einsum("nbpmd,opd->nbopm", key, rk),
        ]
        logits = BatchNorm(param_dtype=self.param_dtype, name="norm_logits")(jnp.concatenate(logits, -1), train=train)
        shares = nn.softmax(sum(jnp.split(logits, 3, -1)), axis=3)

        terms = [jnp.einsum("nbopm,nbpmd->nbomd", shares, value), jnp.einsum("nbopm,opd->nbomd", shares, rv)]
        joined = jnp.concatenate([term.reshape(lines.shape[:3] + (channels,)) for term in terms], -1)
        y = sum(jnp.split(BatchNorm(param_dtype=self.param_dtype, name="norm_out")(joined, train=train), 2, -1))
        return jnp.swapaxes(y, 2, self.axis).astype(x.dtype)

    def _relative(self, name: str, length: int, size: int, dtype: jnp.dtype) -> jax.Array:
        """Return embeddings of ``p - o`` as ``[o, p, size]``, out of ``2 * length - 1`` of them."""
        if self.has_variable("params", name):
            check_grid(self, ((unboxed(self.get_variable("params", name)).shape[0] + 1) // 2,), (length,))
        table = self.param(name, nn.initializers.normal(size**-0.5), (2 * length - 1, size), self.param_dtype)
        position = np.arange(length)
        return table[position[None] - position[:, None] + length - 1].astype(dtype)

    def cost(self, x: Shape, y: Shape) -> int:
        """Count logits in three terms, softmax and values in two terms."""
        length, heads = x[self.axis], head_count(x[-1], self.heads)
        half = max(1, x[-1] // heads // 2)
        return length * (math.prod(x[:-1]) * heads * (3 * half + 2) + 2 * math.prod(x))


class Axial(SpatialOperator):
    """Self-attention along h, then along w, ``[n, h, w, c]`` -> ``[n, ho, wo, c]``.

    Wang, Zhu, Green, Adam, Yuille and Chen, "Axial-DeepLab: Stand-Alone Axial-Attention for Panoptic Segmentation",
    ECCV 2020, section 3.2, Eq. 4, https://arxiv.org/abs/2003.07853 (position-sensitive; the idea is Ho et al. 2019's,
    https://arxiv.org/abs/1912.12180). Source of the authors: github.com/csrhddlam/axial-deeplab.

        y[o] = sum_p softmax_p(q[o] . k[p] + q[o] . rq[p - o] + k[p] . rk[p - o]) (v[p] + rv[p - o])

    ``p`` runs over the whole axis, so the embeddings ``r``, which the heads share, belong to the grid. Queries and keys
    have half the channels of values. With strides, the output is averaged, as there. Batch norms, as the authors have
    them, follow the projection, each term of the logits (by head) and both terms of the output (by channel). Zero
    queries and zero ``rk`` give the mean over the axis.
    """

    has_norm = True

    heads: int = 8  #: Most heads; the paper's 8. Fewer, where they would not divide the channels.

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = check_images("x", x, self.dtype)
        x = AxisAttention(1, self.heads, self.kernel_init, self.param_dtype, name="along_h")(x, train=train)
        x = AxisAttention(2, self.heads, self.kernel_init, self.param_dtype, name="along_w")(x, train=train)
        return average_pool(x, self.strides)

    def cost(self, x: Shape, y: Shape) -> int:
        return pool_cost(self, x)
