"""Weights of torchvision's MobileNetV2 for the backbone of DeepLabV3+, read without executing anything."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from tvconv_jax.convert import BOOKKEEPING, CONV, blocks_of, by_name, check_names, conv_norm, inverted_residual
from tvconv_jax.errors import UserError


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a ``.pth`` file; nothing in it is executed.

    Args:
        path: What ``torch.save(state_dict)`` wrote.

    Raises:
        UserError: If PyTorch is missing, the file cannot be read, wants code, or is no ``state_dict`` of plain tensors.
    """
    try:
        import torch
    except ImportError:
        raise UserError(f"{path} needs PyTorch to be read; pip install 'tvconv_jax[torch]'.") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; name a .pth file of weights.") from None
    except (pickle.UnpicklingError, EOFError) as error:
        if wanted := re.findall(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(f"{path} wants to run code ({wanted[0]}); only files of weights are read.") from None
        raise UserError(
            f"{path} is no file of PyTorch weights, or is damaged; name another, or copy it again."
        ) from None
    except Exception as error:  # whatever a damaged file makes of PyTorch
        raise UserError(f"{path} is no file of PyTorch weights ({first_line(error)}); name another.") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state_dict (names and tensors); save model.state_dict().")
    return {str(name): _array(path, name, value) for name, value in state.items()}


def first_line(error: Exception) -> str:
    """Of what it says; its kind, if it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _array(path: Path, name: str, tensor: Any) -> np.ndarray:
    """The numbers of a tensor of PyTorch; of bfloat16, which numpy lacks, as float32."""
    try:
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError("it is larger than its storage")
        tensor = tensor.detach()
        return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: {name} cannot be read ({first_line(error)}); save it as a plain tensor.") from None


def backbone_from_torchvision(state_dict: Mapping[str, np.ndarray], variables: Mapping[str, Any]) -> dict[str, Any]:
    """DeepLabV3+'s variables with the backbone of torchvision's ``mobilenet_v2`` (ImageNet).

    Args:
        state_dict: Its ``state_dict`` as numpy arrays. Its last convolution and its classifier have no place here and
            are left out; every other name must fit.
        variables: ``{"params": ..., "batch_stats": ...}`` of the model.

    Returns:
        Variables with ``backbone`` replaced.

    Raises:
        UserError: If names or shapes do not fit; both sides are listed.
    """
    layers, blocks = [*conv_norm("features.0", ("backbone", "stem"), CONV)], blocks_of()
    for i, (_, expansion) in enumerate(blocks, start=1):
        layers += inverted_residual(f"features.{i}.conv", ("backbone", f"block_{i}"), expansion, CONV)
    tensors = by_name(layers)
    left_out = (f"features.{len(blocks) + 1}.", "classifier.")
    state = {
        name: value
        for name, value in state_dict.items()
        if name.split(".")[-1] not in BOOKKEEPING and not name.startswith(left_out)
    }
    flat = flatten_dict({name: value for name, value in variables.items()})
    try:
        check_names("the state dict", set(state), set(tensors))
        for name, tensor in tensors.items():
            value = np.ascontiguousarray(tensor.to_flax(np.asarray(state[name])), flat[tensor.flax].dtype)
            if value.shape != flat[tensor.flax].shape:
                raise ValueError(f"{name} has shape {state[name].shape}, which is not that of MobileNetV2 of width 1.")
            flat[tensor.flax] = value
    except ValueError as error:
        raise UserError(f"config.model.pretrained: {error}") from None
    return unflatten_dict(flat)
