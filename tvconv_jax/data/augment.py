"""Training pictures with less layout: turned, sheared, scaled and moved at random (the paper's Figure 10).

Every picture gets one affine transformation about its center, drawn anew every epoch: of each strength s that is set,
a number uniform in -s to s. Sampling is bilinear; what comes from beyond the edge is black. So does
``torchvision.transforms.RandomAffine``, of the library that the reference's pipeline is built from; the reference has
no code for the figure, so that this is what the paper did is our reading.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from tvconv_jax.utils.errors import UserError

LIMITS = {"rotation": 180.0, "shear": 80.0, "scale": 0.9, "translation": 1.0}


class Strengths(NamedTuple):
    """How far pictures are transformed at most, either way; 0 leaves them as they are.

    Attributes:
        rotation: Degrees.
        shear: Degrees by which vertical lines lean.
        scale: Share by which they grow or shrink.
        translation: Share of their side by which they move, along either axis by itself.
    """

    rotation: float = 0.0
    shear: float = 0.0
    scale: float = 0.0
    translation: float = 0.0


NONE = Strengths()


def strengths_of(config: Mapping[str, float]) -> Strengths:
    """``config.data.augment``, checked.

    Raises:
        UserError: If a strength is negative or too large.
    """
    for name, value in config.items():
        if not 0 <= value <= LIMITS[name]:
            raise UserError(f"data.augment.{name} {value:g} must be 0 to {LIMITS[name]:g}.")
    return Strengths(**config)


def draw(random: np.random.Generator, count: int) -> np.ndarray:
    """What :func:`transform` takes for each of ``count`` pictures, ``[count, 5]``, uniform in -1 to 1."""
    return random.uniform(-1.0, 1.0, (count, 5))


def transform(image: np.ndarray, strengths: Strengths, drawn: np.ndarray) -> np.ndarray:
    """A picture transformed.

    Args:
        image: ``uint8 [s, s, 3]``.
        strengths: How far at most.
        drawn: A row of :func:`draw`: of rotation, shear, scale, and the moves to the right and down.

    Returns:
        ``uint8 [s, s, 3]``.
    """
    side = len(image)
    turn, lean = np.deg2rad(strengths.rotation * drawn[0]), np.deg2rad(strengths.shear * drawn[1])
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    forward = (1 + strengths.scale * drawn[2]) * rotation @ np.array([[1.0, np.tan(lean)], [0.0, 1.0]])
    back = np.linalg.inv(forward)  # Pillow asks for every output pixel where it comes from
    center = np.full(2, side / 2)
    offset = center - back @ (center + side * strengths.translation * drawn[3:])
    coefficients = (*back[0], offset[0], *back[1], offset[1])
    picture = Image.fromarray(image)
    return np.asarray(picture.transform((side, side), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR))
