"""Weights of torchvision's MobileNetV2 for the backbone of DeepLabV3+ as numpy arrays."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from tvconv_jax.convert.reference import CONV, by_name, check_names, conv_norm, inverted_residual, without_buffers
from tvconv_jax.models.mobilenetv2 import blocks
from tvconv_jax.utils.errors import UserError


def backbone_from_torchvision(state_dict: Mapping[str, np.ndarray], variables: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the backbone in DeepLabV3+'s variables by torchvision's ``mobilenet_v2`` (ImageNet).

    Args:
        state_dict: Its ``state_dict`` as numpy arrays. Its last convolution and its classifier are left out; every
            other name must fit.
        variables: ``{"params": ..., "batch_stats": ...}`` of the model.

    Raises:
        UserError: If names or shapes do not fit; both sides are listed.
    """
    layers = [*conv_norm("features.0", ("backbone", "stem"), CONV)]
    for i, row in enumerate(blocks(), start=1):
        layers += inverted_residual(f"features.{i}.conv", ("backbone", row.name), row.expansion, CONV)
    tensors = by_name(layers)
    left_out = (f"features.{i + 1}.", "classifier.")
    state = {name: value for name, value in without_buffers(state_dict).items() if not name.startswith(left_out)}
    flat = flatten_dict(dict(variables))
    try:
        check_names("the state dict", set(state), set(tensors))
        for name, tensor in tensors.items():
            value = np.ascontiguousarray(tensor.to_flax(np.asarray(state[name])), flat[tensor.flax].dtype)
            if value.shape != flat[tensor.flax].shape:
                raise ValueError(f"{name} has shape {state[name].shape}, not that of MobileNetV2 of width 1.")
            flat[tensor.flax] = value
    except ValueError as error:
        raise UserError(f"config.model.pretrained: {error}") from None
    return unflatten_dict(flat)
