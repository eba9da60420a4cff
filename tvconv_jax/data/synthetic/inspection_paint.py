"""Pixels of the boards of :mod:`tvconv_jax.data.synthetic.inspection`: parts, light, dirt, blur and noise.

Coordinates: the board is centered at (0, 0), x to the right, y down; upright and unshifted, the image spans [-1, 1].
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

BOARD = 0.90  # half the board's width and height
REACH = {"short": 0.17, "long": 0.31, "hole": 0.15}  # no pixel of a part is farther from the middle of its place

# name: standard deviation
NUISANCES = {
    "gain": 0.12,
    "light_x": 0.12,  # change of brightness from one side to the other
    "light_y": 0.12,
    "blur": 0.30,
    "noise": 0.025,
    "tint": 0.05,  # change of each color
}
# Of every part: middle, angle in radians, brightness.
TOLERANCES = {"dx": 0.012, "dy": 0.012, "angle": 0.04, "shade": 0.06}
SPECKS = 6  # at most

Values = dict[str, np.ndarray]


class Place(NamedTuple):
    """A place on the board: its middle, its footprint (a key of ``REACH``) and the mask's value for a part in it."""

    x: float
    y: float
    footprint: str
    mask: int


class Part(NamedTuple):
    """A part: its kind, the footprint that it fits, the function that draws it, and its color or the mark's side."""

    kind: str
    footprint: str
    draw: Callable
    look: tuple[float, float, float] | int


class Patch:
    """Windows ``[n, rows, columns]`` on images, each with a part's own coordinates and brightness."""

    def __init__(self, image: np.ndarray, x: np.ndarray, y: np.ndarray, shade: np.ndarray, softness: float) -> None:
        self.image, self.x, self.y, self.shade, self.softness = image, x, y, shade[:, None, None, None], softness

    def select(self, chosen: np.ndarray) -> "Patch":
        """Copy some of the windows."""
        return Patch(self.image[chosen], self.x[chosen], self.y[chosen], self.shade[chosen, 0, 0, 0], self.softness)

    def rectangles(self, x: tuple[float, ...], y: tuple[float, ...], rx: float, ry: float, color: tuple) -> np.ndarray:
        """Paint rectangles of half sizes ``rx`` and ``ry``; return the signed distance to them, negative inside.

        Each value of ``x`` or ``y`` mirrors: none is one in the middle, (0.2,) two at -0.2 and 0.2, (0.2, 0.1) four at
        -0.3, -0.1, 0.1 and 0.3.
        """
        right, down = (functools.reduce(lambda u, fold: np.abs(u) - fold, f, u) for f, u in ((x, self.x), (y, self.y)))
        return self.cover(np.maximum(np.abs(right) - rx, np.abs(down) - ry), color)

    def disc(self, x: float, y: float, radius: float, color: tuple) -> np.ndarray:
        """Paint a disc; return the signed distance to it."""
        return self.cover(np.hypot(self.x - x, self.y - y) - radius, color)

    def cover(self, distance: np.ndarray, color: tuple) -> np.ndarray:
        """Cover the inside of an outline; the edge is a pixel soft."""
        share = np.clip(0.5 - distance / self.softness, 0, 1)[..., None]
        change = np.asarray(color, np.float32) * self.shade - self.image
        change *= share
        self.image += change
        return distance


def _resistor(patch: Patch, bands: tuple) -> np.ndarray:
    outline = patch.rectangles((), (), 0.115, 0.070, (0.86, 0.76, 0.56))
    patch.rectangles((0.05,), (), 0.026, 0.070, bands)
    return outline


def _ceramic(patch: Patch, color: tuple) -> np.ndarray:
    return patch.cover((np.hypot(patch.x / 0.12, patch.y / 0.095) - 1) * 0.1, color)


def _electrolytic(patch: Patch, side: int) -> np.ndarray:
    outline = patch.disc(0, 0, 0.115, (0.80, 0.82, 0.86))
    patch.cover(np.maximum(outline, 0.035 - side * patch.x), (0.12, 0.12, 0.20))
    return outline


def _chip(patch: Patch, side: int) -> np.ndarray:
    patch.rectangles((0.12, 0.06), (), 0.025, 0.125, (0.78, 0.78, 0.76))  # pins
    outline = patch.rectangles((), (), 0.24, 0.090, (0.13, 0.13, 0.15))
    patch.disc(side * 0.18, 0, 0.042, (0.92, 0.90, 0.80))
    return outline


def _connector(patch: Patch, color: tuple) -> np.ndarray:
    outline = patch.rectangles((), (), 0.24, 0.105, color)
    patch.rectangles((0.11, 0.055), (), 0.032, 0.045, (0.30, 0.24, 0.12))
    return outline


def _bolt(patch: Patch, color: tuple) -> np.ndarray:
    outline = patch.disc(0, 0, 0.105, color)
    patch.rectangles((), (), 0.085, 0.018, (0.25, 0.25, 0.28))
    return outline


PARTS = {
    "A": Part("resistor", "short", _resistor, (0.75, 0.12, 0.10)),
    "E": Part("resistor", "short", _resistor, (0.12, 0.22, 0.75)),
    "C": Part("ceramic capacitor", "short", _ceramic, (0.85, 0.55, 0.15)),
    "U": Part("electrolytic capacitor", "short", _electrolytic, -1),
    "N": Part("electrolytic capacitor", "short", _electrolytic, 1),
    "L": Part("chip", "long", _chip, -1),
    "R": Part("chip", "long", _chip, 1),
    "P": Part("connector", "long", _connector, (0.93, 0.92, 0.88)),
    "O": Part("bolt", "hole", _bolt, (0.66, 0.68, 0.72)),
}


def _footprint(patch: Patch, name: str) -> None:
    """Paint what an empty place shows."""
    copper = (0.78, 0.66, 0.36)
    if name == "hole":
        patch.disc(0, 0, 0.115, copper)
        patch.disc(0, 0, 0.070, (0.06, 0.07, 0.06))
    elif name == "short":
        patch.rectangles((0.085,), (), 0.035, 0.055, copper)
    else:
        patch.rectangles((0.12, 0.06), (0.09,), 0.032, 0.032, copper)


def draw_nuisances(random: np.random.Generator, shape: tuple[int, int], *, shift: float, rotation: float) -> Values:
    """Draw the circumstances of images: arrays ``[images]`` or, for each place or speck, ``[images, ...]``."""
    n = shape[0]
    normal = {name: spread * random.standard_normal(n) for name, spread in NUISANCES.items() if name != "tint"}
    tolerances = {name: spread * random.standard_normal(shape) for name, spread in TOLERANCES.items()}
    specks = random.uniform((-1, -1, 0.012, 0.05), (1, 1, 0.05, 0.5), (n, SPECKS, 4))  # x, y, radius, shade
    specks[np.arange(SPECKS) >= random.integers(0, SPECKS + 1, n)[:, None], 2] = 0
    return {
        **normal,
        **tolerances,
        "slot": random.uniform(0, np.pi, shape),
        "tint": NUISANCES["tint"] * random.standard_normal((n, 3)),
        "specks": specks,
        "rotation": np.deg2rad(rotation) * random.uniform(-1, 1, n),
        "shift": 2 * shift * random.uniform(-1, 1, (n, 2)),
    }


def paint(
    random: np.random.Generator, boards: np.ndarray, places: tuple[Place, ...], nuisances: Values, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw boards as a camera sees them.

    Args:
        random: Noise of the camera.
        boards: For every place the row of ``PARTS`` in it, negative for none, ``int [n, places]``.
        places: The places.
        nuisances: See :func:`draw_nuisances`.
        size: Height and width in pixels.

    Returns:
        Images ``uint8 [n, height, width, 3]``, RGB; masks ``uint8 [n, height, width]``, 0 where there is no part.
    """
    n = len(boards)
    nuisances = {name: values.astype(np.float32) for name, values in nuisances.items()}
    camera = _Camera(nuisances, size)
    image, mask = _draw_empty_boards(camera), np.zeros((n, *size), np.uint8)
    for index, place in enumerate(places):
        of_place = {name: nuisances[name][:, index] for name in (*TOLERANCES, "slot")}
        angle = of_place["slot"] if place.footprint == "hole" else of_place["angle"]
        window, x, y = camera.window(place.x, place.y, REACH[place.footprint])
        patch = Patch(image[window], x, y, np.ones(n, np.float32), camera.softness)
        _footprint(patch, place.footprint)
        image[window] = patch.image
        x, y = _rotate(x - of_place["dx"][:, None, None], y - of_place["dy"][:, None, None], angle)
        patch = Patch(patch.image, x, y, np.exp(of_place["shade"]), camera.softness)
        for row, part in enumerate(PARTS.values()):
            chosen = np.flatnonzero(boards[:, index] == row)
            if len(chosen):
                of_part, inside = patch.select(chosen), tuple(axis[chosen] for axis in window)
                outline = part.draw(of_part, part.look)
                image[inside] = of_part.image
                mask[inside] = np.where(outline < 0, np.uint8(place.mask), mask[inside])
    _paint_specks(camera, image, nuisances["specks"])
    return _photograph(random, camera, image, nuisances), mask


class _Camera:
    """Pixels of images, and their coordinates on boards that are rotated and shifted."""

    def __init__(self, nuisances: Values, size: tuple[int, int]) -> None:
        self.size, self.half = size, np.array(size, np.float32) / 2
        self.rotation, self.shift = nuisances["rotation"], nuisances["shift"]
        self.softness = np.float32(1 / self.half.min())

    def locate(self, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return x and y on the board of pixels ``[n, rows, columns]``; a board is stretched to the image's shape."""
        height, width = self.half
        right = columns + np.float32(0.5) - width * (1 + self.shift[:, 0, None, None])
        down = rows + np.float32(0.5) - height * (1 + self.shift[:, 1, None, None])
        x, y = _rotate(right, down, self.rotation)
        return x / width, y / height

    def window(self, x: float, y: float, reach: float) -> tuple[tuple, np.ndarray, np.ndarray]:
        """Return the index of the pixels round a point of every board, and their x and y from that point."""
        height, width = self.half
        right, down = _rotate(x * width, y * height, -self.rotation)
        middle = np.stack([down + height * (1 + self.shift[:, 1]), right + width * (1 + self.shift[:, 0])], -1)
        # Rotated, a reach along the longer axis of the image may lie along the shorter one.
        extent = np.minimum(int(2 * reach * self.half.max()) + 2, self.size)
        first = np.clip(np.round(middle - extent / 2).astype(int), 0, np.array(self.size) - extent)
        rows = (first[:, 0, None] + np.arange(extent[0]))[:, :, None]
        columns = (first[:, 1, None] + np.arange(extent[1]))[:, None, :]
        on_board = self.locate(rows.astype(np.float32), columns.astype(np.float32))
        return (np.arange(len(first))[:, None, None], rows, columns), on_board[0] - x, on_board[1] - y


def _rotate(x: np.ndarray, y: np.ndarray, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    angle = angle.reshape(-1, *[1] * (np.ndim(x) - 1))
    cos, sin = np.cos(angle), np.sin(angle)
    return cos * x + sin * y, cos * y - sin * x


def _draw_empty_boards(camera: _Camera) -> np.ndarray:
    rows, columns = (np.arange(length, dtype=np.float32) for length in camera.size)
    x, y = camera.locate(rows[None, :, None], columns[None, None, :])
    image = np.full((*x.shape, 3), (0.20, 0.20, 0.21), np.float32)
    patch = Patch(image, x, y, np.ones(len(x), np.float32), camera.softness)
    patch.rectangles((), (), BOARD, BOARD, (0.10, 0.36, 0.20))
    for x, y, rx, ry in (((0.28, 0.28), (), 0.012, 0.78), ((), (0.28, 0.28), 0.78, 0.012)):
        patch.rectangles(x, y, rx, ry, (0.16, 0.47, 0.28))  # tracks
    return patch.image


def _paint_specks(camera: _Camera, image: np.ndarray, specks: np.ndarray) -> None:
    """Paint dirt, which lies on the camera's side: it does not move with the board."""
    height, width = camera.half
    for n, k in zip(*np.nonzero(specks[:, :, 2]), strict=True):
        x, y, radius, shade = specks[n, k]
        rows, columns = (
            slice(max(int((1 + middle - radius) * half) - 1, 0), int((1 + middle + radius) * half) + 2)
            for middle, half in ((y, height), (x, width))
        )
        down = np.arange(*rows.indices(camera.size[0])) + 0.5
        right = np.arange(*columns.indices(camera.size[1])) + 0.5
        distance = np.hypot(right / width - 1 - x, (down / height - 1 - y)[:, None]) - radius
        share = np.clip(0.5 - distance / camera.softness, 0, 1)[..., None]
        image[n, rows, columns] += share * (shade - image[n, rows, columns])


def _photograph(random: np.random.Generator, camera: _Camera, image: np.ndarray, nuisances: Values) -> np.ndarray:
    rows, columns = (((np.arange(length) + 0.5) / length * 2 - 1).astype(np.float32) for length in camera.size)
    of_image = {name: nuisances[name][:, None, None] for name in NUISANCES}
    light = of_image["gain"] + of_image["light_x"] * columns + of_image["light_y"] * rows[:, None]
    image *= np.exp(light)[..., None] * np.exp(of_image["tint"])
    share = np.minimum(np.abs(of_image["blur"]), 1)[..., None]
    for axis in (1, 2):
        near = (np.roll(image, 1, axis) + np.roll(image, -1, axis) + image) / 3
        image += share * (near - image)
    image += np.abs(of_image["noise"])[..., None] * random.standard_normal(image.shape, dtype=np.float32)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
