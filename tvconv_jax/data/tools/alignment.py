"""Alignment of faces by five landmarks: a similarity transform to the field's template."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tvconv_jax.data.decoder import ImageError, as_seen, encode, read_image
from tvconv_jax.data.listing import JUNK, is_junk
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import posix, read_lines, write_bytes
from tvconv_jax.utils.progress import track

# Left eye, right eye (as seen in the image), nose tip, left and right corner of the mouth: x, y in pixels of a
# 112x112 image. Source: deepinsight/insightface, python-package/insightface/utils/face_align.py, arcface_dst.
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
TEMPLATE_SIZE = 112
MAX_DISTANCE, MIN_SPREAD = 1e6, 1e-3  # pixels: landmarks far outside of an image, and all at one place
QUALITY = 95  # of JPEGs


class Landmarks(NamedTuple):
    """Five points of one image."""

    file: str  # path within the source folder
    points: np.ndarray  # float64 [5, 2], x and y in pixels, in the order of TEMPLATE


def similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the similarity transform (rotation, scale, translation; no mirroring) that fits points to a target.

    Both are ``[n, 2]``, the result is ``float64 [2, 3]``: ``target ~ m[:, :2] @ point + m[:, 2]``, least squares. A
    ``ValueError`` is raised if all points are the same.

    Source: the closed form for the plane, with points as complex numbers. ``scale * e^(i angle)`` is the regression
    coefficient of the centered target on the centered points. It equals Umeyama (1991) without mirroring.
    """
    z, w = (array[:, 0] + 1j * array[:, 1] for array in (np.asarray(points, float), np.asarray(target, float)))
    centered = z - z.mean()
    spread = np.vdot(centered, centered).real
    if not spread > 0:
        raise ValueError("all points are the same")
    a = np.vdot(centered, w - w.mean()) / spread
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def align_face(image: np.ndarray, points: np.ndarray, size: int = TEMPLATE_SIZE) -> np.ndarray:
    """Return an aligned face ``uint8 [size, size, 3]``, bicubic, black outside of the image ``uint8 [h, w, 3]``.

    The points ``[5, 2]``, x and y in pixels, are in the order of :data:`TEMPLATE`, which is scaled to ``size``.
    """
    # Landmarks count from the middle of the first pixel, Pillow from its corner.
    points, target = np.asarray(points, float) + 0.5, TEMPLATE * size / TEMPLATE_SIZE + 0.5
    opened, scale = Image.fromarray(image), np.hypot(*similarity(points, target)[:, 0])
    factor = max(1, int(1 / scale))  # a warp samples single pixels, so a large image is averaged down before
    if factor > 1:
        opened = opened.reduce(factor)
    matrix = similarity(points / factor, target)
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    return np.asarray(opened.transform((size, size), Image.Transform.AFFINE, inverse.ravel(), Image.Resampling.BICUBIC))


def read_landmarks(path: Path) -> list[Landmarks]:
    """Read a list of landmarks: ``file x1 y1 x2 y2 x3 y3 x4 y4 x5 y5`` a line, by tabs, blanks or commas."""
    lines = read_lines(path, "name a list of landmarks")
    return [_landmarks(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _landmarks(path: Path, number: int, line: str) -> Landmarks:
    for mark in ("\t", ",", None):
        file, *numbers = line.strip().split(mark)
        if len(numbers) == 10:
            break
    try:
        points = np.array(numbers, float).reshape(5, 2)
    except ValueError:
        points = np.full((5, 2), np.nan)
    file = posix(file)
    parts = Path(file).parts
    if not np.abs(points).max() <= MAX_DISTANCE or np.ptp(points, axis=0).max() < MIN_SPREAD:
        raise UserError(f"{path}:{number}: {line!r} must be 'file x1 y1 ... x5 y5', five points; correct it.")
    if ".." in parts or Path(file).is_absolute():
        raise UserError(f"{path}:{number}: {file!r} must lie within the source folder; correct it.")
    return Landmarks(file, points)


def align(source: Path, landmarks: Path, target: Path, *, size: int = TEMPLATE_SIZE) -> str:
    """Align the images of a folder for which a list has landmarks; return a line on the outcome.

    Args:
        source: The folder. Images are rotated by their EXIF data, as viewers show them.
        landmarks: The list; see :func:`read_landmarks`.
        target: The folder to write, JPEGs of quality 95 under the same names; existing images are kept.
        size: Height and width of the aligned faces in pixels, 112 or 96 by custom.

    Raises:
        UserError: If the list is missing or has lines of another form, none of the listed images exists, two of them
            would get one name, or the target is the source.
    """
    if target.resolve() == source.resolve():
        raise UserError(f"{target} is the folder of the images themselves; name another one to write.")
    found = read_landmarks(landmarks)
    listed = [entry for entry in found if not any(map(is_junk, Path(entry.file).parts))]
    exist = [entry for entry in listed if os.path.isfile(source / entry.file)]
    if not exist:
        raise UserError(f"none of the {len(listed)} images of {landmarks} is in {source}; name their common folder.")
    there, bad = _align_all(source, target, _targets(landmarks, exist), size)
    counts = (
        (there, f"were in {target} already"),
        (len(listed) - len(exist), f"of {landmarks} are not in {source}"),
        (len(found) - len(listed), f"of {landmarks} are {JUNK}: left out"),
        (len(bad), f"cannot be read: {', '.join(bad[:3])}{' ...' if bad[3:] else ''}"),
    )
    lines = [f"{len(exist) - there - len(bad)} faces aligned to {size}x{size}"]
    return "; ".join([*lines, *(f"{count} {text}" for count, text in counts if count)])


def _align_all(source: Path, target: Path, targets: dict[Path, Landmarks], size: int) -> tuple[int, list[str]]:
    """Return the number of images that were aligned before, and the files that cannot be read."""
    there, bad = 0, []
    for path, entry in track(targets.items(), total=len(targets), text="Aligning"):
        if (target / path).exists():
            there += 1
            continue
        try:
            face = align_face(as_seen(read_image(source / entry.file)), entry.points, size)
        except ImageError:
            bad.append(entry.file)
            continue
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target / path, encode(face, "JPEG", quality=QUALITY), durable=False)
    return there, bad


def _targets(landmarks: Path, entries: Sequence[Landmarks]) -> dict[Path, Landmarks]:
    targets: dict[Path, Landmarks] = {}
    for entry in entries:
        path = Path(entry.file).with_suffix(".jpg")
        if path in targets:
            raise UserError(
                f"{landmarks} lists {targets[path].file} and {entry.file}, which would both become {path}; remove one "
                f"of them, or rename it."
            )
        targets[path] = entry
    return targets
