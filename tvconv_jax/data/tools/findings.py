"""Defects of a set of faces that cost accuracy, from the statistics of its images."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tvconv_jax.data.sets import FaceSet
from tvconv_jax.data.source import Source
from tvconv_jax.data.subset import read_include_list, short_name
from tvconv_jax.data.tools.held_out import HeldOut, simplify
from tvconv_jax.data.tools.image_stats import ImageStats, digest

# Of a set that is aligned, least share of faces with eyes at their places: darker than the cheeks, as in photographs,
# or with more detail, as in drawings too. See ImageStats.
MIN_DARK, MIN_DRAWN = 0.9, 0.8
ROTATED = "images that viewers rotate (EXIF), and training does not: save them rotated"
MAX_EQUAL = 4  # names of equal files in a line


class Finding(NamedTuple):
    """A defect of a set."""

    text: str
    names: Sequence[str | Sequence[str]] = ()  # of images or identities; a sequence of names stands for equal files
    indices: Sequence[int] = ()  # of the images, for the contact sheet

    def line(self, count: int | None) -> str:
        """Return the text, the number of names, and the first ``count`` names, or all of them."""
        if not self.names:
            return self.text
        more = ", ..." if len(self.names[:count]) < len(self.names) else ""
        shown = (name if isinstance(name, str) else _equal(name, count and MAX_EQUAL) for name in self.names[:count])
        return f"{self.text}, {len(self.names):,}: {', '.join(shown)}{more}"


def eyes_in_place(stats: Sequence[ImageStats]) -> tuple[float, float]:
    """Return the shares of faces whose eyes' places are darker than the cheeks, and of those with more detail there."""
    if not stats:
        return 0.0, 0.0
    return float(np.mean([entry.eyes > 0 for entry in stats])), float(np.mean([entry.detail > 1 for entry in stats]))


def _equal(names: Sequence[str], count: int | None) -> str:
    more = f" = ... ({len(names):,} in all)" if len(names[:count]) < len(names) else ""
    return " = ".join(names[:count]) + more


def find_defects(
    source: Source, faces: FaceSet | None, stats: Sequence[ImageStats], size: int | None, *, template: bool = True
) -> Iterator[Finding]:
    """Yield the defects of a set.

    Args:
        source: The images.
        faces: Their identities; ``None`` for a test set.
        stats: Of each image.
        size: Height and width that the images should have; ``None``: any.
        template: Whether they are faces that should be aligned to the template.
    """
    read = [index for index, entry in enumerate(stats) if not entry.error]
    yield from unreadable(source, stats)
    if faces:  # in a test set an image belongs to many pairs
        yield from equal_files(faces.source, faces.labels, stats)
    if template:
        yield from _face_defects(source, stats, read)
    rotated = [index for index in read if stats[index].rotated]
    yield from named_images(source, ROTATED, rotated)
    if size:
        yield from _other_sizes(source, stats, read, size)


def _face_defects(source: Source, stats: Sequence[ImageStats], read: Sequence[int]) -> Iterator[Finding]:
    swapped = sorted((index for index in read if stats[index].swapped), key=lambda index: stats[index].warmth)
    if len(swapped) > sum(not stats[index].gray for index in read) / 2:
        yield Finding("most faces are bluer than skin: red and blue seem to be swapped (BGR)", (), swapped)
    else:
        text = "faces bluer than skin (are red and blue swapped, BGR?), bluest first"
        yield from named_images(source, text, swapped)
    dark, drawn = eyes_in_place([stats[index] for index in read])
    if read and dark < MIN_DARK and drawn < MIN_DRAWN:
        text = f"the eyes of {1 - max(dark, drawn):.0%} are not where the template has them: align the set first; "
        text += "if it is aligned (drawn faces, rough landmarks), look at a --sheet"
        yield Finding(text, (), [index for index in read if stats[index].eyes <= 0 and stats[index].detail <= 1])


def _other_sizes(source: Source, stats: Sequence[ImageStats], read: Sequence[int], size: int) -> Iterator[Finding]:
    others = [index for index in read if stats[index].size != (size, size)]
    sizes = {stats[index].size for index in read}
    height, width = min(sizes, default=(0, 1))
    hint = f"; --size={width} if they are meant to be {width}x{width}" if len(sizes) == 1 and height == width else ""
    yield from named_images(source, f"images that are not {size}x{size}{hint}", others)


def find_overlap(faces: FaceSet, stats: Sequence[ImageStats], test: HeldOut) -> Iterator[Finding]:
    """Yield what a training set shares with a test set: identities by their names, and images by their bytes."""
    known = {simplify(name) for name in test.identities}
    kept = set(read_include_list(test.include)) if test.include else None
    trained = faces.identities if kept is None else sorted({name.split("/")[0] for name in kept})
    both = [name for name in trained if faces.named and not name.isdigit() and simplify(name) in known]
    if both:
        yield Finding(f"identities that are also in the test set {test.name}", both)
    index_of = {entry.digest: index for index, entry in enumerate(stats)}
    digests = (digest(test.source[index]["image"]) for index in range(len(test.source)))
    shared = sorted({index_of[found] for found in digests if found in index_of})
    if kept is not None:
        shared = [index for index in shared if short_name(faces.source.name(index)) in kept]
    yield from named_images(faces.source, f"images that are also in the test set {test.name}", shared)


def named_images(source: Source, text: str, indices: Sequence[int]) -> Iterator[Finding]:
    """Yield a finding with the names of images, if there are any."""
    if indices:
        yield Finding(text, [source.name(index) for index in indices], indices)


def unreadable(source: Source, stats: Sequence[ImageStats]) -> Iterator[Finding]:
    """Yield the images that cannot be read, with the causes."""
    indices = [index for index, entry in enumerate(stats) if entry.error]
    if indices:  # the cause without the hint
        names = [f"{source.name(index)} ({stats[index].error.split(';')[0]})" for index in indices]
        yield Finding("images that cannot be read", names, indices)


def equal_files(
    source: Source, labels: np.ndarray, stats: Sequence[ImageStats], one: str = "identity", several: str = "identities"
) -> Iterator[Finding]:
    """Yield the images whose files are equal, those of several labels and those of one."""
    groups = defaultdict(list)
    for index, entry in enumerate(stats):
        groups[entry.digest].append(index)
    equal = [group for group in groups.values() if len(group) > 1]
    for text, in_one in ((f"equal images of several {several}", False), (f"equal images of one {one}", True)):
        found = [group for group in equal if (len(set(labels[group].tolist())) == 1) == in_one]
        if found:
            names = [[source.name(index) for index in group] for group in found]
            yield Finding(text, names, [index for group in found for index in group])
