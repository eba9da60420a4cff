"""Synthetic faces, drawn by this code alone; identity lies in the geometry and shade of placed features.

An identity is a vector of numbers (``IDENTITY``: eye spacing, jaw, brows, shades, ...), a photograph another one
(``PHOTO``: light, expression, small rotation and shift, blur, occlusion, background). Both tables below set the
difficulty of the set. Coordinates: the face is centered at (0, 0), x to the right, y down, eyes near y = -0.2, chin
near y = 0.85; the image spans [-1, 1].
"""

import numpy as np

# name: (mean, standard deviation between identities)
IDENTITY = {
    "face_width": (0.62, 0.040),
    "jaw": (2.3, 0.25),
    "chin": (0.84, 0.040),
    "hairline": (-0.56, 0.060),
    "hair_side": (0.10, 0.035),
    "eye_distance": (0.29, 0.022),
    "eye_height": (-0.16, 0.022),
    "eye_width": (0.125, 0.014),
    "eye_opening": (0.062, 0.010),
    "eye_tilt": (0.0, 0.10),
    "brow_gap": (0.15, 0.022),
    "brow_thickness": (0.035, 0.009),
    "brow_tilt": (0.0, 0.12),
    "brow_bend": (0.25, 0.25),
    "nose_length": (0.34, 0.035),
    "nose_width": (0.10, 0.018),
    "nose_shade": (0.80, 0.06),
    "mouth_height": (0.46, 0.030),
    "mouth_width": (0.23, 0.028),
    "lip_thickness": (0.055, 0.012),
    "lip_shade": (0.0, 0.10),
    "cheek": (0.0, 0.05),
    "mole_x": (0.0, 0.30),
    "mole_y": (0.20, 0.25),
    "mole_shade": (0.5, 0.25),
    "iris": (0.28, 0.10),
    "skin": (0.0, 0.7),
    "skin_warmth": (0.0, 0.6),
    "hair": (0.0, 0.9),
    "hair_warmth": (0.0, 0.8),
}

# name: standard deviation (share, for *_share) in the training photographs
PHOTO = {
    "turn": 0.07,  # radians
    "shift": 0.035,  # half images
    "zoom": 0.05,
    "light_x": 0.30,  # change of brightness from one side to the other
    "light_y": 0.22,
    "gain": 0.16,
    "tint": 0.07,  # change of each color
    "smile": 0.10,
    "open_mouth": 0.35,
    "brow_raise": 0.035,
    "eyelid": 0.22,
    "blur": 0.45,
    "noise": 0.035,
    "occlusion_share": 0.20,
}

# Sets of identities never trained on; each exaggerates some nuisances in both images of a pair.
VERIFICATION = {
    "light": {"light_x": 1.9, "light_y": 1.9, "gain": 1.5, "tint": 1.8},
    "expression": {"smile": 1.9, "open_mouth": 1.9, "brow_raise": 1.9, "eyelid": 1.6},
    "pose": {"turn": 1.8, "shift": 1.8, "zoom": 1.8},
    "occlusion": {"occlusion_share": 3.5, "blur": 1.6, "noise": 1.5},
}

Values = dict[str, np.ndarray]


def draw_identities(random: np.random.Generator, count: int) -> Values:
    """Draw identities: an array ``[count]`` for every row of ``IDENTITY``."""
    return {name: mean + spread * random.standard_normal(count) for name, (mean, spread) in IDENTITY.items()}


def draw_photos(random: np.random.Generator, count: int, exaggerate: dict[str, float] | None = None) -> Values:
    """Draw the circumstances of ``count`` photographs, each nuisance times its factor in ``exaggerate``."""
    scale = {name: spread * (exaggerate or {}).get(name, 1.0) for name, spread in PHOTO.items()}
    normal = {name: scale[name] * random.standard_normal(count) for name in PHOTO if not name.endswith("_share")}
    colors = {
        f"{name}_{c}": s * random.standard_normal(count)
        for c in range(3)
        for name, s in (("tint_of", scale["tint"]), ("background", 0.22), ("stripes", 0.10), ("cover", 0.25))
    }
    return {
        **normal,
        **colors,
        "shift_y": scale["shift"] * random.standard_normal(count),
        "stripe_angle": random.uniform(0, np.pi, count),
        "stripe_step": random.uniform(3, 14, count),
        "stripe_phase": random.uniform(0, 2 * np.pi, count),
        "covered": (random.uniform(size=count) < scale["occlusion_share"]).astype(np.float64),
        "cover_x": random.uniform(-0.6, 0.6, count),
        "cover_y": random.uniform(-0.5, 0.7, count),
        "cover_width": random.uniform(0.15, 0.45, count),
        "cover_height": random.uniform(0.10, 0.30, count),
        "noise_seed": random.integers(0, 2**31, count).astype(np.float64),
    }


def render(identities: Values, photos: Values, image_size: int = 48) -> np.ndarray:
    """Draw one image for every row of :func:`draw_identities` and :func:`draw_photos`.

    Returns:
        ``uint8 [n, image_size, image_size, 3]``, RGB.
    """
    p, q = (
        {name: column.astype(np.float32)[:, None, None] for name, column in values.items()}
        for values in (identities, photos)
    )
    canvas = _Canvas(q, image_size)
    _paint_head(canvas, p, q)
    _paint_features(canvas, p, q)
    return _photograph(canvas, photos, q)


class _Canvas:
    """Unfinished images ``[n, size, size, 3]``, and the coordinates of every pixel in its face."""

    def __init__(self, q: Values, size: int) -> None:
        axis = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
        self.frame_x, self.frame_y = axis[None, None, :], axis[None, :, None]
        x = (self.frame_x - q["shift"]) / np.exp(q["zoom"])
        y = (self.frame_y - q["shift_y"]) / np.exp(q["zoom"])
        cos, sin = np.cos(q["turn"]), np.sin(q["turn"])
        self.x, self.y = cos * x + sin * y, cos * y - sin * x
        self.softness = 2.0 / size
        along = np.cos(q["stripe_angle"]) * self.frame_x + np.sin(q["stripe_angle"]) * self.frame_y
        wave = np.sin(q["stripe_step"] * along + q["stripe_phase"])
        self.image = np.stack([0.5 + q[f"background_{c}"] + q[f"stripes_{c}"] * wave for c in range(3)], -1)

    def paint(self, distance: np.ndarray, color: np.ndarray | list, opacity: float | np.ndarray = 1.0) -> None:
        """Cover the inside of an outline, by the signed distance to it (negative inside); the edge is a pixel soft."""
        mask = np.clip(0.5 - distance / self.softness, 0, 1) * opacity
        self.image += mask[..., None] * (_color(color) - self.image)

    def ellipse(self, x: np.ndarray, y: np.ndarray, rx: np.ndarray, ry: np.ndarray, power: float = 2.0) -> np.ndarray:
        """Approximate the signed distance to ``|(X - x) / rx|^power + |(Y - y) / ry|^power = 1``."""
        u, v = np.abs((self.x - x) / rx), np.abs((self.y - y) / ry)
        return ((u**power + v**power) ** (1.0 / power) - 1) * np.minimum(rx, ry)


def _color(color: np.ndarray | list) -> np.ndarray:
    return np.stack(np.broadcast_arrays(*color), -1) if isinstance(color, list) else color


def _paint_head(canvas: _Canvas, p: Values, q: Values) -> None:
    tone, warmth = np.tanh(p["skin"]), np.tanh(p["skin_warmth"])
    skin = [0.72 + 0.17 * tone + 0.03 * warmth, 0.55 + 0.17 * tone, 0.45 + 0.17 * tone - 0.05 * warmth]
    tone, warmth = np.tanh(p["hair"]), np.tanh(p["hair_warmth"])
    hair = [0.30 + 0.20 * tone + 0.06 * warmth, 0.22 + 0.17 * tone, 0.17 + 0.14 * tone - 0.05 * warmth]
    width, chin = p["face_width"], p["chin"]
    canvas.paint(canvas.ellipse(0, 1.35, 0.36 + 0 * width, 0.75 + 0 * width), [s * 0.86 for s in skin])
    canvas.paint(canvas.ellipse(0, -0.18, width + p["hair_side"], 0.74 + 0 * width, 2.4), hair)
    canvas.paint(canvas.ellipse(0, 0.02, width, chin - 0.02, p["jaw"]), skin)
    above = np.maximum(canvas.ellipse(0, 0.0, width + 0.03, chin, 2.2), canvas.y - p["hairline"] - 0.25 * canvas.x**2)
    canvas.paint(above, hair)
    for side in (-1, 1):
        cheek = [s + p["cheek"] * a for s, a in zip(skin, (1, -1, -1), strict=True)]
        canvas.paint(canvas.ellipse(side * 0.38, 0.25, 0.17, 0.13), cheek, 0.6)
    canvas.skin, canvas.hair = skin, hair


def _paint_features(canvas: _Canvas, p: Values, q: Values) -> None:
    skin = canvas.skin
    dark = [s * p["nose_shade"] for s in skin]
    eyelid = np.clip(1 + q["eyelid"], 0.25, 1.6)
    for side in (-1, 1):
        eye_x, eye_y = side * p["eye_distance"], p["eye_height"]
        opening = p["eye_opening"] * eyelid
        lean = eye_y + side * p["eye_tilt"] * (canvas.x - eye_x)
        canvas.paint(canvas.ellipse(eye_x, lean, p["eye_width"] + 0.03, opening + 0.03), dark, 0.6)
        eye = canvas.ellipse(eye_x, lean, p["eye_width"], opening)
        canvas.paint(eye, [np.float32(0.93)] * 3)
        iris = np.maximum(canvas.ellipse(eye_x, lean, 0.055, 0.06), eye)
        canvas.paint(iris, [p["iris"] * 0.8, p["iris"], p["iris"] * 1.1])
        along = (canvas.x - eye_x) * side
        brow_y = eye_y - p["brow_gap"] - q["brow_raise"] + p["brow_tilt"] * along + p["brow_bend"] * along**2 * 2
        brow = canvas.ellipse(eye_x, brow_y, p["eye_width"] + 0.05, np.maximum(p["brow_thickness"], 0.015))
        canvas.paint(brow, canvas.hair, 0.9)
    bottom = p["eye_height"] + p["nose_length"]
    ridge = np.maximum(
        np.abs(canvas.x) - 0.35 * p["nose_width"], np.abs(canvas.y - bottom / 2 - 0.02) - p["nose_length"] / 2
    )
    canvas.paint(ridge, [s * 1.07 for s in skin], 0.5)
    canvas.paint(canvas.ellipse(0, bottom, p["nose_width"], 0.05), dark, 0.85)
    for side in (-1, 1):
        nostril = canvas.ellipse(side * 0.55 * p["nose_width"], bottom + 0.02, 0.03, 0.022)
        canvas.paint(nostril, [s * 0.45 for s in skin])
    mouth_y = p["mouth_height"] - 2.2 * q["smile"] * canvas.x**2 * 4 + q["smile"] * 0.15
    lips = [0.66 + p["lip_shade"], 0.33 + 0.5 * p["lip_shade"], 0.33 + 0.3 * p["lip_shade"]]
    opening = np.maximum(q["open_mouth"], 0) * 0.12
    mouth_width = p["mouth_width"] * (1 + 0.6 * q["smile"])
    canvas.paint(canvas.ellipse(0, mouth_y, mouth_width, p["lip_thickness"] + opening), lips)
    mouth = canvas.ellipse(0, mouth_y, mouth_width * 0.9, 0.010 + opening)
    canvas.paint(mouth, [np.float32(0.22), np.float32(0.08), np.float32(0.08)])
    canvas.paint(canvas.ellipse(p["mole_x"], p["mole_y"], 0.035, 0.035), [s * p["mole_shade"] for s in skin], 0.9)


def _photograph(canvas: _Canvas, photos: Values, q: Values) -> np.ndarray:
    image, size = canvas.image, canvas.image.shape[1]
    u = np.abs(canvas.frame_x - q["cover_x"]) - q["cover_width"]
    v = np.abs(canvas.frame_y - q["cover_y"]) - q["cover_height"]
    canvas.paint(np.maximum(u, v), [0.5 + q[f"cover_{c}"] for c in range(3)], q["covered"])
    light = np.exp(q["gain"] + q["light_x"] * canvas.frame_x + q["light_y"] * canvas.frame_y)
    tint = np.stack([np.exp(q[f"tint_of_{c}"]) for c in range(3)], -1)
    image = image * light[..., None] * tint
    share = np.clip(np.abs(q["blur"]), 0, 1)[..., None]
    for axis in (1, 2):
        near = (np.roll(image, 1, axis) + np.roll(image, -1, axis) + image) / 3
        image = image + share * (near - image)
    strength = np.abs(q["noise"])[..., None]
    seeds = photos["noise_seed"].astype(np.int64)
    noise = np.stack([np.random.default_rng(s).standard_normal((size, size, 3), dtype=np.float32) for s in seeds])
    return (np.clip(image + strength * noise, 0, 1) * 255 + 0.5).astype(np.uint8)
