"""Kinds of image sets that ``inspect`` reports on, and the guess which of them a folder is."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tvconv_jax.data.decoder import ImageError, decode, pixels, read_image
from tvconv_jax.data.formats.bin_file import is_bin
from tvconv_jax.data.formats.pairs import pair_lists
from tvconv_jax.data.listing import IMAGE_SUFFIXES, LeftOut, named, walk
from tvconv_jax.data.mask_classes import label_counts
from tvconv_jax.data.sets import packed_in
from tvconv_jax.data.tools.image_stats import GRID, ImageStats, measure
from tvconv_jax.utils.errors import UserError

# Words in the names of folders of masks, and the end of the name of a mask beside its image, without suffix.
MASK_FOLDER = re.compile(
    r"(^|[^a-z])(masks?|labels?|annotations?|segmentations?|segmentationclass|groundtruth|gt)($|[^a-z])"
)
MASK_END = re.compile(r"[_-](mask|label|segmentation|seg|gt)$")
SAMPLE = 200  # images that a guess looks at
IN_PLACE = 0.7  # share of images with detail at the eyes' places, from which on they are aligned faces
# Of faces that are not aligned yet: folders; share of images whose middle is as warm as skin, in MIN_WARMTH; most of
# the variance of pixels that the mean image explains. It explains .02 to .12 of photographs of faces, .2 to .4 of
# aligned ones, .95 of parts in one place.
MIN_FOLDERS, SKIN, MIN_WARMTH, MAX_EXPLAINED = 3, 0.4, 0.15, 0.5
FLAT, COLORS, BIN = 0.97, 16, 8  # least share of a mask's pixels in its 16 most frequent colors, in bins of 8 levels
MANY_FOLDERS = 10  # from which on folders of images may be identities
FEW = 16  # most values of an image in gray or with a palette that may be a mask


class Guess(NamedTuple):
    """A kind, and the reason for it."""

    kind: str
    reason: str


def files_of(base: Path, left_out: LeftOut) -> list[Path]:
    """Return the images at any depth of a folder, sorted."""
    return sorted(path for path in walk(base, left_out) if path.suffix.lower() in IMAGE_SUFFIXES)


def is_mask(path: Path, base: Path) -> bool:
    """Return whether an image lies in a folder of masks, or its name ends as that of a mask."""
    folders = path.relative_to(base).parts[:-1]
    return bool(MASK_END.search(path.stem.lower()) or any(MASK_FOLDER.search(folder.lower()) for folder in folders))


def check_any(base: Path, files: Sequence[Path]) -> None:
    """Raise a ``UserError`` if a folder holds no images."""
    if not files:
        raise UserError(f"{base} holds no images, in folders or beside them; name a folder of images.")


def guess(base: Path) -> Guess:
    """Guess the kind of a folder by the names of its folders, and by a sample of its images.

    Raises:
        UserError: If there are neither images nor test sets in it.
    """
    if packed_in(base):
        return Guess("faces", "there is a train.rec")
    files = files_of(base, LeftOut())
    tests = bool(pair_lists(base) or named(base, is_bin))
    if not tests:
        check_any(base, files)
    masks = [path for path in files if is_mask(path, base)]
    if masks and np.mean([_is_flat(image) for image in _read(masks)] or [0]) > 0.5:
        return Guess("masks", f"images of few colors in {masks[0].parent.name}")
    images = _read(files)
    if images and all(_has_few_values(image) for image in images):
        return Guess("masks", "all images are gray or have a palette, of few values")
    stats = [entry for entry in map(measure, images) if not entry.error]
    placed = float(np.mean([entry.detail > 1 for entry in stats])) if stats else 0.0
    if placed >= IN_PLACE:
        return Guess("faces", f"eyes where the 112x112 template has them in {placed:.0%} of {len(stats)} images")
    if not stats:
        return Guess("faces", "no image can be read")
    if _may_be_photographs(files, images, stats):
        return Guess("faces", "folders of images with skin color in the middle, not aligned")
    text = f"eyes where the template of faces has them in {placed:.0%} only; if they are faces: --kind=faces"
    if tests:
        return Guess("identities", f"there are sets of pairs, and {text}")
    if len({path.parent for path in files}) >= MANY_FOLDERS:
        text += "; if each folder is one identity: --kind=identities"
    return Guess("images", text)


def _read(files: Sequence[Path]) -> list[bytes]:
    """Return the content of some files, of up to 200 the same ones every time."""
    chosen = np.random.default_rng(0).permutation(len(files))[:SAMPLE]
    found = []
    for index in sorted(chosen.tolist()):
        try:
            found.append(read_image(files[index]))
        except ImageError:
            continue
    return found


def _may_be_photographs(files: Sequence[Path], images: Sequence[bytes], stats: Sequence[ImageStats]) -> bool:
    warm = np.mean([entry.warmth > MIN_WARMTH for entry in stats])
    return len({path.parent for path in files}) >= MIN_FOLDERS and warm >= SKIN and _explained(images) <= MAX_EXPLAINED


def _explained(images: Sequence[bytes]) -> float:
    """Return the share of the variance of pixels, of images in gray of equal contrast, that their mean explains."""
    total, count = np.zeros((GRID, GRID)), 0
    for image in images:
        try:
            light = decode(image, GRID).astype(np.float64).mean(-1)
        except ImageError:
            continue
        total += (light - light.mean()) / max(light.std(), 1.0)
        count += 1
    return float(np.square(total / max(count, 1)).mean())


def _is_flat(image: bytes) -> bool:
    """Return whether nearly all pixels are of a few colors, even if a lossy format blurred them."""
    try:
        colors = (pixels(image) // BIN).astype(np.int64) @ (1 << 16, 1 << 8, 1)
    except ImageError:
        return False
    _, counts = np.unique(colors, return_counts=True)
    return bool(np.sort(counts)[-COLORS:].sum() >= FLAT * colors.size)


def _has_few_values(image: bytes) -> bool:
    try:
        found = label_counts(image)
    except ImageError:
        return False
    return len(found) <= FEW and not any(value.startswith("#") for value in found)
