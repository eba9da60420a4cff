"""Synthetic faces: identities and photographs as numbers; identity lies in the geometry and shade of placed features.

An identity is a vector of numbers (``IDENTITY``: eye spacing, jaw, brows, shades, ...), a photograph another one
(``PHOTO``: light, expression, small rotation and shift, blur, occlusion, background). Both tables below set the
difficulty of the set. Coordinates: the face is centered at (0, 0), x to the right, y down, eyes near y = -0.2, chin
near y = 0.85; the image spans [-1, 1]. :mod:`tvconv_jax.data.synthetic.face_rendering` draws them.
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
