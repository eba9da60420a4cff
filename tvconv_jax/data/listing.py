"""The rule for a user's folder of data: which files are read, and which are left out and counted."""

import functools
import os
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from pathlib import Path

from tvconv_jax.utils.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png")  # of images of faces, in any case
# Of all images that the decoder reads, for sets that are not of faces.
DECODED_SUFFIXES = (
    *SUFFIXES,
    *(".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm", ".pnm"),
)
# Files and folders that systems and programs leave in folders of data, in small letters; hidden ones beside these.
JUNK_NAMES = {
    *("@eadir", "@recycle", "@tmp", "@sharebin", "#recycle", "#snapshot"),  # network storage
    *("__macosx", "icon\r", "network trash folder", "temporary items"),  # macOS
    *("$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"),  # Windows
    *("lost+found", "__pycache__"),
}
# All images, also in formats that training does not read.
IMAGE_SUFFIXES = {
    *DECODED_SUFFIXES,
    *(".avif", ".heic", ".heif", ".jp2"),
}
# Reasons to leave something out, as a note counts them.
JUNK = "hidden or system files or folders"
BROKEN = "dangling links"
LOOP = "links back to a folder above"
TWICE = "links to a folder that stands beside them"
ODD = "pipes, sockets or devices"
OTHER = "files that are not {}"
DEEP = "images one folder too deep"
BESIDE = "images beside the folders of identities"
EMPTY = "folders without images"


class LeftOut:
    """Files and folders that are left out of a folder of data, by reason."""

    def __init__(self) -> None:
        self.paths: dict[str, list[Path]] = {}

    def add(self, reason: str, *paths: Path) -> None:
        """Count files or folders under a reason."""
        if paths:
            self.paths.setdefault(reason, []).extend(paths)

    def notes(self, base: Path) -> list[str]:
        """Return one line with the count and the first example of every reason; none if nothing is left out."""
        counts = [
            f"{len(paths)} {reason} ({_shown(min(paths), base)}{', ...' if paths[1:] else ''})"
            for reason, paths in self.paths.items()
        ]
        return [f"left out of {base}: {'; '.join(counts)}"] if counts else []


def _shown(path: Path, base: Path) -> str:
    return printable(str(path.relative_to(base) if path.is_relative_to(base) else path))


def printable(name: str) -> str:
    """Return a file's name, escaped if it would not fit into one line."""
    return name if name.isprintable() else ascii(name)[1:-1]


def is_junk(name: str) -> bool:
    """Return whether a file or folder of this name is hidden, or left by a system or another program."""
    return name.startswith((".", "~$")) or name.casefold() in JUNK_NAMES


def scan(folder: Path, left_out: LeftOut, above: Collection[tuple[int, int]] = ()) -> tuple[list[Path], list[Path]]:
    """List the folders and the regular files in a folder, links to them included, each sorted by name.

    Junk, broken links, sockets and the like go to ``left_out``, and so do links back to folders in ``above``, given by
    device and inode.

    Raises:
        UserError: If the folder cannot be read.
    """
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        if not os.access(folder, os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise UserError(
            f"{folder} cannot be read ({error.strerror}), so what is in it would be lost; correct its permissions, "
            f"or move it elsewhere."
        ) from None
    for entry in found:
        path = folder / entry.name
        reason = JUNK if is_junk(entry.name) else _defect(entry, above)
        if reason:
            left_out.add(reason, path)
        else:
            (folders if entry.is_dir() else files).append(path)
    return _once(folders, left_out), files


def _once(folders: list[Path], left_out: LeftOut) -> list[Path]:
    """Drop links to another of these folders: its images would count twice, for two identities."""
    links = [path for path in folders if path.is_symlink()]
    known = {inode(path) for path in folders if not path.is_symlink()} if links else set()
    for link in links:
        if inode(link) in known:
            left_out.add(TWICE, link)
            folders.remove(link)
        known.add(inode(link))
    return folders


def _defect(entry: os.DirEntry, above: Collection[tuple[int, int]]) -> str:
    """Return the reason to leave out an entry; empty if it is a folder or a file to read."""
    try:
        if entry.is_dir():
            return LOOP if entry.is_symlink() and inode(entry.path) in above else ""
        if entry.is_file():
            return ""
        return ODD if os.path.exists(entry.path) else BROKEN
    except OSError:  # a link to itself, or into a folder that cannot be read
        return BROKEN


def inode(folder: str | Path) -> tuple[int, int]:
    """Return device and inode of a folder."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def walk(base: Path, left_out: LeftOut, above: Collection[tuple[int, int]] = ()) -> Iterator[Path]:
    """Yield the regular files of a folder at any depth, following links but never in a circle; see :func:`scan`."""
    above = {*above, inode(base)} if base.is_dir() else above
    folders, files = scan(base, left_out, above)
    yield from files
    for folder in folders:
        yield from walk(folder, left_out, above)


def check_once(files: Iterable[tuple[Path, Hashable]]) -> None:
    """Raise a ``UserError`` if links or paths such as ``a/../b`` lead from two places to one file.

    Args:
        files: Each with the place it is counted in, such as its class.
    """
    parent, known = functools.cache(os.path.realpath), {}
    for path, place in files:
        real = os.path.realpath(path) if path.is_symlink() else os.path.join(parent(path.parent), path.name)
        other, there = known.setdefault(real, (path, place))
        if place != there:
            raise UserError(
                f"{printable(str(path))} and {printable(str(other))} are one file, by a link or another path, and "
                f"would be in two classes, or both trained and tested on; keep one of them."
            )


def named(base: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    """List the regular files directly in a folder for which ``wanted`` is true, sorted, without junk.

    Raises:
        UserError: If the folder cannot be read, or something that is not a file has such a name.
    """
    if not base.is_dir():
        return []
    left_out = LeftOut()
    folders, files = scan(base, left_out)
    for reason, paths in (*left_out.paths.items(), ("folders", folders)):
        for path in filter(wanted, paths if reason != JUNK else ()):
            raise UserError(f"{path} must be a file, but is among the {reason}; mend, rename or remove it.")
    return [path for path in files if wanted(path)]


def select(files: list[Path], suffixes: tuple[str, ...], left_out: LeftOut) -> list[Path]:
    """Select the files with one of these suffixes, in any case; the others are counted."""
    left_out.add(OTHER.format(", ".join(suffixes)), *(path for path in files if path.suffix.lower() not in suffixes))
    return [path for path in files if path.suffix.lower() in suffixes]


def flat(
    folder: Path, suffixes: tuple[str, ...], left_out: LeftOut, above: Collection[tuple[int, int]] = ()
) -> list[Path]:
    """List the images directly in a folder, sorted; those that lie deeper or have another suffix are counted."""
    if not folder.is_dir():
        return []
    above = {*above, inode(folder)}
    folders, files = scan(folder, left_out, above)
    images = select(files, suffixes, left_out)
    for deeper in folders:
        deep = [path for path in walk(deeper, left_out, above) if path.suffix.lower() in suffixes]
        left_out.add(DEEP if deep else EMPTY, *(deep or [deeper]))
    return images


def identity_images(base: Path, suffixes: tuple[str, ...], left_out: LeftOut, ignore: Collection[str]) -> list[Path]:
    """List the images in folders of their identities, ``base/<identity>/*``, sorted, without folders in ``ignore``.

    Raises:
        UserError: If an identity has images, but none where they are read.
    """
    if not base.is_dir():
        return []
    above = {inode(base)}
    folders, files = scan(base, left_out, above)
    left_out.add(BESIDE, *(path for path in files if path.suffix.lower() in suffixes))
    images = [_images_of(folder, suffixes, left_out, above) for folder in folders if folder.name not in ignore]
    return sorted(path for found in images for path in found)


def _images_of(
    identity: Path, suffixes: tuple[str, ...], left_out: LeftOut, above: Collection[tuple[int, int]]
) -> list[Path]:
    lost = LeftOut()
    images = flat(identity, suffixes, lost, above)
    if not images:
        _check_nothing_is_lost(identity, suffixes, lost)
        lost.add(EMPTY, identity)
    for reason, paths in lost.paths.items():
        left_out.add(reason, *paths)
    return images


def _check_nothing_is_lost(identity: Path, suffixes: tuple[str, ...], lost: LeftOut) -> None:
    """Raise if an identity without images has some in the wrong place, in another format or behind dead links."""
    hints = {
        DEEP: f"move them up into {identity.name}/, or name it as the set if they are identities",
        BROKEN: "mend the links",
        OTHER.format(", ".join(suffixes)): "convert them",
    }
    for reason, hint in hints.items():
        if found := [path for path in lost.paths.get(reason, ()) if path.suffix.lower() in IMAGE_SUFFIXES]:
            raise UserError(
                f"{printable(str(identity))} would be lost as an identity: it holds {reason} ({len(found)}, "
                f"such as {_shown(found[0], identity)}); {hint}, or move the folder elsewhere."
            )
