"""Drawing of the faces of :mod:`tvconv_jax.data.synthetic.faces`, compiled and in batches."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tvconv_jax.data.synthetic.faces import Values

CHUNK = 48  # images drawn by one call of the compiled programs
COLORS = "background", "stripes", "cover", "tint_of"
VALUES = (
    *("shift", "shift_y", "cos", "sin", "gain", "light_x", "light_y"),
    *("covered", "cover_x", "cover_y", "cover_width", "cover_height"),
    *("hairline", "nose_y", "nose_width", "nose_length"),
)


def render(identities: Values, photos: Values, image_size: int = 48) -> np.ndarray:
    """Draw one image for every row of :func:`draw_identities` and :func:`draw_photos`, compiled for the device.

    Returns:
        ``uint8 [n, image_size, image_size, 3]``, RGB; each image depends on its row alone.
    """
    count, starts = len(photos["noise_seed"]), range(0, len(photos["noise_seed"]), CHUNK)
    rows = np.minimum(np.arange(len(starts) * CHUNK), count - 1)  # one shape, so one program
    p, q = ({key: column[rows].astype(np.float32) for key, column in values.items()} for values in (identities, photos))
    scene = _scene(p, q | {"noise_seed": photos["noise_seed"][rows].astype(np.uint32)}, image_size)

    def draw(start: int) -> np.ndarray:
        return np.asarray(_draw(jax.tree.map(lambda array: array[..., start : start + CHUNK, None], scene), image_size))

    return np.concatenate([draw(start) for start in starts])[:count]


class _Outline(NamedTuple):
    """A curve ``|X / rx|^power + |(Y - y) / ry|^power = 1`` to fill: numbers, or arrays whose last axis are images."""

    color: Any  # red, green, blue
    y: Any
    rx: Any
    ry: Any
    power: Any
    above: float = 0.0  # 1: only above the hairline


class _Ellipse(NamedTuple):
    """An ellipse to paint: numbers, or arrays whose last axis are images; its center line may lean and bend."""

    color: Any  # red, green, blue
    x: Any
    y: Any
    rx: Any
    ry: Any
    opacity: float = 1.0
    lean: Any = 0.0
    bend: Any = 0.0
    mirror: float = -1.0  # -1: on both sides of the face, as one shape; 1: where it is
    inside: float = 0.0  # 1: only inside of the ellipse before


class _Scene(NamedTuple):
    """The content of images, the last axis of all arrays; in the compiled programs an axis of pixels follows."""

    values: np.ndarray  # VALUES
    colors: np.ndarray  # of skin and COLORS: [5, 3, n]
    stripes: np.ndarray  # sine and cosine of their phase along x, cosine and sine along y: [2, 2, size, n]
    outlines: tuple[np.ndarray, np.ndarray]  # colors [m, 3, n], and other fields [m, fields, n]
    ellipses: tuple[np.ndarray, np.ndarray]
    blur: np.ndarray
    noise: np.ndarray
    noise_seed: np.ndarray


def _scene(p: Values, q: Values, size: int) -> _Scene:
    """Compute what the compiled programs need of the values ``[n]`` of identities and photographs."""
    skin, hair = _tones(p)
    scale, axis = np.exp(-q["zoom"]), _axis(size)[:, None]
    values = p | q | {"cos": scale * np.cos(q["turn"]), "sin": scale * np.sin(q["turn"])}
    values["nose_y"] = p["eye_height"] + p["nose_length"]
    across = q["stripe_step"] * np.cos(q["stripe_angle"]) * axis
    down = q["stripe_step"] * np.sin(q["stripe_angle"]) * axis + q["stripe_phase"]
    return _Scene(
        values=np.stack([values[name] for name in VALUES]),
        colors=np.stack([skin, *([q[f"{name}_{c}"] for c in range(3)] for name in COLORS)]),
        stripes=np.stack([[np.sin(across), np.cos(across)], [np.cos(down), np.sin(down)]]),
        outlines=_table(_outlines(p, skin, hair)),
        ellipses=_table(_features(p, q, skin, hair)),
        **{name: q[name] for name in ("blur", "noise", "noise_seed")},
    )


def _axis(size: int) -> np.ndarray:
    """Return x, or y, of the pixels along an image."""
    return ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)


def _tones(p: Values) -> tuple[np.ndarray, np.ndarray]:
    """Return the colors of skin and hair, ``[3, n]``."""
    tone, warmth = np.tanh(p["skin"]), np.tanh(p["skin_warmth"])
    skin = [0.72 + 0.17 * tone + 0.03 * warmth, 0.55 + 0.17 * tone, 0.45 + 0.17 * tone - 0.05 * warmth]
    tone, warmth = np.tanh(p["hair"]), np.tanh(p["hair_warmth"])
    hair = [0.30 + 0.20 * tone + 0.06 * warmth, 0.22 + 0.17 * tone, 0.17 + 0.14 * tone - 0.05 * warmth]
    return np.stack(skin), np.stack(hair)


def _outlines(p: Values, skin: np.ndarray, hair: np.ndarray) -> list[_Outline]:
    """Return the outlines of hair, face, and hair above the face, in the order of painting."""
    width, chin = p["face_width"], p["chin"]
    return [
        _Outline(hair, -0.18, width + p["hair_side"], 0.74, 2.4),
        _Outline(skin, 0.02, width, chin - 0.02, np.maximum(p["jaw"], 1)),
        _Outline(hair, 0.0, width + 0.03, chin, 2.2, above=1.0),
    ]


def _features(p: Values, q: Values, skin: np.ndarray, hair: np.ndarray) -> list[_Ellipse]:
    """Return the ellipses of a face, in the order of painting."""
    cheek = _Ellipse(skin + p["cheek"] * _color(1, -1, -1), 0.38, 0.25, 0.17, 0.13, 0.6)
    dark, nose_y = skin * p["nose_shade"], p["eye_height"] + p["nose_length"]
    nose = _Ellipse(dark, 0, nose_y, p["nose_width"], 0.05, 0.85)
    nostril = _Ellipse(skin * 0.45, 0.55 * p["nose_width"], nose_y + 0.02, 0.03, 0.022)
    mole = _Ellipse(skin * p["mole_shade"], p["mole_x"], p["mole_y"], 0.035, 0.035, 0.9, mirror=1.0)
    return [cheek, *_eye(p, q, dark, hair), nose, nostril, *_mouth(p, q), mole]


def _eye(p: Values, q: Values, dark: np.ndarray, hair: np.ndarray) -> list[_Ellipse]:
    x, y, width, lean = p["eye_distance"], p["eye_height"], p["eye_width"], p["eye_tilt"]
    opening, brow_y = p["eye_opening"] * np.clip(1 + q["eyelid"], 0.25, 1.6), y - p["brow_gap"] - q["brow_raise"]
    thickness = np.maximum(p["brow_thickness"], 0.015)
    return [
        _Ellipse(dark, x, y, width + 0.03, opening + 0.03, 0.6, lean),
        _Ellipse(_color(0.93, 0.93, 0.93), x, y, width, opening, lean=lean),
        _Ellipse(p["iris"] * _color(0.8, 1.0, 1.1), x, y, 0.055, 0.06, lean=lean, inside=1.0),
        _Ellipse(hair, x, brow_y, width + 0.05, thickness, 0.9, p["brow_tilt"], 2 * p["brow_bend"]),
    ]


def _mouth(p: Values, q: Values) -> list[_Ellipse]:
    y, bend = p["mouth_height"] + 0.15 * q["smile"], -8.8 * q["smile"]
    opening, width = np.maximum(q["open_mouth"], 0) * 0.12, p["mouth_width"] * (1 + 0.6 * q["smile"])
    lips = _color(0.66, 0.33, 0.33) + p["lip_shade"] * _color(1.0, 0.5, 0.3)
    return [
        _Ellipse(lips, 0, y, width, p["lip_thickness"] + opening, bend=bend),
        _Ellipse(_color(0.22, 0.08, 0.08), 0, y, width * 0.9, 0.010 + opening, bend=bend),
    ]


def _color(*channels: float) -> np.ndarray:
    return np.array(channels, np.float32)[:, None]


def _table(shapes: Sequence[_Outline | _Ellipse]) -> tuple[np.ndarray, np.ndarray]:
    """Return the colors of m shapes ``float32 [m, 3, n]``, and their other fields ``[m, fields, n]``."""
    colors = np.stack(np.broadcast_arrays(*(shape.color for shape in shapes)))
    rows = [[np.broadcast_to(value, colors.shape[-1]) for value in shape[1:]] for shape in shapes]
    return colors, np.array(rows, np.float32)


def _draw(scene: _Scene, size: int) -> jax.Array:
    """Draw images ``uint8 [n, size, size, 3]``.

    Each step is a program of its own: XLA would repeat the steps before a blur for every pixel that it reads.
    """
    image = _paint(scene, size)
    for axis in (2, 3):
        image = _blur(image, scene.blur, axis)
    return _develop(image, scene.noise, scene.noise_seed)


class _Grid(NamedTuple):
    """Coordinates of every pixel in its face, ``[n, size * size]``."""

    x: jax.Array
    y: jax.Array
    size: int

    def mask(self, distance: jax.Array) -> jax.Array:
        """Return 1 inside of an outline, by the signed distance to it (negative inside); the edge is a pixel soft."""
        return jnp.clip(0.5 - distance * (self.size / 2), 0, 1)


@functools.partial(jax.jit, static_argnames="size")
def _paint(scene: _Scene, size: int) -> jax.Array:
    """Paint and light images ``float32 [3, n, size, size]``."""
    v = dict(zip(VALUES, scene.values, strict=True))
    skin, background, stripes, cover, tint = scene.colors
    frame_x, frame_y = (axis.reshape(1, -1) for axis in np.meshgrid(_axis(size), _axis(size)))
    x, y = frame_x - v["shift"], frame_y - v["shift_y"]
    grid = _Grid(v["cos"] * x + v["sin"] * y, v["cos"] * y - v["sin"] * x, size)
    wave = jnp.einsum("kjn,kin->nij", *scene.stripes[..., 0], precision="highest")  # the sine of a sum
    image = 0.5 + background + stripes * wave.reshape(1, *grid.x.shape)
    image = _paint_head(image, grid, v, skin, scene.outlines)
    image = _paint_ellipses(image, grid, scene.ellipses)
    beside = jnp.abs(frame_x - v["cover_x"]) - v["cover_width"]
    outside = jnp.maximum(beside, jnp.abs(frame_y - v["cover_y"]) - v["cover_height"])
    image = _over(image, v["covered"] * grid.mask(outside), 0.5 + cover)
    light = jnp.exp(v["gain"] + v["light_x"] * frame_x + v["light_y"] * frame_y)
    return (image * light[None] * jnp.exp(tint)).reshape(3, -1, size, size)


def _over(image: jax.Array, mask: jax.Array, color: jax.Array) -> jax.Array:
    """Cover images ``[3, n, pixels]`` with a color where the mask ``[n, pixels]`` is 1."""
    return image + mask[None] * (color - image)


def _paint_head(image: jax.Array, grid: _Grid, v: Values, skin: jax.Array, outlines: tuple) -> jax.Array:
    x, y = grid.x, grid.y
    neck = (jnp.sqrt((x / 0.36) ** 2 + ((y - 1.35) / 0.75) ** 2) - 1) * 0.36
    image = _over(image, grid.mask(neck), 0.86 * skin)
    log_x, above = jnp.log(jnp.abs(x)), grid.mask(y - v["hairline"] - 0.25 * x**2)

    def fill(image: jax.Array, row: tuple) -> tuple[jax.Array, None]:
        row = _Outline(row[0], *row[1])
        log_y = jnp.log(jnp.abs(y - row.y))
        excess = jnp.exp(row.power * (log_x - jnp.log(row.rx))) + jnp.exp(row.power * (log_y - jnp.log(row.ry))) - 1
        # A Pade approximant of (1 + excess)^(1 / power) - 1, exact to 1e-5 where the edge is soft.
        distance = excess / (row.power + (row.power - 1) / 2 * excess) * jnp.minimum(row.rx, row.ry)
        return _over(image, jnp.minimum(grid.mask(distance), jnp.maximum(above, 1 - row.above)), row.color), None

    image = jax.lax.scan(fill, image, outlines)[0]
    beside, middle = jnp.abs(x) - 0.35 * v["nose_width"], v["nose_y"] / 2 + 0.02
    ridge = jnp.maximum(beside, jnp.abs(y - middle) - v["nose_length"] / 2)
    return _over(image, 0.5 * grid.mask(ridge), 1.07 * skin)


def _paint_ellipses(image: jax.Array, grid: _Grid, ellipses: tuple) -> jax.Array:
    def paint(carry: tuple[jax.Array, jax.Array], row: tuple) -> tuple[tuple[jax.Array, jax.Array], None]:
        (image, before), row = carry, _Ellipse(row[0], *row[1])
        across = jnp.maximum(grid.x, row.mirror * grid.x) - row.x
        # Products for every pixel, a division for every image alone.
        u, v = across * (1 / row.rx), (grid.y - row.y - row.lean * across - row.bend * across**2) * (1 / row.ry)
        mask = grid.mask((jnp.sqrt(u**2 + v**2) - 1) * jnp.minimum(row.rx, row.ry))
        mask = jnp.minimum(mask, jnp.maximum(before, 1 - row.inside))
        return (_over(image, row.opacity * mask, row.color), mask), None

    return jax.lax.scan(paint, (image, jnp.ones_like(grid.x)), ellipses)[0][0]


@functools.partial(jax.jit, static_argnames="axis")
def _blur(image: jax.Array, strength: jax.Array, axis: int) -> jax.Array:
    share = jnp.clip(jnp.abs(strength), 0, 1)[None, ..., None]
    near = (jnp.roll(image, 1, axis) + jnp.roll(image, -1, axis) + image) / 3
    return image + share * (near - image)


@jax.jit
def _develop(image: jax.Array, strength: jax.Array, seeds: jax.Array) -> jax.Array:
    """Add noise to images ``[3, n, size, size]``; return them as ``uint8 [n, size, size, 3]``."""
    image = jnp.moveaxis(image, 0, -1)
    image += jnp.abs(strength)[..., None, None] * _noise(seeds[..., None, None], image.shape[1:])
    return (jnp.clip(image, 0, 1) * 255 + 0.5).astype(jnp.uint8)


def _noise(seeds: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draw standard normal numbers ``float32 [n, *shape]``, those of an image by its seed ``uint32 [n, 1, ...]``."""
    position = jax.lax.iota(jnp.uint32, int(np.prod(shape))).reshape(1, *shape)
    bits = _hash(_hash(position) ^ seeds) >> 9  # 23: with the half that follows, a float32 holds no more
    return 2**0.5 * jax.lax.erf_inv((bits.astype(jnp.float32) + 0.5) * 2.0**-22 - 1)


def _hash(bits: jax.Array) -> jax.Array:
    """Hash ``uint32`` numbers: lowbias32 of Wellons' hash-prospector, in a tenth of the time of ``jax.random``."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    return bits ^ (bits >> 16)
