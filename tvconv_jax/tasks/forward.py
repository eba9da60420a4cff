"""How a job runs its model while training: in which precision, and over which pictures batch norms average."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tvconv_jax.nn.norm import BatchNorm
from tvconv_jax.tasks.run import check_choice
from tvconv_jax.training.mesh import norm_groups

# (params, batch_stats, images float32 [n, h, w, 3], **rngs) -> (outputs float32, new batch_stats)
Forward = Callable[..., tuple[jax.Array, Any]]

PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def make_forward(
    model: nn.Module, mesh: Mesh, *, precision: str = "float32", batch_norm: str | int = "global"
) -> Forward:
    """The training pass of a model.

    Args:
        model: The linen model.
        mesh: Over which the pictures are cut.
        precision: ``"bfloat16"`` computes in it: images, activations and a copy of the parameters. Parameters
            themselves, statistics, weight generators, what comes out and the loss are float32 either way.
        batch_norm: ``"global"``, statistics of the whole batch however many devices share it, or ``"per_replica"``:
            every device normalizes with those of its own pictures, as DistributedDataParallel did in the paper, and the
            running averages take the mean over devices; or a number of groups, as of so many devices, on any mesh.

    Raises:
        UserError: For another precision or kind of statistics.
    """
    check_choice("train.precision", precision, PRECISIONS)
    groups = norm_groups(batch_norm, mesh)

    def in_groups(norm: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, BatchNorm) and context.method_name == "__call__":
            kwargs = {**kwargs, "groups": groups}
        return norm(*args, **kwargs)

    def forward(params: Any, batch_stats: Any, images: jax.Array, **rngs: jax.Array) -> tuple[jax.Array, Any]:
        variables, images = {"params": params, "batch_stats": batch_stats}, images.astype(PRECISIONS[precision])
        with nn.intercept_methods(in_groups):
            outputs, updates = model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)
        return outputs.astype(jnp.float32), updates["batch_stats"]

    return forward


def forward_of(config: ConfigDict, model: nn.Module, mesh: Mesh) -> Forward:
    """The same, as ``config.train`` says."""
    return make_forward(model, mesh, precision=config.train.precision, batch_norm=config.train.batch_norm)
