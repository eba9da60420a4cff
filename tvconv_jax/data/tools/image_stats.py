"""What one encoded face tells without a model: size, color, channels swapped or not, aligned or not."""

import hashlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from tvconv_jax.data.decoder import ImageError, orientation, pixels
from tvconv_jax.data.tools.alignment import TEMPLATE, TEMPLATE_SIDE

# Points of the 112x112 template at which skin is brighter than the eyes: cheeks and the ridge of the nose.
SKIN = np.array([[36.0, 72.0], [76.0, 72.0], [56.0, 66.0]])
GRID = 28  # light is compared on a coarse picture, where a point is a patch of 4x4 pixels of the template
GRAY = 2.0  # mean difference of the channels, of 255, below which a picture is gray
BLUE = -0.1  # (red - blue) / mean of the middle of the face; see :attr:`Look.warmth`


class Look(NamedTuple):
    """What a picture looks like.

    Attributes:
        digest: Of its bytes; equal for equal files.
        error: Why it cannot be decoded; the rest is without meaning then.
        size: Height and width.
        gray: Whether it has no color.
        warmth: ``(red - blue) / mean`` of the middle of the face. Skin is red; of the 17,755 photographs of LFW and
            CALFW the median is 0.5, and 0.06 % are below -0.1, where a face with red and blue swapped would be.
        eyes: How much darker the places are at which the template has the eyes, than cheeks and nose, in standard
            deviations of the picture. Above zero in 98 % of faces aligned to it (median 1.3), in 40 to 80 % of
            crops that are not.
        turned: Whether its EXIF data turns it, where it is seen; training takes it as it is stored.
    """

    digest: bytes
    error: str = ""
    size: tuple[int, int] = (0, 0)
    gray: bool = False
    warmth: float = 0.0
    eyes: float = 0.0
    turned: bool = False

    @property
    def swapped(self) -> bool:
        """Whether red and blue seem to be swapped."""
        return not self.error and not self.gray and self.warmth < BLUE


def digest(image: bytes) -> bytes:
    """16 bytes that differ wherever two files do."""
    return hashlib.blake2b(image, digest_size=16).digest()


def look(image: bytes) -> Look:
    """Looks at one encoded picture; a damaged one is told by ``error``."""
    try:
        decoded = pixels(image, strict=True)
    except ImageError as error:
        return Look(digest(image), error=str(error))
    height, width, _ = decoded.shape
    middle = decoded[_middle(height), _middle(width)].reshape(-1, 3).mean(0)
    small = np.asarray(Image.fromarray(decoded).resize((GRID, GRID), Image.Resampling.BOX), np.float32)
    return Look(
        digest(image),
        size=(height, width),
        gray=bool(np.abs(small[..., 0] - small[..., 2]).mean() < GRAY),
        warmth=float((middle[0] - middle[2]) / max(middle.mean(), 1.0)),
        eyes=_eyes(small.mean(-1)),
        turned=orientation(image) != 1,
    )


def _middle(side: int) -> slice:
    """The middle half of a side, and at least one pixel."""
    return slice(side // 4, max(1, side + -side // 4))


def _eyes(light: np.ndarray) -> float:
    def at(points: np.ndarray) -> float:
        columns, rows = (points / (TEMPLATE_SIDE / GRID)).astype(int).T
        return light[rows, columns].mean()

    return float((at(SKIN) - at(TEMPLATE[:2])) / max(light.std(), 1.0))


def thumbnail(image: bytes, side: int) -> Image.Image:
    """A small picture; a gray field where the bytes are none."""
    try:
        return Image.fromarray(pixels(image)).resize((side, side), Image.Resampling.BILINEAR)
    except ImageError:
        return Image.new("RGB", (side, side), (128, 128, 128))
