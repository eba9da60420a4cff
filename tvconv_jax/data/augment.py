"""Random changes of training images: rotation, shear, scale, translation (the paper's Figure 10), brightness, contrast.

Every image gets one affine transformation about its center, drawn again every epoch: for each magnitude m that is set,
a number uniform in -m to m. Sampling is bilinear; pixels from beyond the edge are black. So does
``torchvision.transforms.RandomAffine``, of the library that the reference's pipeline is built from; the reference has
no code for the figure, so that the paper did the same is our reading. Contrast is changed about the image's mean, then
brightness, by a factor each.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from tvconv_jax.utils.errors import UserError

LIMITS = {"rotation": 180.0, "shear": 80.0, "scale": 0.9, "translation": 1.0, "brightness": 0.9, "contrast": 0.9}


class Magnitudes(NamedTuple):
    """Largest transformations of an image, in either direction; 0 leaves it as it is."""

    rotation: float = 0.0  # degrees
    shear: float = 0.0  # degrees by which vertical lines lean
    scale: float = 0.0  # share by which the image grows or shrinks
    translation: float = 0.0  # share of its size by which it moves, independently along each axis
    brightness: float = 0.0  # share by which pixel values grow or shrink
    contrast: float = 0.0  # the same of their differences from the image's mean

    @property
    def moves(self) -> bool:
        """Whether pixels change their places."""
        return any(self[:4])

    @property
    def shades(self) -> bool:
        """Whether pixels change their values."""
        return any(self[4:])


NONE = Magnitudes()


def check_magnitudes(config: Mapping[str, float]) -> Magnitudes:
    """Return ``config.data.augment``, or raise a ``UserError`` if a magnitude is negative or too large."""
    for name, value in config.items():
        if not 0 <= value <= LIMITS[name]:
            raise UserError(f"data.augment.{name} {value:g} must be 0 to {LIMITS[name]:g}.")
    return Magnitudes(**config)


def draw(random: np.random.Generator, count: int) -> np.ndarray:
    """Draw the random numbers of :func:`transform` for each image, ``[count, 5]``, uniform in -1 to 1."""
    return random.uniform(-1.0, 1.0, (count, 5))


def transform(
    image: np.ndarray, magnitudes: Magnitudes, drawn: np.ndarray, *, outside: int | None = None
) -> np.ndarray:
    """Transform an image ``uint8 [h, w, 3]``, or a mask ``uint8 [h, w]``, to one of the same shape.

    ``drawn`` is a row of :func:`draw`: of rotation, shear, scale, and the translations to the right and down. With
    ``outside``, the value of pixels from beyond the edge, it is a mask: its values are not interpolated.
    """
    size = np.array(image.shape[1::-1])  # width, height
    angle, lean = np.deg2rad(magnitudes.rotation * drawn[0]), np.deg2rad(magnitudes.shear * drawn[1])
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = (1 + magnitudes.scale * drawn[2]) * rotation @ np.array([[1.0, np.tan(lean)], [0.0, 1.0]])
    inverse = np.linalg.inv(forward)  # Pillow maps output pixels to input pixels
    center = size / 2
    offset = center - inverse @ (center + size * magnitudes.translation * drawn[3:])
    matrix = (*inverse[0], offset[0], *inverse[1], offset[1])
    affine, resampling = Image.Transform.AFFINE, Image.Resampling
    resample = resampling.BILINEAR if outside is None else resampling.NEAREST
    return np.asarray(Image.fromarray(image).transform(tuple(size), affine, matrix, resample, fillcolor=outside))


def draw_shades(random: np.random.Generator, count: int) -> np.ndarray:
    """Draw the random numbers of :func:`shade` for each image, ``[count, 2]``, uniform in -1 to 1."""
    return random.uniform(-1.0, 1.0, (count, 2))


def shade(image: np.ndarray, magnitudes: Magnitudes, drawn: np.ndarray) -> np.ndarray:
    """Change brightness and contrast of an image ``uint8 [h, w, 3]``; ``drawn`` is a row of :func:`draw_shades`."""
    brightness, contrast = 1 + magnitudes.brightness * drawn[0], 1 + magnitudes.contrast * drawn[1]
    mean = image.mean()
    values = ((np.arange(256) - mean) * contrast + mean) * brightness
    return np.clip(np.round(values), 0, 255).astype(np.uint8)[image]
