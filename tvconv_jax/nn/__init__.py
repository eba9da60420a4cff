"""Linen layers: TVConv, DepthwiseConv, WeightGenerator, norms, and freeze."""
