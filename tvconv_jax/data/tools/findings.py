"""Defects of a set of faces that cost accuracy, from the statistics of its images."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tvconv_jax.data.sets import FaceSet
from tvconv_jax.data.source import Source
from tvconv_jax.data.subset import read_include_list, short_name
from tvconv_jax.data.tools.held_out import HeldOut, simplify
from tvconv_jax.data.tools.image_stats import ImageStats, digest

MAX_UNALIGNED = 0.1  # of a set that is aligned, share of faces without eyes at their places
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


def _equal(names: Sequence[str], count: int | None) -> str:
    more = f" = ... ({len(names):,} in all)" if len(names[:count]) < len(names) else ""
    return " = ".join(names[:count]) + more


def find_defects(source: Source, faces: FaceSet | None, stats: Sequence[ImageStats], size: int) -> Iterator[Finding]:
    """Yield the defects of a set, whose images should have ``size`` pixels; ``faces`` is ``None`` for a test set."""
    read = [index for index, entry in enumerate(stats) if not entry.error]
    yield from _unreadable(source, stats)
    if faces:  # in a test set an image belongs to many pairs
        yield from _duplicates(faces, stats)
    swapped = sorted((index for index in read if stats[index].swapped), key=lambda index: stats[index].warmth)
    if len(swapped) > sum(not stats[index].gray for index in read) / 2:
        yield Finding("most faces are bluer than skin: red and blue seem to be swapped (BGR)", (), swapped)
    else:
        text = "faces bluer than skin (are red and blue swapped, BGR?), bluest first"
        yield from _images(source, text, swapped)
    unaligned = [index for index in read if stats[index].eyes <= 0]
    if len(unaligned) > MAX_UNALIGNED * len(read):
        text = f"the eyes of {len(unaligned) / len(read):.0%} are not where the template has them: align the set first"
        yield Finding(text, (), unaligned)
    rotated = [index for index in read if stats[index].rotated]
    yield from _images(source, "images that viewers rotate (EXIF), and training does not: save them rotated", rotated)
    others = [index for index in read if stats[index].size != (size, size)]
    yield from _images(source, f"images that are not {size}x{size}", others)


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
    yield from _images(faces.source, f"images that are also in the test set {test.name}", shared)


def _images(source: Source, text: str, indices: Sequence[int]) -> Iterator[Finding]:
    if indices:
        yield Finding(text, [source.name(index) for index in indices], indices)


def _unreadable(source: Source, stats: Sequence[ImageStats]) -> Iterator[Finding]:
    indices = [index for index, entry in enumerate(stats) if entry.error]
    if indices:  # the cause without the hint
        names = [f"{source.name(index)} ({stats[index].error.split(';')[0]})" for index in indices]
        yield Finding("images that cannot be read", names, indices)


def _duplicates(faces: FaceSet, stats: Sequence[ImageStats]) -> Iterator[Finding]:
    groups = defaultdict(list)
    for index, entry in enumerate(stats):
        groups[entry.digest].append(index)
    equal = [group for group in groups.values() if len(group) > 1]
    for text, one_identity in (("equal images of several identities", False), ("equal images of one identity", True)):
        found = [group for group in equal if (len(set(faces.labels[group].tolist())) == 1) == one_identity]
        if found:
            names = [[faces.source.name(index) for index in group] for group in found]
            yield Finding(text, names, [index for group in found for index in group])
