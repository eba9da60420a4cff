"""Pictures to embeddings, as verification takes them."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tvconv_jax.data.pipeline import eval_batches
from tvconv_jax.data.source import Source
from tvconv_jax.tasks.run import normalize
from tvconv_jax.training.distributed import to_host
from tvconv_jax.training.mesh import eval_batch_size, local_rows, put_batch
from tvconv_jax.training.nonfinite import check_outputs

Embed = Callable[[Any, jax.Array], jax.Array]


def make_embed(model: nn.Module, *, mirror: bool, channel_order: str = "rgb") -> Embed:
    """``(variables, uint8 RGB images) -> [n, d]``.

    Args:
        model: The linen model.
        mirror: Whether the embedding of the mirrored picture is added.
        channel_order: What the model is shown; ``"bgr"`` is how the reference verified, although it trained RGB.
    """

    @jax.jit
    def embed(variables: Any, images: jax.Array) -> jax.Array:
        images = normalize(images if channel_order == "rgb" else images[..., ::-1])
        embeddings = model.apply(variables, images, train=False)
        return embeddings + model.apply(variables, images[:, :, ::-1], train=False) if mirror else embeddings

    return embed


def embed_all(embed: Embed, variables: Any, source: Source, config: ConfigDict, mesh: Mesh) -> np.ndarray:
    """Embeddings of every picture of a source, each once, ``[len(source), d]``."""
    parts = []
    size = eval_batch_size(config.eval.batch_size, mesh)
    rows = local_rows(size, mesh)
    for batch in eval_batches(source, batch_size=size, image_size=config.data.image_size, rows=rows):
        embeddings = to_host(embed(variables, put_batch(batch["image"], mesh)))[batch["mask"]]
        parts.append(check_outputs("embeddings", embeddings))
    return np.concatenate(parts)
