"""Alignment of faces by five landmarks of a list: a similarity transform to the field's template."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tvconv_jax.data.decoder import ImageError
from tvconv_jax.data.listing import JUNK, is_junk
from tvconv_jax.data.tools.photographs import align_photographs, write_aligned
from tvconv_jax.edge.verify import TEMPLATE, TEMPLATE_SIZE, align_face, misfit, parse_landmarks, similarity
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import read_lines
from tvconv_jax.utils.progress import track

__all__ = ["TEMPLATE", "TEMPLATE_SIZE", "Landmarks", "align", "align_face", "read_landmarks", "similarity"]


class Landmarks(NamedTuple):
    """Five points of one image."""

    file: str  # path within the source folder
    points: np.ndarray  # float64 [5, 2], x and y in pixels, in the order of TEMPLATE


def read_landmarks(path: Path) -> list[Landmarks]:
    """Read a list of landmarks: ``file x1 y1 x2 y2 x3 y3 x4 y4 x5 y5`` a line, by tabs, blanks or commas."""
    lines = read_lines(path, "name a list of landmarks")
    return [_landmarks(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _landmarks(path: Path, number: int, line: str) -> Landmarks:
    try:
        file, points = parse_landmarks(line)
    except ValueError:
        raise UserError(f"{path}:{number}: {line!r} must be 'file x1 y1 ... x5 y5', five points; correct it.") from None
    if ".." in Path(file).parts or Path(file).is_absolute():
        raise UserError(f"{path}:{number}: {file!r} must lie within the source folder; correct it.")
    return Landmarks(file, points)


def align(source: Path, landmarks: Path | None, target: Path, *, size: int = TEMPLATE_SIZE) -> str:
    """Align the images of a folder by the landmarks of a list or of a face detector; return a line on the outcome.

    Args:
        source: The folder. Images are rotated by their EXIF data, as viewers show them.
        landmarks: The list; see :func:`read_landmarks`. ``None``: the detector finds them, see
            :func:`tvconv_jax.data.tools.photographs.align_photographs`.
        target: The folder to write, JPEGs of quality 95 under the same names; existing images are kept.
        size: Height and width of the aligned faces in pixels, 112 or 96 by custom.

    Raises:
        UserError: If the list is missing or has lines of another form, none of the listed images exists, two of them
            would get one name, or the target is the source.
    """
    if target.resolve() == source.resolve():
        raise UserError(f"{target} is the folder of the images themselves; name another one to write.")
    if landmarks is None:
        return align_photographs(source, target, size)
    found = read_landmarks(landmarks)
    listed = [entry for entry in found if not any(map(is_junk, Path(entry.file).parts))]
    exist = [entry for entry in listed if os.path.isfile(source / entry.file)]
    if not exist:
        raise UserError(f"none of the {len(listed)} images of {landmarks} is in {source}; name their common folder.")
    there, bad, misfits = _align_all(source, target, _targets(landmarks, exist), size)
    counts = (
        (there, f"were in {target} already"),
        (len(listed) - len(exist), f"of {landmarks} are not in {source}"),
        (len(found) - len(listed), f"of {landmarks} are {JUNK}: left out"),
        (len(bad), f"cannot be read: {', '.join(bad[:3])}{' ...' if bad[3:] else ''}"),
        (len(misfits), "left out: " + "; ".join(f"the landmarks of {file} {misfits[file]}" for file in [*misfits][:1])),
    )
    done = len(exist) - there - len(bad) - len(misfits)
    lines = [f"{done} faces aligned to {size}x{size}"]
    return "; ".join([*lines, *(f"{count} {text}" for count, text in counts if count)])


def _align_all(
    source: Path, target: Path, targets: dict[Path, Landmarks], size: int
) -> tuple[int, list[str], dict[str, str]]:
    """Return the number of images that were aligned before, files that cannot be read, and whose landmarks misfit."""
    there, bad, misfits = 0, [], {}

    def find(image: np.ndarray, entry: Landmarks) -> np.ndarray | None:
        if fault := misfit(entry.points, image):
            misfits[entry.file] = fault
            return None
        return entry.points

    for path, entry in track(targets.items(), total=len(targets), text="Aligning"):
        if (target / path).exists():
            there += 1
            continue
        try:
            write_aligned(source / entry.file, target / path, partial(find, entry=entry), size)
        except ImageError:
            bad.append(entry.file)
    return there, bad, misfits


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
