"""Trained models of workdirs, for use in other programs."""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict

from tvconv_jax.utils.extras import require
from tvconv_jax.utils.files import user_path


def load_model(workdir: str | Path, *, best: bool = True) -> tuple[nn.Module, dict[str, Any]]:
    """Return the trained model of a workdir; its data is not needed.

    Args:
        workdir: Of a run of :mod:`tvconv_jax.main`.
        best: Whether to take its best checkpoint; ``False``: its last.

    Returns:
        The linen module and its variables: ``model.apply(variables, images, train=False)`` for images
        ``[n, h, w, 3]``, RGB in [-1, 1], of the config's ``data.image_size``; :func:`tvconv_jax.freeze` takes both.

    Raises:
        UserError: If there is no run in the folder, no whole checkpoint, or the extra ``train`` is not installed.
    """
    require("train", purpose="load_model")
    from tvconv_jax.tasks.finetune import read_checkpoint  # late: these need more than JAX and Flax
    from tvconv_jax.tasks.parts import model_of
    from tvconv_jax.tasks.saved_config import read_config

    workdir = user_path(workdir).absolute()
    model = model_of(read_config(workdir))
    _, arrays = read_checkpoint(workdir, kinds=("best",) if best else ("last",), named="the workdir")
    tree = unflatten_dict({name: jnp.asarray(value) for name, value in arrays.items()}, sep="/")
    params = tree["params"]
    return model, {"params": params.get("model", params), "batch_stats": tree.get("batch_stats", {})}
