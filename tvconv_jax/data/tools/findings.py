"""What in a set of faces costs accuracy, from a look at every picture."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tvconv_jax.data.sets import FaceSet
from tvconv_jax.data.source import Source
from tvconv_jax.data.tools.held_out import HeldOut, plain
from tvconv_jax.data.tools.image_stats import Look, digest

UNALIGNED = 0.1  # share of faces without eyes where they should be, above which a set is not aligned
SHOWN_EQUAL = 4  # names of equal files in a line; an image of which a site has thousands would fill the screen


class Finding(NamedTuple):
    """Something that costs accuracy.

    Attributes:
        text: What it is, for people.
        names: The pictures or identities; of equal files all names.
        indices: The pictures, for the contact sheet.
    """

    text: str
    names: Sequence[str | Sequence[str]] = ()
    indices: Sequence[int] = ()

    def line(self, count: int | None) -> str:
        """The text, how many, and the first ``count`` names, or all of them."""
        if not self.names:
            return self.text
        more = ", ..." if len(self.names[:count]) < len(self.names) else ""
        shown = (name if isinstance(name, str) else _equal(name, count and SHOWN_EQUAL) for name in self.names[:count])
        return f"{self.text}, {len(self.names):,}: {', '.join(shown)}{more}"


def _equal(names: Sequence[str], count: int | None) -> str:
    """Names of equal files, the first ``count`` or all of them."""
    more = f" = ... ({len(names):,} in all)" if len(names[:count]) < len(names) else ""
    return " = ".join(names[:count]) + more


def findings(source: Source, faces: FaceSet | None, looks: Sequence[Look], side: int) -> Iterator[Finding]:
    """What the looks at a set tell.

    Args:
        source: The pictures.
        faces: The training set that they are; ``None`` for a test set.
        looks: One at every picture.
        side: Side that pictures should have.
    """
    read = [index for index, entry in enumerate(looks) if not entry.error]
    yield from _unreadable(source, looks)
    if faces:  # in a test set a picture stands in many pairs
        yield from _duplicates(faces, looks)
    swapped = sorted((index for index in read if looks[index].swapped), key=lambda index: looks[index].warmth)
    if len(swapped) > sum(not looks[index].gray for index in read) / 2:
        yield Finding("most faces are bluer than skin: red and blue seem to be swapped (BGR)", (), swapped)
    else:
        text = "faces bluer than skin (are red and blue swapped, BGR?), bluest first"
        yield from _pictures(source, text, swapped)
    unaligned = [index for index in read if looks[index].eyes <= 0]
    if len(unaligned) > UNALIGNED * len(read):
        text = f"the eyes of {len(unaligned) / len(read):.0%} are not where the template has them: align the set first"
        yield Finding(text, (), unaligned)
    turned = [index for index in read if looks[index].turned]
    yield from _pictures(source, "pictures that viewers turn (EXIF), and training does not: save them turned", turned)
    others = [index for index in read if looks[index].size != (side, side)]
    yield from _pictures(source, f"pictures that are not {side}x{side}", others)


def overlap(faces: FaceSet, looks: Sequence[Look], test: HeldOut) -> Iterator[Finding]:
    """What a training set shares with a test set: people by their names, and pictures by their bytes."""
    known = {plain(name) for name in test.identities}
    both = [name for name in faces.identities if faces.named and not name.isdigit() and plain(name) in known]
    if both:
        yield Finding(f"identities that are also in the test set {test.name}", both)
    index_of = {entry.digest: index for index, entry in enumerate(looks)}
    digests = (digest(test.source[index]["image"]) for index in range(len(test.source)))
    shared = sorted({index_of[found] for found in digests if found in index_of})
    yield from _pictures(faces.source, f"pictures that are also in the test set {test.name}", shared)


def _pictures(source: Source, text: str, indices: Sequence[int]) -> Iterator[Finding]:
    if indices:
        yield Finding(text, [source.name(index) for index in indices], indices)


def _unreadable(source: Source, looks: Sequence[Look]) -> Iterator[Finding]:
    indices = [index for index, entry in enumerate(looks) if entry.error]
    if indices:  # of the cause what comes before the way out
        names = [f"{source.name(index)} ({looks[index].error.split(';')[0]})" for index in indices]
        yield Finding("pictures that cannot be read", names, indices)


def _duplicates(faces: FaceSet, looks: Sequence[Look]) -> Iterator[Finding]:
    """The same bytes more than once; worse, under several identities."""
    groups = defaultdict(list)
    for index, entry in enumerate(looks):
        groups[entry.digest].append(index)
    found = {"pictures that stand under several identities": [], "pictures that stand there twice": []}
    for group in (group for group in groups.values() if len(group) > 1):
        found[list(found)[int(len(set(faces.labels[group].tolist())) == 1)]].append(group)
    for text, same in found.items():
        names = [[faces.source.name(index) for index in group] for group in same]
        if names:
            yield Finding(text, names, [index for group in same for index in group])
