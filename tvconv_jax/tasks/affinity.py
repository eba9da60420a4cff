"""Initial affinity maps of TVConv, and their deviation from a depthwise convolution (the paper's Table 3).

``model.affinity_init``: ``"ones"``, the reference's constant; ``"data"``, the mean and the standard deviation of the
training images at every pixel, interleaved over the affinity maps, resized to the layer's grid and normalized to mean 0
and variance 1; ``"normal"``, noise of that mean and variance. The paper compares a constant with statistics of the
data; the reference has no code for those, so the details are our reading.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict
from PIL import Image

from tvconv_jax.data.pipeline import decode_record
from tvconv_jax.data.source import Source, read
from tvconv_jax.tasks.forward import check_choice
from tvconv_jax.tasks.keys import KEYS
from tvconv_jax.training.distributed import to_host
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.sizes import Size, height_width

INITS = KEYS["model.affinity_init"].choices
WITH_MAPS = ("tvconv", "tvconv_linear", "tvconv_lowrank")  # operators that learn affinity maps
MAX_IMAGES = 5000  # training images, evenly spread, in the statistics


class AffinityInit:
    """The initial affinity maps that ``model.affinity_init`` asks for, for a run on these training images.

    Raises:
        UserError: If it is unknown, the operator has no affinity maps, or weights of another run would replace them.
    """

    def __init__(self, config: ConfigDict, source: Source) -> None:
        init = config.model.affinity_init
        check_choice("model.affinity_init", init, INITS)
        title = f"model.affinity_init {init!r}"
        if init != "ones" and config.model.get("operator") not in WITH_MAPS:
            raise UserError(f"{title}: the operator has no affinity maps; leave it 'ones'.")
        if init != "ones" and config.finetune.checkpoint:
            raise UserError(f"{title} would be undone by finetune.checkpoint; leave one of them out.")
        self._init, self._seed = init, config.seed
        self._maps = functools.cache(lambda: statistics(source, config.data.image_size))

    def put(self, params: Any) -> Any:
        """Return fresh parameters with these affinity maps."""
        if self._init == "ones":
            return params
        return set_affinity(params, self._init, self._maps() if self._init == "data" else None, self._seed)


def statistics(source: Source, image_size: Size) -> np.ndarray:
    """Return mean and standard deviation of the images at every pixel, gray, 0 to 1: ``float32 [2, h, w]``."""
    total, squares = np.zeros((2, *height_width(image_size)))
    indices = np.unique(np.linspace(0, len(source) - 1, MAX_IMAGES).astype(int))
    for part in np.array_split(indices, -(-len(indices) // 200)):
        for record in read(source, [int(index) for index in part]):
            gray = decode_record(record, image_size).mean(-1) / 255
            total += gray
            squares += np.square(gray)
    mean = total / len(indices)
    return np.stack([mean, np.sqrt(np.maximum(squares / len(indices) - np.square(mean), 0))]).astype(np.float32)


def set_affinity(params: Mapping[str, Any], init: str, maps: np.ndarray | None, seed: int) -> Any:
    """Replace the affinity maps in parameters, each with the sharding that it had.

    ``init`` is ``"data"``, which takes the maps of :func:`statistics`, or ``"normal"``, noise of the seed.
    """
    flat = flatten_dict(params)
    random = np.random.default_rng(seed)
    for name in sorted(name for name in flat if name[-1] == "affinity"):
        height, width, channels = flat[name].shape
        if init == "data":
            resized = [Image.fromarray(m).resize((width, height), Image.Resampling.BILINEAR) for m in maps]
            values = np.stack([np.asarray(resized[channel % 2]) for channel in range(channels)], -1)
            values = (values - values.mean((0, 1))) / np.maximum(values.std((0, 1)), 1e-6)
        else:
            values = random.standard_normal((height, width, channels))
        flat[name] = jax.device_put(values.astype(np.float32), flat[name].sharding)
    return unflatten_dict(flat)


def deviation(frozen: Mapping[str, Any]) -> dict[str, Any] | None:
    """Measure how much kernels vary over positions, from 0, a depthwise convolution, to 1.

    Of a layer with kernels ``W [h, w, k*k, c]`` it is the norm of ``W`` less its mean over positions, over the norm of
    ``W``: the square root of the share of energy that a depthwise convolution cannot have.

    Returns:
        ``{"deviation": mean over layers, "layers": {name: of that layer}}`` for the variables of
        :func:`tvconv_jax.freeze`; ``None`` if no kernel was generated.
    """
    layers = {}
    for name, value in flatten_dict(frozen["frozen"]).items():
        if name[-1] == "weights":
            kernel = to_host(value).astype(np.float64)
            layers["/".join(name[:-1])] = float(np.linalg.norm(kernel - kernel.mean((0, 1))) / np.linalg.norm(kernel))
    return {"deviation": float(np.mean(list(layers.values()))), "layers": layers} if layers else None
