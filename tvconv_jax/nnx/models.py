"""The models as ``flax.nnx`` modules: linen's variables as NNX variables, and linen's functions on them."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from flax.errors import InvalidRngError, ScopeCollectionNotFound, ScopeParamNotFoundError, ScopeParamShapeError

from tvconv_jax.models.registry import create_model as create_linen
from tvconv_jax.nn.functional import check_grid_size
from tvconv_jax.nnx.variables import get_variables, param_key, set_variables
from tvconv_jax.ops.checks import is_integer


class LinenModel(nnx.Module):
    """An NNX module that computes as a linen module does, with its variables as attributes under linen's names.

    ``params`` are ``nnx.Param``, ``batch_stats`` are ``nnx.BatchStat``: ``model.block_1["conv"]["affinity"]``. It holds
    no random state.

    Args:
        linen_module: The linen module.
        variables: ``params`` and other collections, as ``linen_module.init`` returns them.

    Raises:
        ValueError: If a variable has the name of a method.
    """

    def __init__(self, linen_module: nn.Module, variables: Mapping[str, Any]) -> None:
        self.linen_module = linen_module
        self.use_running_average = True  #: As in ``nnx.BatchNorm``; ``train()`` and ``eval()`` set it.
        for name in {name for tree in variables.values() for name in tree}:
            if hasattr(self, name):
                raise ValueError(
                    f"a variable is named {name!r}, as an attribute of NNX modules is; rename it in linen."
                )
        set_variables(self, variables)

    def __call__(
        self, *args: Any, train: bool | None = None, rngs: nnx.Rngs | jax.Array | None = None, **kwargs: Any
    ) -> Any:
        """Return what the linen module returns; in training, running statistics are updated in place.

        Args:
            *args: Inputs of the linen module: for a model images ``[n, h, w, 3]`` in [-1, 1].
            train: Whether to train. ``None``: after ``train()``, but not after ``eval()`` or in a new model.
            rngs: ``nnx.Rngs`` or a key for dropout, which DeepLabV3+ has in training.
            **kwargs: Passed to the linen module.

        Raises:
            ValueError: If dropout needs ``rngs``, or the variables are those of another module; otherwise as the
                linen module.
        """
        train = not self.use_running_average if train is None else train
        if "train" in inspect.signature(type(self.linen_module).__call__).parameters:
            kwargs["train"] = train
        key = rngs.dropout() if isinstance(rngs, nnx.Rngs) else rngs
        keys = {} if key is None else {"dropout": key}
        mutable = ["batch_stats"] if train else False
        try:
            outputs = self.linen_module.apply(get_variables(self), *args, rngs=keys, mutable=mutable, **kwargs)
        except InvalidRngError as error:
            kind = type(self.linen_module).__name__
            raise ValueError(f"{kind} has dropout in training: call it with rngs=nnx.Rngs(0) or a key.") from error
        except (ScopeParamNotFoundError, ScopeParamShapeError, ScopeCollectionNotFound) as error:
            kind, reason = type(self.linen_module).__name__, str(error).partition(" (https")[0]
            raise ValueError(f"{kind} does not belong to these variables, or to this input: {reason}") from error
        if not train:
            return outputs
        outputs, updates = outputs
        for path, value in nnx.traversals.flatten_mapping(updates.get("batch_stats", {})).items():
            self._variable(path).set_value(value)
        return outputs

    def set_view(self, use_running_average: bool | None = None) -> None:
        """Set the mode of a view, see ``nnx.view``."""
        if use_running_average is not None:
            self.use_running_average = use_running_average

    def _variable(self, path: Sequence[str]) -> nnx.Variable[jax.Array]:
        node = getattr(self, path[0])
        for name in path[1:]:
            node = node[name]
        return node


def create_model(
    name: str,
    image_size: int | tuple[int, int],
    *,
    width: float = 1.0,
    operator: str | None = None,
    stages: Sequence[int] | None = None,
    rngs: nnx.Rngs,
    **fields: Any,
) -> LinenModel:
    """Build a model by name, with parameters for images of a size.

    Args:
        name: As all others but the following, see :func:`tvconv_jax.create_model`.
        image_size: Size of the images, one number or ``(height, width)``. Models with TVConv belong to it.
        width: Multiplier of the channels.
        operator: Spatial operator.
        stages: Stages that get ``operator``.
        rngs: Draws the parameters: a key of its stream ``params``. It is not kept.
        **fields: Of the model and of the operator.

    Returns:
        A module with the linen model's variables under the same names: ``model(images)`` for inference,
        ``model(images, train=True)`` or, after ``model.train()``, ``model(images)`` in training.

    Raises:
        ValueError: As :func:`tvconv_jax.create_model`, for an image size that is not positive, and for no ``rngs``.
    """
    module = create_linen(name, width=width, operator=operator, stages=stages, **fields)
    height, width_ = check_grid_size("image_size", (image_size,) * 2 if is_integer(image_size) else image_size)
    images = jnp.zeros((1, height, width_, 3))
    # Under jit nothing but the draws is computed.
    return LinenModel(module, jax.jit(lambda key: module.init(key, images))(param_key(rngs)))
