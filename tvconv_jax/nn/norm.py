"""Batch normalization with PyTorch's statistics."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tvconv_jax.nn.checks import Checked
from tvconv_jax.ops.batch_norm import Activation, activate, affine, batch_norm
from tvconv_jax.ops.norm_pointwise import norm_pointwise
from tvconv_jax.ops.pointwise_norm import pointwise_norm
from tvconv_jax.ops.precision import upcast

EPSILON = 1e-5  # of every batch norm of the models


class BatchNorm(Checked):
    """Batch normalization over all axes but the last, with PyTorch's statistics.

    The biased variance normalizes the batch, and the *unbiased* one enters the running average; in
    ``flax.linen.BatchNorm`` the biased one does.

    Source: Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167; ``torch.nn.BatchNorm2d``.
    """

    takes_groups = True  # a batch may be cut into groups, each with its own statistics

    momentum: float = 0.9  #: Weight of the old running average (PyTorch's ``1 - momentum``).
    epsilon: float = EPSILON  #: Added to the variance.
    activation: Activation = "identity"  #: Applied to the output: ``"identity"``, ``"relu"`` or ``"relu6"``.
    dtype: Any = None  #: Dtype of the output; ``None``: the input's. Statistics are float32.
    param_dtype: Any = jnp.float32  #: Dtype of the parameters.

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool,
        groups: int = 1,
        kernel: jax.Array | None = None,
        next_kernel: jax.Array | None = None,
    ) -> jax.Array:
        """Return ``[n, ..., c]``; in training, ``groups`` equal parts of the batch have statistics of their own.

        In training, with the ``kernel [b, c]`` of a 1x1 convolution, ``x`` may be its input ``[n, ..., b]``; with the
        ``next_kernel [c, d]`` of one that follows, its output ``[n, ..., d]`` is returned.

        Raises:
            ValueError: If a channel has a single value while training.
        """
        x = x if self.dtype is None else x.astype(self.dtype)
        features = (x if kernel is None else kernel).shape[-1]
        scale = upcast(self.param("scale", nn.initializers.ones, (features,), self.param_dtype))
        bias = upcast(self.param("bias", nn.initializers.zeros, (features,), self.param_dtype))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (features,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (features,), jnp.float32)
        if not train:
            factor = scale * jax.lax.rsqrt(var.value + self.epsilon)
            return activate(affine(x, factor, bias - mean.value * factor), self.activation).astype(x.dtype)
        normalize = batch_norm if kernel is None else functools.partial(pointwise_norm, kernel=kernel)
        normalize = normalize if next_kernel is None else functools.partial(norm_pointwise, kernel=next_kernel)
        y, batch_mean, batch_var = normalize(
            x, scale=scale, bias=bias, epsilon=self.epsilon, activation=self.activation, groups=groups
        )
        if not self.is_initializing():
            unbiased = batch_var * _bessel(x.size // x.shape[-1] // groups, x.shape)
            for running, of_batch in ((mean, batch_mean), (var, unbiased)):
                of_batch = of_batch.astype(running.value.dtype)
                running.value = self.momentum * running.value + (1 - self.momentum) * of_batch
        return y

    def cost(self, x: tuple[int, ...], y: tuple[int, ...]) -> int:
        return math.prod(y) * (2 + (self.activation != "identity"))


def _bessel(count: Any, shape: tuple[int, ...]) -> Any:
    """Return Bessel's correction ``count / (count - 1)``; ``count`` may be symbolic.

    Raises:
        ValueError: For a single value: its normalized value is always 0. PyTorch refuses it too.
    """
    if not isinstance(count, int):
        count = jnp.asarray(count).astype(jnp.float32)
        return count / jnp.maximum(count - 1, 1)
    if count == 1:
        raise ValueError(
            f"x of {shape} has one value per channel in a group, and one value has no variance: train on more images."
        )
    return count / max(count - 1, 1)


def factor_and_offset(arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return a trained norm as ``x * factor + offset``, from its parameters and its statistics."""
    factor = arrays["scale"] / np.sqrt(arrays["var"] + EPSILON)
    return factor, arrays["bias"] - arrays["mean"] * factor
