"""Test sets as far as training data must keep away from them: whose faces they show, and in which files."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tvconv_jax.data.bin_file import BinFaces
from tvconv_jax.data.records import Source
from tvconv_jax.data.sets import LooseFiles
from tvconv_jax.errors import UserError


class HeldOut(NamedTuple):
    """A test set.

    Attributes:
        name: Of the set.
        source: Its pictures, as far as they are there.
        identities: Names of the people in it, where it says them.
        missing: Pictures that it lists and that are not beside it.
    """

    name: str
    source: Source
    identities: Sequence[str]
    missing: Sequence[str] = ()


def open_held_out(text: str | Path) -> list[HeldOut]:
    """Opens test sets.

    Args:
        text: A ``.bin``; ``<set>_pair.txt`` or LFW's ``pairs.txt``, with or without the pictures beside it; any other
            text file, one person a line; or a folder of these.

    Raises:
        UserError: If there is nothing of the kind.
    """
    path = Path(text)
    if path.is_dir():
        found = beside(path)
    elif path.suffix == ".bin":
        faces = BinFaces(path)
        found = [HeldOut(path.stem, faces, ())]
    else:
        found = [_from_list(path)]
    if not found:
        raise UserError(f"{path} holds no test sets; name a .bin, a list of pairs or a list of people.")
    return found


def beside(base: Path) -> list[HeldOut]:
    """The test sets of a folder: every ``<set>.bin``, ``<set>_pair.txt`` and LFW's ``pairs.txt``."""
    lists = sorted([*base.glob("*_pair.txt"), *base.glob("pairs.txt"), *base.glob("*.bin")])
    return [entry for path in lists for entry in open_held_out(path)]


def _from_list(path: Path) -> HeldOut:
    try:
        lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); name a .bin, a list of pairs or a list of people.") from None
    if path.name == "pairs.txt":
        name, pictures = "lfw", [picture for line in lines for picture in _of_lfw(line)]
    elif path.name.endswith("_pair.txt"):
        name, pictures = path.name.removesuffix("_pair.txt"), [picture for line in lines for picture in line[:2]]
    else:
        return HeldOut(path.stem, LooseFiles([]), sorted({" ".join(line) for line in lines}))
    pictures = dict.fromkeys(pictures)
    files = {picture: path.parent / name / picture for picture in pictures}
    there = {picture: file for picture, file in files.items() if file.is_file()}
    missing = [picture for picture in files if picture not in there]
    return HeldOut(
        name, LooseFiles(list(there.values())), sorted({identity_of(picture) for picture in pictures}), missing
    )


def _of_lfw(line: list[str]) -> list[str]:
    """Pictures of ``name 1 2`` or ``name 1 other 2``."""
    if len(line) not in (3, 4):
        return []
    people = (line[0], line[0 if len(line) == 3 else 2])
    return [f"{person}/{person}_{n.zfill(4)}.jpg" for person, n in zip(people, (line[1], line[-1]), strict=True)]


def identity_of(picture: str) -> str:
    """Whose face a file shows: the folder that it lies in, or its name without the number at the end."""
    path = Path(picture)
    return path.parent.name or re.sub(r"[_-]?\d+$", "", path.stem)


def plain(name: str) -> str:
    """A name as it compares: small letters and digits."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())
