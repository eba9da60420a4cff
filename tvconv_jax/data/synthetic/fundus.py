"""Synthetic fundus crops round the optic disc, drawn by this code alone, as four clinics would take them.

Every eye has a disc, a cup in it and vessels that leave through it; every clinic (``DOMAINS``) has its colors,
contrasts, framing and focus. Both tables below set the difficulty of the set. Coordinates: the image spans [-1, 1],
x to the right, y down.
"""

import numpy as np
from scipy import ndimage

# Gray values of a mask, as the DoFE layout has them.
CUP, RIM, BACKGROUND = 0, 128, 255

# name: (mean, standard deviation between eyes)
EYE = {
    "disc": (0.44, 0.060),  # radius
    "disc_shape": (1.08, 0.04),  # height over width
    "cup": (0.54, 0.12),  # share of the disc's radius
    "cup_shape": (1.06, 0.06),
    "cup_x": (-0.03, 0.03),
    "cup_y": (0.0, 0.03),
    "pigment": (0.0, 1.0),
}

# One row a clinic: retina and disc colors, how much brighter the cup is, how dark vessels are, how far the disc
# strays from the center, its size, blur in 1/100 of the image size, noise, unevenness of the light.
DOMAINS = {
    1: {"retina": (0.62, 0.28, 0.12), "disc": (0.88, 0.62, 0.34), "cup": 0.30, "vessel": 0.45,
        "stray": 0.14, "zoom": 1.00, "blur": 0.5, "noise": 0.02, "light": 0.15},
    2: {"retina": (0.48, 0.18, 0.10), "disc": (0.72, 0.42, 0.24), "cup": 0.22, "vessel": 0.35,
        "stray": 0.18, "zoom": 1.15, "blur": 1.4, "noise": 0.03, "light": 0.30},
    3: {"retina": (0.55, 0.33, 0.22), "disc": (0.80, 0.66, 0.50), "cup": 0.28, "vessel": 0.55,
        "stray": 0.12, "zoom": 0.85, "blur": 0.8, "noise": 0.04, "light": 0.20},
    4: {"retina": (0.36, 0.20, 0.15), "disc": (0.60, 0.50, 0.38), "cup": 0.24, "vessel": 0.30,
        "stray": 0.16, "zoom": 0.95, "blur": 1.0, "noise": 0.03, "light": 0.35},
}  # fmt: skip

VESSELS = 7


def draw_fundus(random: np.random.Generator, domain: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one eye as one clinic, 1 to 4, takes it.

    Returns:
        The image ``uint8 [size, size, 3]``, RGB; the mask ``uint8 [size, size]`` of ``CUP``, ``RIM`` and
        ``BACKGROUND``.
    """
    clinic = DOMAINS[domain]
    eye = {name: mean + spread * random.standard_normal() for name, (mean, spread) in EYE.items()}
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = axis[None, :], axis[:, None]
    disc_x, disc_y = clinic["stray"] * random.standard_normal(2)
    radius = eye["disc"] * clinic["zoom"]
    disc = _ellipse(x - disc_x, y - disc_y, radius, eye["disc_shape"], random, ripple=0.03)
    cup_radius = radius * np.clip(eye["cup"], 0.25, 0.8)
    cup = _ellipse(x - disc_x - eye["cup_x"], y - disc_y - eye["cup_y"], cup_radius, eye["cup_shape"], random, 0.05)
    cup = np.maximum(cup, disc + 0.05)  # a rim is left all round

    tint = np.exp(0.06 * eye["pigment"] + 0.05 * random.standard_normal(3))
    image = np.broadcast_to(clinic["retina"] * tint, (size, size, 3)).copy()
    image *= 1 + 0.06 * _clouds(random, size)[..., None]
    _cover(image, disc, clinic["disc"] * tint, softness=0.06)
    bright = clinic["disc"] * tint + clinic["cup"] * np.array([1.0, 1.1, 1.1])
    _cover(image, cup, bright, softness=0.10)
    image *= 1 - clinic["vessel"] * _vessels(random, x - disc_x, y - disc_y)[..., None] * [0.7, 1.0, 0.9]
    slope = clinic["light"] * random.standard_normal(2)
    image *= np.exp(slope[0] * x + slope[1] * y)[..., None]
    blur = clinic["blur"] / 100 * size * np.exp(0.3 * random.standard_normal())
    image = ndimage.gaussian_filter(image, (blur, blur, 0))
    image += clinic["noise"] * random.standard_normal(image.shape)

    mask = np.full((size, size), BACKGROUND, np.uint8)
    mask[disc < 0] = RIM
    mask[cup < 0] = CUP
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8), mask


def _ellipse(
    x: np.ndarray, y: np.ndarray, radius: float, shape: float, random: np.random.Generator, ripple: float
) -> np.ndarray:
    """Return the approximate signed distance to an outline that is nearly an ellipse; negative inside."""
    angle = np.arctan2(y, x)
    waves = sum(random.standard_normal() * np.cos(k * angle + random.uniform(0, 2 * np.pi)) / k for k in (2, 3, 4))
    return np.hypot(x * np.sqrt(shape), y / np.sqrt(shape)) - radius * (1 + ripple * waves)


def _cover(image: np.ndarray, distance: np.ndarray, color: np.ndarray, softness: float) -> None:
    share = 1 / (1 + np.exp(np.clip(distance / softness * 4, -30, 30)))
    image += share[..., None] * (color - image)


def _clouds(random: np.random.Generator, size: int) -> np.ndarray:
    """Draw the smooth unevenness of the retina, standard deviation 1."""
    clouds = ndimage.gaussian_filter(random.standard_normal((size, size)), size / 16, mode="wrap")
    return clouds / clouds.std()


def _vessels(random: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Draw the share of vessels in every pixel, 0 to 1: arcs from the disc's middle, most of them up and down."""
    along = np.linspace(0, 1, 64)
    nearest = np.full(np.broadcast_shapes(x.shape, y.shape), np.inf)
    for i in range(VESSELS):
        upward = 1 if i % 2 else -1
        end = np.array([random.uniform(-1.6, 1.6), upward * random.uniform(0.9, 1.6)])
        bend = np.array([0.25 * random.standard_normal(), upward * random.uniform(0.3, 0.9)])
        start = 0.06 * random.standard_normal(2)
        points = np.outer((1 - along) ** 2, start) + np.outer(2 * along * (1 - along), bend) + np.outer(along**2, end)
        width = random.uniform(0.02, 0.045) * (1 - 0.5 * along)
        for (px, py), w in zip(points, width, strict=True):
            nearest = np.minimum(nearest, np.hypot(x - px, y - py) - w - 0.02)
    return np.clip(0.5 - nearest / 0.03, 0, 1)
