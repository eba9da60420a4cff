"""Pure functions with gradients of their own; they know no layer."""

from tvconv_jax.ops.tv_conv import depthwise_conv, tv_conv

__all__ = ["depthwise_conv", "tv_conv"]
