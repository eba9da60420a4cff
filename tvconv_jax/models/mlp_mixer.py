"""MLP-Mixer for aligned faces: no convolution, one product along the positions, one along the channels."""

import math

import flax.linen as nn
import jax

from tvconv_jax.models.blocks import make_head
from tvconv_jax.models.mobilenetv2 import scaled
from tvconv_jax.nn.boxes import unboxed
from tvconv_jax.nn.checks import Checked, check_images

# Channels of Mixer-S, which is width 1, and hidden features of its products along positions and along channels.
CHANNELS, HIDDEN_POSITIONS, HIDDEN_CHANNELS = 512, 256, 2048
WIDTHS = (0.1, 0.2, 0.3, 0.5, 1.0)


class Mlp(Checked):
    """Linear, GELU, linear, back to as many features: ``[..., c]`` -> ``[..., c]``."""

    hidden: int  #: Features in between.

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.gelu(nn.Dense(self.hidden, dtype=x.dtype, name="expand")(x))
        return nn.Dense(x.shape[-1], dtype=x.dtype, name="project")(y)

    def cost(self, x: tuple[int, ...], y: tuple[int, ...]) -> int:
        return math.prod(x[:-1]) * self.hidden  # GELU


class MixerBlock(Checked):
    """Mixes the positions of every channel, then the channels of every position: ``[n, ..., c]`` -> ``[n, ..., c]``."""

    positions: int  #: Hidden features of the first.
    channels: int  #: Hidden features of the second.

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = x.shape
        x = x.reshape(shape[0], -1, shape[-1])
        y = nn.LayerNorm(dtype=x.dtype, name="norm_positions")(x).swapaxes(1, 2)
        x = x + Mlp(self.positions, name="positions")(y).swapaxes(1, 2)
        x = x + Mlp(self.channels, name="channels")(nn.LayerNorm(dtype=x.dtype, name="norm_channels")(x))
        return x.reshape(shape)


class MlpMixer(Checked):
    """Images ``[n, h, w, 3]`` in [-1, 1] -> embeddings ``[n, embedding_size]``, not normalized, or logits.

    The model belongs to one input size: it has a weight for every pair of positions.

    Source: Tolstikhin et al., "MLP-Mixer: An all-MLP Architecture for Vision", NeurIPS 2021, section 2 and Table 1,
    https://arxiv.org/abs/2105.01601; authors' source: github.com/google-research/vision_transformer. Width 1 is their
    Mixer-S but for patches of 8, because faces of 96x96 are small, and the head, which is the other face models'.
    """

    width: float = 1.0  #: Multiplies the channels and the hidden features.
    patch_size: int = 8  #: Size of the square patches, each a position: 144 of them for a 96x96 input.
    layers: int = 8  #: Blocks.
    embedding_size: int = 512  #: Size of the embedding.
    remat: bool = False  #: Whether the gradient recomputes activations of the blocks, instead of keeping them.
    num_classes: int = 0  #: Classes of the logits ``[n, num_classes]``; 0: the model returns embeddings.

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        images = check_images("images", images)
        n, height, width, colors = images.shape
        p = self.patch_size
        if height % p or width % p:
            raise ValueError(f"images are {height}x{width}; patch_size={p} must divide height and width: resize them.")
        grid = (height // p, width // p)
        x = images.reshape(n, grid[0], p, grid[1], p, colors).swapaxes(2, 3).reshape(n, grid[0] * grid[1], -1)
        self._check_positions(x.shape[1])
        x = nn.Dense(scaled(CHANNELS, self.width), dtype=x.dtype, name="stem")(x)
        kind = nn.remat(MixerBlock) if self.remat else MixerBlock
        for i in range(self.layers):
            x = self.block(f"block_{i}", kind)(x)
        x = nn.LayerNorm(dtype=x.dtype, name="norm")(x).reshape(n, *grid, -1)
        return make_head(self.num_classes, self.embedding_size)(x, train=train)

    @nn.nowrap  # so that it also makes blocks outside of the model, without a scope
    def block(self, name: str | None = None, kind: type[nn.Module] = MixerBlock) -> nn.Module:
        """Return a block of the model."""
        return kind(scaled(HIDDEN_POSITIONS, self.width), scaled(HIDDEN_CHANNELS, self.width), name=name)

    def _check_positions(self, positions: int) -> None:
        if self.layers and self.has_variable("params", "block_0"):
            built = unboxed(self.get_variable("params", "block_0")["positions"]["expand"]["kernel"]).shape[0]
            if built != positions:
                raise ValueError(
                    f"the model was built for {built} patches, but these images give {positions}; its weights belong "
                    "to positions: resize the images or initialize again."
                )
