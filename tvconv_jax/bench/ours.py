"""Our side of the benchmark; :mod:`tvconv_jax.bench.torch_baseline` has the same calls in PyTorch."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from tvconv_jax.bench.settings import CLASSES, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, random_variables
from tvconv_jax.convert.reference import from_torch
from tvconv_jax.models import create_model
from tvconv_jax.ops.tv_conv import depthwise_conv, tv_conv
from tvconv_jax.tasks import load_task
from tvconv_jax.tasks.face_model import make_head, make_loss
from tvconv_jax.tasks.forward import make_forward
from tvconv_jax.training.mesh import make_mesh, put_batch
from tvconv_jax.training.optimizer import sgd
from tvconv_jax.training.state import create_state
from tvconv_jax.training.step import LossFunction, make_train_step

OPERATORS = {"tvconv": tv_conv, "depthwise": depthwise_conv}
Batch = dict[str, np.ndarray]
Weights = dict[str, np.ndarray] | None  # a state dict under the reference's names; random weights without


def operator_calls(
    operator: str, arrays: Sequence[np.ndarray], strides: int, *, precision: str = "float32"
) -> dict[str, Callable[[], Any]]:
    """Return compiled calls of ``"tvconv"`` or ``"depthwise"``; none waits for its result.

    The arrays are those of :func:`tvconv_jax.bench.settings.operator_inputs`. ``"forward"`` returns the output,
    ``"forward+backward"`` also the gradients of input and weights.
    """
    x, weights, cotangent = (jnp.asarray(a, precision) for a in arrays)
    function = functools.partial(OPERATORS[operator], strides=strides)

    def with_gradients(x: jax.Array, weights: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, ...]:
        y, pull = jax.vjp(function, x, weights)
        return y, *pull(cotangent)

    forward, both = jax.jit(function), jax.jit(with_gradients)
    return {"forward": lambda: forward(x, weights), "forward+backward": lambda: both(x, weights, cotangent)}


class Trainer:
    """A training step on one device; ``step`` trains on its batch and returns the loss without waiting for it."""

    def __init__(
        self, params: Any, batch_stats: Any, loss: LossFunction, optimizer: optax.GradientTransformation, batch: Batch
    ) -> None:
        mesh = _one_device()
        self.batch = put_batch(batch, mesh)
        self.state = create_state(params, batch_stats, optimizer, 0, mesh)
        start = time.perf_counter()
        self.compiled = make_train_step(loss, optimizer, mesh).lower(self.state, self.batch).compile()
        self.compile_seconds = time.perf_counter() - start  # with tracing
        self.temporaries = self.compiled.memory_analysis().temp_size_in_bytes  # beside inputs and outputs

    def step(self) -> jax.Array:
        self.state, metrics = self.compiled(self.state, self.batch)
        return metrics["loss"]


def face_trainer(
    operator: str,
    class_weights: np.ndarray,
    batch: Batch,
    *,
    width: float,
    depth: float,
    name: str = "mobilenetv2",
    precision: str = "float32",
    state_dict: Weights = None,
) -> Trainer:
    """Return the training step of the face task."""
    model = create_model(name, width=width, depth=depth, operator=operator)
    variables = _variables(model, batch, state_dict)
    params = {"model": variables["params"], "class_weights": class_weights}
    optimizer = sgd(optax.constant_schedule(LEARNING_RATE), momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    head = make_head(_one_device(), classes=CLASSES, margin=0.35, scale=32.0)
    loss = make_loss(make_forward(model, _one_device(), precision=precision), head)
    return Trainer(params, variables["batch_stats"], loss, optimizer, batch)


def segmentation_trainer(
    batch: Batch, *, depth: float, precision: str = "float32", state_dict: Weights = None
) -> Trainer:
    """Return the training step of the segmentation task with the baseline model."""
    model = create_model("deeplabv3plus", depth=depth, operator="baseline")
    variables = _variables(model, batch, state_dict)
    loss = load_task("segmentation").make_loss(make_forward(model, _one_device(), precision=precision))
    optimizer = optax.adam(LEARNING_RATE, b1=0.9, b2=0.99)
    return Trainer(variables["params"], variables["batch_stats"], loss, optimizer, batch)


def _one_device() -> Mesh:
    return make_mesh(devices=jax.devices()[:1])


def _variables(model: nn.Module, batch: Batch, state_dict: Weights) -> dict[str, Any]:
    return from_torch(state_dict, model) if state_dict else random_variables(model, batch["image"].shape[1])
