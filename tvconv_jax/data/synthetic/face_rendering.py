"""Drawing of the faces of :mod:`tvconv_jax.data.synthetic.faces`, compiled and in batches."""

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tvconv_jax.data.synthetic.faces import Values

CHUNK = 48  # images drawn by one call of the compiled programs


def render(identities: Values, photos: Values, image_size: int = 48) -> np.ndarray:
    """Draw one image for every row of :func:`draw_identities` and :func:`draw_photos`, compiled for the device.

    Returns:
        ``uint8 [n, image_size, image_size, 3]``, RGB.
    """
    count, starts = len(photos["noise_seed"]), range(0, len(photos["noise_seed"]), CHUNK)
    images = np.empty((count, image_size, image_size, 3), np.uint8)
    seeds = (photos["noise_seed"][start : start + CHUNK] for start in starts)
    with ThreadPoolExecutor(2) as pool:  # NumPy draws the noise of the next images meanwhile
        for start, noise in zip(starts, pool.map(lambda part: _noise(part, image_size), seeds), strict=True):
            rows = np.minimum(np.arange(start, start + CHUNK), count - 1)  # one shape, so one program
            p, q = (_columns(values, rows) for values in (identities, photos))
            images[start : start + CHUNK] = np.asarray(_draw(p, q, noise, image_size))[: count - start]
    return images


def _columns(values: Values, rows: np.ndarray) -> Values:
    return {name: column[rows].astype(np.float32)[:, None, None] for name, column in values.items()}


def _noise(seeds: np.ndarray, size: int) -> np.ndarray:
    """Draw standard normal numbers ``float32 [CHUNK, size, size, 3]`` for seeds ``[n]``; those of no image are 0."""
    noise = np.zeros((CHUNK, size, size, 3), np.float32)
    for row, seed in zip(noise, seeds.astype(np.int64), strict=False):
        np.random.default_rng(seed).standard_normal(dtype=np.float32, out=row)
    return noise


class _Grid(NamedTuple):
    """Coordinates of every pixel in its face, ``[n, size, size]``, and the width of a soft edge."""

    x: jax.Array
    y: jax.Array
    softness: Any


class _Ellipse(NamedTuple):
    """An ellipse to paint: numbers, or arrays ``[n, 1, 1]``; its center line may lean and bend."""

    x: Any
    y: Any
    rx: Any
    ry: Any
    color: Sequence[Any]  # red, green, blue
    opacity: float = 1.0
    lean: Any = 0.0
    bend: Any = 0.0
    inside: float = 0.0  # 1: only inside of the ellipse before


def _draw(p: Values, q: Values, noise: np.ndarray, size: int) -> jax.Array:
    """Draw images ``uint8 [n, size, size, 3]`` of values ``[n, 1, 1]``.

    Each step is a program of its own: XLA would repeat the steps before a blur for every pixel that it reads.
    """
    image, grid = _background(q, _stripes(q, size))
    skin, hair = _tones(p)
    image = _paint_head(image, grid, p, skin, hair)
    image = _paint_ellipses(image, grid, _table(_features(p, q, skin, hair)))
    image = _light(image, q)
    for axis in (2, 3):
        image = _blur(image, q["blur"], axis)
    return _develop(image, q["noise"], noise)


@jax.jit
def _background(q: Values, stripes: tuple[np.ndarray, ...]) -> tuple[jax.Array, _Grid]:
    (across, across_cos), (down, down_cos) = stripes
    size = across.shape[2]
    frame_x, frame_y = _frame(size)
    x, y = (frame_x - q["shift"]) / jnp.exp(q["zoom"]), (frame_y - q["shift_y"]) / jnp.exp(q["zoom"])
    cos, sin = jnp.cos(q["turn"]), jnp.sin(q["turn"])
    wave = across * down_cos + across_cos * down  # the sine of a sum
    image = jnp.stack([0.5 + q[f"background_{c}"] + q[f"stripes_{c}"] * wave for c in range(3)])
    return image, _Grid(cos * x + sin * y, cos * y - sin * x, 2.0 / size)


def _stripes(q: Values, size: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Return sine and cosine of the stripes' phase along x ``[n, 1, size]`` and along y ``[n, size, 1]``."""
    frame_x, frame_y = _frame(size)
    across = q["stripe_step"] * np.cos(q["stripe_angle"]) * frame_x
    down = q["stripe_step"] * np.sin(q["stripe_angle"]) * frame_y + q["stripe_phase"]
    return tuple((np.sin(phase), np.cos(phase)) for phase in (across, down))


def _frame(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x ``[1, 1, size]`` and y ``[1, size, 1]`` of the pixels in the image."""
    axis = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
    return axis[None, None, :], axis[None, :, None]


def _tones(p: Values) -> tuple[list, list]:
    """Return the colors of skin and hair, each red, green and blue ``[n, 1, 1]``."""
    tone, warmth = np.tanh(p["skin"]), np.tanh(p["skin_warmth"])
    skin = [0.72 + 0.17 * tone + 0.03 * warmth, 0.55 + 0.17 * tone, 0.45 + 0.17 * tone - 0.05 * warmth]
    tone, warmth = np.tanh(p["hair"]), np.tanh(p["hair_warmth"])
    hair = [0.30 + 0.20 * tone + 0.06 * warmth, 0.22 + 0.17 * tone, 0.17 + 0.14 * tone - 0.05 * warmth]
    return skin, hair


def _paint(image: jax.Array, distance: jax.Array, color: Sequence[Any], opacity: Any, softness: Any) -> jax.Array:
    """Cover the inside of an outline, by the signed distance to it (negative inside); the edge is a pixel soft.

    The image is ``[3, n, size, size]``.
    """
    mask = jnp.clip(0.5 - distance / softness, 0, 1) * opacity
    color = jnp.stack([jnp.broadcast_to(c, (distance.shape[0], 1, 1)) for c in color])
    return image + mask[None] * (color - image)


def _outline(grid: _Grid, y: float, rx: Any, ry: Any, power: Any) -> jax.Array:
    """Approximate the signed distance to ``|X / rx|^power + |(Y - y) / ry|^power = 1``."""
    u, v = jnp.abs(grid.x / rx), jnp.abs((grid.y - y) / ry)
    total = jnp.exp(power * jnp.log(u)) + jnp.exp(power * jnp.log(v))  # XLA has no fast power on CPUs
    return (jnp.exp(jnp.log(total) / power) - 1) * jnp.minimum(rx, ry)


@jax.jit
def _paint_head(image: jax.Array, grid: _Grid, p: Values, skin: list, hair: list) -> jax.Array:
    width, chin = p["face_width"], p["chin"]
    neck = (jnp.sqrt((grid.x / 0.36) ** 2 + ((grid.y - 1.35) / 0.75) ** 2) - 1) * 0.36
    image = _paint(image, neck, [s * 0.86 for s in skin], 1.0, grid.softness)
    image = _paint(image, _outline(grid, -0.18, width + p["hair_side"], 0.74, 2.4), hair, 1.0, grid.softness)
    image = _paint(image, _outline(grid, 0.02, width, chin - 0.02, p["jaw"]), skin, 1.0, grid.softness)
    above = grid.y - p["hairline"] - 0.25 * grid.x**2
    above = jnp.maximum(_outline(grid, 0.0, width + 0.03, chin, 2.2), above)
    image = _paint(image, above, hair, 1.0, grid.softness)
    bottom, length = p["eye_height"] + p["nose_length"], p["nose_length"]
    ridge = jnp.maximum(jnp.abs(grid.x) - 0.35 * p["nose_width"], jnp.abs(grid.y - bottom / 2 - 0.02) - length / 2)
    return _paint(image, ridge, [s * 1.07 for s in skin], 0.5, grid.softness)


def _features(p: Values, q: Values, skin: list, hair: list) -> list[_Ellipse]:
    """Return the ellipses of a face, in the order of painting."""
    cheek = [s + p["cheek"] * a for s, a in zip(skin, (1, -1, -1), strict=True)]
    cheeks = [_Ellipse(side * 0.38, 0.25, 0.17, 0.13, cheek, 0.6) for side in (-1, 1)]
    dark = [s * p["nose_shade"] for s in skin]
    nose_y = p["eye_height"] + p["nose_length"]
    nose = [_Ellipse(0, nose_y, p["nose_width"], 0.05, dark, 0.85)]
    for side in (-1, 1):
        nose.append(_Ellipse(side * 0.55 * p["nose_width"], nose_y + 0.02, 0.03, 0.022, [s * 0.45 for s in skin]))
    mole = _Ellipse(p["mole_x"], p["mole_y"], 0.035, 0.035, [s * p["mole_shade"] for s in skin], 0.9)
    return [*cheeks, *_eye(-1, p, q, dark, hair), *_eye(1, p, q, dark, hair), *nose, *_mouth(p, q), mole]


def _eye(side: int, p: Values, q: Values, dark: list, hair: list) -> list[_Ellipse]:
    x, y, width = side * p["eye_distance"], p["eye_height"], p["eye_width"]
    opening, lean = p["eye_opening"] * np.clip(1 + q["eyelid"], 0.25, 1.6), side * p["eye_tilt"]
    brow_y, brow_lean = y - p["brow_gap"] - q["brow_raise"], side * p["brow_tilt"]
    thickness = np.maximum(p["brow_thickness"], 0.015)
    iris = [p["iris"] * 0.8, p["iris"], p["iris"] * 1.1]
    return [
        _Ellipse(x, y, width + 0.03, opening + 0.03, dark, 0.6, lean),
        _Ellipse(x, y, width, opening, [0.93] * 3, lean=lean),
        _Ellipse(x, y, 0.055, 0.06, iris, lean=lean, inside=1.0),
        _Ellipse(x, brow_y, width + 0.05, thickness, hair, 0.9, brow_lean, 2 * p["brow_bend"]),
    ]


def _mouth(p: Values, q: Values) -> list[_Ellipse]:
    y, bend = p["mouth_height"] + 0.15 * q["smile"], -8.8 * q["smile"]
    opening, width = np.maximum(q["open_mouth"], 0) * 0.12, p["mouth_width"] * (1 + 0.6 * q["smile"])
    lips = [0.66 + p["lip_shade"], 0.33 + 0.5 * p["lip_shade"], 0.33 + 0.3 * p["lip_shade"]]
    return [
        _Ellipse(0, y, width, p["lip_thickness"] + opening, lips, bend=bend),
        _Ellipse(0, y, width * 0.9, 0.010 + opening, [0.22, 0.08, 0.08], bend=bend),
    ]


def _table(ellipses: Sequence[_Ellipse]) -> _Ellipse:
    """Return ellipses as one, whose fields hold their values stacked: ``float32 [m, n, 1, 1]``."""
    rows = [jax.tree.leaves(row) for row in ellipses]
    count = max(np.shape(value)[0] for value in rows[0] if np.ndim(value))
    columns = [
        np.stack([np.broadcast_to(np.float32(value), (count, 1, 1)) for value in column])
        for column in zip(*rows, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(ellipses[0]), columns)


@jax.jit
def _paint_ellipses(image: jax.Array, grid: _Grid, table: _Ellipse) -> jax.Array:
    """Paint the ellipses of a table one after the other."""

    def paint(carry: tuple[jax.Array, jax.Array], row: _Ellipse) -> tuple[tuple[jax.Array, jax.Array], None]:
        image, before = carry
        across = grid.x - row.x
        u, v = across / row.rx, (grid.y - row.y - row.lean * across - row.bend * across**2) / row.ry
        distance = (jnp.sqrt(u**2 + v**2) - 1) * jnp.minimum(row.rx, row.ry)
        distance = jnp.maximum(distance, jnp.where(row.inside > 0, before, -jnp.inf))
        return (_paint(image, distance, row.color, row.opacity, grid.softness), distance), None

    return jax.lax.scan(paint, (image, jnp.zeros_like(grid.x)), table)[0][0]


@jax.jit
def _light(image: jax.Array, q: Values) -> jax.Array:
    """Cover a part of some images, and light them."""
    frame_x, frame_y = _frame(image.shape[2])
    u = jnp.abs(frame_x - q["cover_x"]) - q["cover_width"]
    v = jnp.abs(frame_y - q["cover_y"]) - q["cover_height"]
    cover = [0.5 + q[f"cover_{c}"] for c in range(3)]
    image = _paint(image, jnp.maximum(u, v), cover, q["covered"], 2.0 / image.shape[2])
    light = jnp.exp(q["gain"] + q["light_x"] * frame_x + q["light_y"] * frame_y)
    return image * light[None] * jnp.stack([jnp.exp(q[f"tint_of_{c}"]) for c in range(3)])


@functools.partial(jax.jit, static_argnames="axis")
def _blur(image: jax.Array, strength: jax.Array, axis: int) -> jax.Array:
    share = jnp.clip(jnp.abs(strength), 0, 1)[None]
    near = (jnp.roll(image, 1, axis) + jnp.roll(image, -1, axis) + image) / 3
    return image + share * (near - image)


@jax.jit
def _develop(image: jax.Array, strength: jax.Array, noise: jax.Array) -> jax.Array:
    image = jnp.moveaxis(image, 0, -1) + jnp.abs(strength)[..., None] * noise
    return (jnp.clip(image, 0, 1) * 255 + 0.5).astype(jnp.uint8)
