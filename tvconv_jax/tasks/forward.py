"""The forward pass of a model in training; needs no package of the extras."""

from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from tvconv_jax.nn.freeze import generate_together
from tvconv_jax.training.mesh import norm_groups
from tvconv_jax.utils.errors import UserError

# (params, batch_stats, images float32 [n, h, w, 3], **rngs) -> (outputs float32, new batch_stats)
Forward = Callable[..., tuple[jax.Array, Any]]

PRECISIONS = {name: jnp.dtype(name) for name in ("float32", "bfloat16")}


def check_choice(name: str, value: Any, choices: Iterable) -> None:
    """Raise a ``UserError`` that lists the choices, if ``value`` is not one of them."""
    if value not in choices:
        raise UserError(f"{name} {value!r} is unknown; there are: {', '.join(map(str, choices))}.")


def make_forward(
    model: nn.Module, mesh: Mesh, *, precision: str = "float32", batch_norm: str | int = "global"
) -> Forward:
    """Return the forward pass of a model in training.

    Args:
        model: The linen model.
        mesh: Devices of the images.
        precision: ``"bfloat16"`` computes in it: images, activations and a copy of the parameters. Parameters
            themselves, statistics, weight generators, outputs and the loss are float32 either way.
        batch_norm: ``"global"``, statistics of the whole batch however many devices share it; ``"per_replica"``, of
            each device's own images, with the mean over devices in the running averages, as DistributedDataParallel
            did in the paper; or a number of groups, as of so many devices, on any mesh.

    Raises:
        UserError: For another precision or kind of statistics.
    """
    check_choice("train.precision", precision, PRECISIONS)
    groups = norm_groups(batch_norm, mesh)
    # A CPU gains nothing by generating kernels together; tracing both ways for it to choose would take longer.
    on_cpu = mesh.devices.flat[0].platform == "cpu"

    def in_groups(norm: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        if getattr(context.module, "takes_groups", False) and context.method_name == "__call__":
            kwargs = {**kwargs, "groups": groups}
        return norm(*args, **kwargs)

    def forward(params: Any, batch_stats: Any, images: jax.Array, **rngs: jax.Array) -> tuple[jax.Array, Any]:
        variables, images = {"params": params, "batch_stats": batch_stats}, images.astype(PRECISIONS[precision])
        if not on_cpu:
            variables["params"], variables["frozen"] = generate_together(params)
        with nn.intercept_methods(in_groups):
            outputs, updates = model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)
        return outputs.astype(jnp.float32), updates.get("batch_stats", batch_stats)  # MLP-Mixer has none

    return forward
