"""Weights of the PyTorch reference and of torchvision, and PyTorch files read without running code."""

from tvconv_jax.convert.reference import from_torch, to_torch

__all__ = ["from_torch", "to_torch"]
