"""Photographs of synthetic faces, not aligned: rotated, scaled and shifted before a background.

python tests/photographs.py OUT --identities=12 --images=5 --seed=0 [--landmarks]

writes ``OUT/<identity>/<image>.jpg``, and with ``--landmarks`` their true landmarks to ``OUT/landmarks.txt``.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # a checkout that is not installed

from tvconv_jax.data.synthetic import faces
from tvconv_jax.data.synthetic.face_rendering import render

WIDTH, HEIGHT = 320, 280
# Ranges of a photograph: radians, half images, share of the image that a drawing of a face alone fills.
TURN, SHIFT, ZOOM = 0.25, 0.3, (0.4, 0.6)
# Nuisances that hide a face from a detector, which are a training's matter.
MILD = {"gain": 0.5, "light_x": 0.5, "light_y": 0.5, "tint": 0.5, "noise": 0.3, "eyelid": 0.6, "occlusion_share": 0.0}


def draw(identities, images, seed, size=WIDTH):
    """Draw photographs of some identities.

    Returns:
        ``uint8 [identities, images, h, size, 3]`` and landmarks ``[identities, images, 5, 2]``.
    """
    random = np.random.default_rng(seed)
    people = faces.draw_identities(random, identities)
    people = {name: np.repeat(values, images) for name, values in people.items()}
    photos = faces.draw_photos(random, identities * images, MILD)
    count = identities * images
    photos["turn"] = random.uniform(-TURN, TURN, count)
    photos["zoom"] = np.log(random.uniform(*ZOOM, count))
    photos["shift"] = random.uniform(-SHIFT, SHIFT, count)
    photos["shift_y"] = random.uniform(-SHIFT, SHIFT, count) / 2
    drawn = render(people, photos, size)
    cut = (size - size * HEIGHT // WIDTH) // 2
    shape = identities, images
    points = landmarks(people, photos, size) - (0, cut)
    drawn = drawn[:, cut : size - cut]
    return drawn.reshape(*shape, *drawn.shape[1:]), points.reshape(*shape, 5, 2)


def landmarks(people, photos, size):
    """True landmarks ``[n, 5, 2]`` of the images that ``render`` draws: x, y in pixels."""
    eye_x, eye_y, mouth_y = people["eye_distance"], people["eye_height"], people["mouth_height"]
    mouth_x = people["mouth_width"] * (1 + 0.6 * photos["smile"])
    corner_y = mouth_y - 8.8 * photos["smile"] * mouth_x**2 + 0.15 * photos["smile"]
    nose_y = eye_y + people["nose_length"]
    x = np.stack([-eye_x, eye_x, 0 * eye_x, -mouth_x, mouth_x], axis=1)
    y = np.stack([eye_y, eye_y, nose_y, corner_y, corner_y], axis=1)
    cos, sin = np.cos(photos["turn"])[:, None], np.sin(photos["turn"])[:, None]
    scale = np.exp(photos["zoom"])[:, None]
    placed = cos * x - sin * y, sin * x + cos * y
    frame = [scale * axis + photos[shift][:, None] for axis, shift in zip(placed, ("shift", "shift_y"), strict=True)]
    return (np.stack(frame, axis=-1) + 1) / 2 * size - 0.5


def write(folder, identities, images, seed, *, lists=False, size=WIDTH):
    """Write the photographs as JPEGs, and on request their landmarks; return the paths by identity."""
    drawn, points = draw(identities, images, seed, size)
    paths, lines = [], []
    for i in range(identities):
        name = f"identity{i:02d}"
        (folder / name).mkdir(parents=True, exist_ok=True)
        for j in range(images):
            Image.fromarray(drawn[i, j]).save(folder / name / f"{j}.jpg", quality=92)
            lines.append(f"{name}/{j}.jpg " + " ".join(f"{value:.2f}" for value in points[i, j].ravel()))
        paths.append([folder / name / f"{j}.jpg" for j in range(images)])
    if lists:
        (folder / "landmarks.txt").write_text("\n".join(lines) + "\n")
    return paths


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--identities", type=int, default=12)
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--landmarks", action="store_true")
    options = parser.parse_args()
    write(options.out, options.identities, options.images, options.seed, lists=options.landmarks)
    print(f"{options.identities * options.images} photographs of {options.identities} identities are in {options.out}")


if __name__ == "__main__":
    main()
