"""Settings and seeded inputs that our side of the benchmark and the PyTorch baseline share."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tvconv_jax.ops.tv_conv import output_grid
from tvconv_jax.utils.sizes import Size, height_width

# The paper's optimizer except for its learning rate, which does not change the speed. The images are noise, on which
# the gradients of an untrained model are steep: at 0.1 the rounding of one step changes the loss of the next, and the
# first losses of both sides could not be compared.
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-7, 0.9, 5e-4
SGD = {"lr": LEARNING_RATE, "momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY}  # as PyTorch names them
EMBEDDING_SIZE, CLASSES = 512, 1000
PRECISIONS = ("float32", "bfloat16")


def operator_inputs(
    operator: str, batch: int, grid: int, channels: int, strides: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return input ``[n, h, w, c]``, weights and cotangent of one operator, in our layouts."""
    random = np.random.default_rng(0)
    out_grid = output_grid(grid, grid, strides)
    weights_shape = (*out_grid, 9, channels) if operator == "tvconv" else (9, channels)
    shapes = ((batch, grid, grid, channels), weights_shape, (batch, *out_grid, channels))
    x, weights, cotangent = (random.standard_normal(shape, dtype=np.float32) for shape in shapes)
    return x, weights, cotangent


def face_inputs(batch: int, image_size: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return a batch (uint8 images, labels) and class weights ``[embedding_size, classes]``."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (batch, image_size, image_size, 3), dtype=np.uint8)
    labels = random.integers(0, CLASSES, batch, dtype=np.int32)
    class_weights = random.standard_normal((EMBEDDING_SIZE, CLASSES), dtype=np.float32)
    return {"image": images, "label": labels}, class_weights


def segmentation_inputs(batch: int, image_size: int) -> dict[str, np.ndarray]:
    """Return a batch of uint8 images and masks of discs and cups."""
    from tvconv_jax.data.synthetic.fundus import draw_fundus  # late: needs SciPy, which the other settings do not

    random = np.random.default_rng(0)
    drawn = [draw_fundus(random, 1 + i % 4, image_size) for i in range(batch)]
    images, masks = (np.stack(arrays) for arrays in zip(*drawn, strict=True))
    return {"image": images, "mask": masks}


def random_variables(model: Any, image_size: Size, seed: int = 0) -> dict[str, Any]:
    """Return variables as of a trained model: no norm is the identity, no affinity map is constant."""
    random = np.random.default_rng(seed)

    def value(path: tuple, leaf: Any) -> np.ndarray:
        name, noise = path[-1].key, random.standard_normal(leaf.shape).astype(np.float32)
        if name in ("scale", "var"):
            return 1 + 0.2 * np.square(noise)
        if name == "affinity":
            return 1 + 0.3 * noise
        return noise * {"bias": 0.1, "mean": 0.1}.get(name, math.sqrt(2 / math.prod(leaf.shape[:-1])))

    images = jnp.zeros((1, *height_width(image_size), 3))
    shapes = jax.eval_shape(lambda key: model.init(key, images, train=False), jax.random.key(0))
    return jax.tree_util.tree_map_with_path(value, shapes)
