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

from tvconv_jax.convert.reference import from_torch
from tvconv_jax.data.synthetic.fundus import draw_fundus
from tvconv_jax.models import create_model
from tvconv_jax.ops.tv_conv import depthwise_conv, output_grid, tv_conv
from tvconv_jax.tasks import face, segmentation
from tvconv_jax.tasks.face_model import make_head
from tvconv_jax.tasks.fresh import fresh_variables
from tvconv_jax.tasks.parts import PRECISIONS, make_forward
from tvconv_jax.training.mesh import make_mesh, put_batch
from tvconv_jax.training.optimizer import sgd
from tvconv_jax.training.state import create_state
from tvconv_jax.training.step import LossFunction, make_train_step

OPERATORS = {"tvconv": tv_conv, "depthwise": depthwise_conv}
# The paper's optimizer but for its rate, which speed does not depend on: on noise for images the gradients of an
# untrained model are so steep that at 0.1 the rounding of one step becomes another loss at the next, and the first
# losses of both sides could not be compared.
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-7, 0.9, 5e-4
SGD = {"lr": LEARNING_RATE, "momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY}  # of the PyTorch baseline
EMBEDDING_SIZE, CLASSES = 512, 1000


def operator_inputs(
    operator: str, batch: int, grid: int, channels: int, strides: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seeded input ``[n, h, w, c]``, weights and cotangent for one operator, in our layouts."""
    random = np.random.default_rng(0)
    side = output_grid(grid, grid, strides)
    weights_shape = (*side, 9, channels) if operator == "tvconv" else (9, channels)
    shapes = ((batch, grid, grid, channels), weights_shape, (batch, *side, channels))
    x, weights, cotangent = (random.standard_normal(shape, dtype=np.float32) for shape in shapes)
    return x, weights, cotangent


def operator_calls(
    operator: str, arrays: Sequence[np.ndarray], strides: int, *, precision: str = "float32"
) -> dict[str, Callable[[], Any]]:
    """One of ours, compiled; no call waits for its result.

    Args:
        operator: ``"tvconv"`` or ``"depthwise"``.
        arrays: Input, weights, cotangent of :func:`operator_inputs`.
        strides: Strides of the operator.
        precision: Of all arrays.

    Returns:
        ``"forward"``: the output; ``"forward+backward"``: output, gradient of the input, gradient of the weights.
    """
    x, weights, cotangent = (jnp.asarray(a, PRECISIONS[precision]) for a in arrays)
    function = functools.partial(OPERATORS[operator], strides=strides)

    def with_gradients(x: jax.Array, weights: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, ...]:
        y, pull = jax.vjp(function, x, weights)
        return y, *pull(cotangent)

    forward, both = jax.jit(function), jax.jit(with_gradients)
    return {
        "forward": lambda: forward(x, weights),
        "forward+backward": lambda: both(x, weights, cotangent),
    }


def one_device() -> Mesh:
    """The first one."""
    return make_mesh(devices=jax.devices()[:1])


class Trainer:
    """A training step on one device; ``step`` trains on its batch and returns the loss, perhaps before it is there.

    Attributes:
        compile_seconds: Tracing and compiling the step.
        temporaries: Bytes that the compiled step needs beside its inputs and outputs.
    """

    def __init__(
        self,
        params: Any,
        batch_stats: Any,
        loss: LossFunction,
        optimizer: optax.GradientTransformation,
        batch: dict[str, np.ndarray],
    ) -> None:
        mesh = one_device()
        self.batch = put_batch(batch, mesh)
        self.state = create_state(params, batch_stats, optimizer, 0, mesh)
        start = time.perf_counter()
        self.compiled = make_train_step(loss, optimizer, mesh).lower(self.state, self.batch).compile()
        self.compile_seconds = time.perf_counter() - start
        self.temporaries = self.compiled.memory_analysis().temp_size_in_bytes

    def step(self) -> jax.Array:
        self.state, metrics = self.compiled(self.state, self.batch)
        return metrics["loss"]


def _variables(model: nn.Module, images: np.ndarray, state_dict: dict[str, np.ndarray] | None) -> dict[str, Any]:
    """From ``state_dict``, weights under the reference's names, or weights of our own."""
    if state_dict is not None:
        return from_torch(state_dict, model)
    return fresh_variables(model, jax.random.key(0), images.shape[1])


def face_trainer(
    operator: str,
    class_weights: np.ndarray,
    batch: dict[str, np.ndarray],
    *,
    width: float,
    depth: float,
    precision: str = "float32",
    state_dict: dict[str, np.ndarray] | None = None,
) -> Trainer:
    """The face job's training step; starts from ``state_dict``, if it is given."""
    model = create_model("mobilenetv2", width=width, depth=depth, operator=operator)
    variables = _variables(model, batch["image"], state_dict)
    params = {"model": variables["params"], "class_weights": class_weights}
    optimizer = sgd(optax.constant_schedule(LEARNING_RATE), momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    head = make_head(one_device(), classes=CLASSES, margin=0.35, scale=32.0)
    loss = face.make_loss(make_forward(model, one_device(), precision=precision), head)
    return Trainer(params, variables["batch_stats"], loss, optimizer, batch)


def segmentation_trainer(
    batch: dict[str, np.ndarray],
    *,
    depth: float,
    precision: str = "float32",
    state_dict: dict[str, np.ndarray] | None = None,
) -> Trainer:
    """The segmentation job's training step with the baseline model; starts from ``state_dict``, if it is given."""
    model = create_model("deeplabv3plus", depth=depth, operator="baseline")
    variables = _variables(model, batch["image"], state_dict)
    optimizer = optax.adam(LEARNING_RATE, b1=0.9, b2=0.99)
    return Trainer(
        variables["params"],
        variables["batch_stats"],
        segmentation.make_loss(make_forward(model, one_device(), precision=precision)),
        optimizer,
        batch,
    )


def segmentation_inputs(batch: int, image_size: int) -> dict[str, np.ndarray]:
    """Seeded batch: uint8 images, masks of discs and cups."""
    random = np.random.default_rng(0)
    pictures = [draw_fundus(random, 1 + i % 4, image_size) for i in range(batch)]
    images, masks = (np.stack(arrays) for arrays in zip(*pictures, strict=True))
    return {"image": images, "mask": masks}


def train_inputs(batch: int, image_size: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Seeded batch (uint8 images, labels) and class weights."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (batch, image_size, image_size, 3), dtype=np.uint8)
    labels = random.integers(0, CLASSES, batch, dtype=np.int32)
    class_weights = random.standard_normal((EMBEDDING_SIZE, CLASSES), dtype=np.float32)
    return {"image": images, "label": labels}, class_weights
